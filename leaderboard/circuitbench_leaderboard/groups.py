"""How tasks and methods are grouped for people: tiers of tasks, tracks of methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from circuitbench.results.run_row import RunRow

TIERS = ("easy", "standard", "hard", "trained", "literature")
UNTIERED = "embedded"
"""The tier of what names none: all records from before there were tiers."""

TRACKS = {
    "none": "no training",
    "same-model": "trained on the model it is scored on",
    "other-models": "trained on other models, then frozen",
}


def tier_of(run: RunRow) -> str:
    """The tier of a run's task, as its record states it."""
    told = (run.spec.get("tier"), run.info.get("tier"), part(run.info, "task").get("tier"))
    return next((tier for tier in told if tier and isinstance(tier, str)), UNTIERED)


def tiers_in_order(found: Iterable[str]) -> list[str]:
    """Ours from easy to hard, then others by name."""
    return sorted(set(found), key=lambda t: (TIERS.index(t) if t in TIERS else len(TIERS), t))


def track_of(run: RunRow) -> str:
    """What the method learned on, in words; from what training cost where a record says nothing."""
    told = part(run.info, "training").get("track")
    if isinstance(told, str) and told in TRACKS:
        return TRACKS[told]
    return TRACKS["same-model" if run.values.get("training_queries") else "none"]


def part(info: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """What a plug-in of this kind says of itself; empty where it says nothing."""
    told = info.get(kind)
    return told if isinstance(told, Mapping) else {}
