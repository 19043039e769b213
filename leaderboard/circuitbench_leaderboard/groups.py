"""How tasks and methods are grouped for people: tiers of tasks, tracks of methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from circuitbench.plugins import tiers
from circuitbench.results.run_row import RunRow

UNTIERED = "embedded"
"""The tier of what is in none: all records from before there were tiers."""

TRACKS = {
    "none": "no training",
    "same-model": "trained on the model it is scored on",
    "other-models": "trained on other models, then frozen",
}


def tier_of(run: RunRow) -> str:
    """The tier that a run's record states and its task, model and seed belong to.

    :data:`UNTIERED` where it states none, or another.
    """
    found = tiers.tier_of(run.task, run.model_name, run.seed)
    return found if found is not None and run.info.get("tier") == found else UNTIERED


def preset_of(model: str) -> str:
    """A model without the planting that was drawn: ``planted-hard@7`` as ``planted-hard``."""
    return model.partition("@")[0]


def tiers_in_order(found: Iterable[str]) -> list[str]:
    """Ours from easy to hard, then others by name."""
    known: tuple[str, ...] = tiers.TIERS
    return sorted(set(found), key=lambda t: (known.index(t) if t in known else len(known), t))


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
