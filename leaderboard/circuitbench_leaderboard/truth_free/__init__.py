"""Do the numbers that need no truth predict those that do? From records to a page.

Only a suite whose truth is known can say.
"""
