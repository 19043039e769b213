"""Runs: from a spec to a record, one at a time or many."""
