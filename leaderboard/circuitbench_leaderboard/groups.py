"""How tasks and methods are grouped for people: tiers of tasks, tracks of methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from circuitbench.evaluation.outcome import track
from circuitbench.plugins.tiers import TIERS
from circuitbench.plugins.tiers import tier_of as known_tier
from circuitbench.results.run_row import RunRow

UNTIERED = "embedded"
"""The tier of what belongs to none, as records from before there were tiers."""

TRACKS = {
    "none": "no training",
    "same-model": "trained on the model it is scored on",
    "other-models": "trained on other models, then frozen",
}
NO_TRAINING = TRACKS["none"]


def tier_of(run: RunRow) -> str:
    """The tier that a run belongs to: by its task, its model and its seed."""
    return known_tier(run.task, run.model_name, run.seed) or UNTIERED


def preset_of(model: str) -> str:
    """A model without the planting that was drawn: ``planted-hard@7`` as ``planted-hard``."""
    return model.partition("@")[0]


def tiers_in_order(found: Iterable[str]) -> list[str]:
    """Ours from easy to hard, then others by name."""
    known: tuple[str, ...] = TIERS
    return sorted(set(found), key=lambda t: (known.index(t) if t in known else len(known), t))


def track_of(run: RunRow) -> str:
    """What the method learned on, in words: what the record says, and what really happened.

    Whoever asked training queries has trained, on the model it is scored on unless the record
    names others.
    """
    return TRACKS[track(run.info, run.values.get("training_queries"))]


def part(info: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """What a plug-in of this kind says of itself; empty where it says nothing."""
    told = info.get(kind)
    return told if isinstance(told, Mapping) else {}
