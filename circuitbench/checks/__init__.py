"""Checks: is a task healthy, does a plug-in keep its contract, is this machine fit?"""
