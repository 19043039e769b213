"""Metrics of a discovery against a known circuit."""
