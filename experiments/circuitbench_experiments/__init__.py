"""Reproductions of published experiments, with their evaluation repaired."""
