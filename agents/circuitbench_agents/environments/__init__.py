"""Environments: episodes answered by the oracle, one at a time or many at once."""
