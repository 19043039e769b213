"""What methods learn on that are trained on other models and frozen; shared by them."""

from __future__ import annotations

TASKS = ("induction", "ioi", "docstring", "greater-than", "two-hop")
"""The tasks of planted models."""


def plantings(preset: str, seeds: range) -> tuple[str, ...]:
    """Names of models of a preset; seeds 100 to 199 are for tuning and never ranked."""
    return tuple(f"{preset}@{seed}" for seed in seeds)
