"""Plug-ins: what they are, how they are found, what they say of themselves."""
