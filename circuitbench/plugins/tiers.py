"""Tiers: which tasks, on which models, are compared together, and what they are planted from.

In a sweep over a tier **the planting changes with the seed**: the run with seed ``s`` is on
``PRESET@planting(tier, s)``, a number hashed from the tier's name and the seed. Seeds 0 to 199 are
never drawn: settings of methods were tuned on 100 to 199, and 0 to 99 are in examples and tests.
Of models trained on a puzzle the training seed changes likewise: ``NAME@0``, ``NAME@1`` and so on,
as many as ship, then the first again.

Names alone; imports neither tasks nor models, so that lists and tables stay cheap.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from circuitbench.core.errors import UnknownName

Tier = Literal["easy", "standard", "hard", "trained", "literature"]
TIERS: tuple[Tier, ...] = get_args(Tier)

TUNED_ON = range(100, 200)
"""The plantings that settings of methods may be tuned on."""
FIRST_DRAWN, DRAWN_BITS = 200, 48


class Place(NamedTuple):
    """A task on a model.

    ``model`` is a preset where ``drawn``, planted anew for every seed; and where there are
    ``trainings``, the name of that many models, each from a training seed of its own.
    """

    task: str
    model: str
    drawn: bool = False
    trainings: int = 0


BEHAVIOURS = ("induction", "ioi", "docstring", "greater-than", "two-hop")
"""What the planted models do."""


PROGRAMS = ("reverse", "sort", "histogram", "frac-prevs", "dyck", "most-frequent")
"""What the compiled models do."""

PUZZLES = ("trained-induction-18", "trained-two-hop", "trained-ioi", "trained-brackets")
"""What models were trained on with no circuit prescribed; the models are called the same."""
TRAININGS = 5
"""Training seeds, from 0, that ship of each of them."""


def _planted(*presets: str) -> tuple[Place, ...]:
    return tuple(Place(task, preset, True) for preset in presets for task in BEHAVIOURS)


PLACES: dict[Tier, tuple[Place, ...]] = {
    "easy": (
        *_planted("planted-easy"),
        *(Place(program, f"compiled-{program}") for program in PROGRAMS),
    ),
    "standard": (
        *_planted("planted", "planted-redundant"),
        Place("greater-than", "planted-mlp", True),
    ),
    "hard": _planted("planted-hard", "planted-graded", "planted-diffuse"),
    "trained": (
        Place("trained-induction", "trained-induction"),
        Place("siit-induction", "siit-induction"),
        Place("siit-ioi", "siit-ioi"),
        Place("siit-two-hop", "siit-two-hop"),
        *(Place(puzzle, puzzle, trainings=TRAININGS) for puzzle in PUZZLES),
    ),
    "literature": (
        Place("gpt2-induction", "gpt2"),
        Place("gpt2-ioi", "gpt2"),
        Place("gpt2-greater-than", "gpt2"),
        Place("ioi-wang", "gpt2"),
    ),
}
"""Every tier's tasks on models. This is the one place that says so."""


def places(tier: str) -> tuple[Place, ...]:
    """The tasks on models of a tier; raises :class:`UnknownName` naming the nearest."""
    for known, found in PLACES.items():
        if known == tier:
            return found
    raise UnknownName("tier", tier, TIERS)


def planting(tier: str, seed: int) -> int:
    """The seed of the planting that runs of a tier with this seed are on; 200 or more."""
    from circuitbench.core.seeding import derive_seed  # numpy takes a while

    drawn = derive_seed(seed, "planting", tier) % ((1 << DRAWN_BITS) - FIRST_DRAWN)
    return FIRST_DRAWN + drawn


def model_for(tier: str, place: Place, seed: int) -> str:
    """The name of the model that a run is on: ``planted-hard@...`` where plantings are drawn,
    ``trained-ioi@SEED`` where there are several training seeds.
    """
    if place.drawn:
        return f"{place.model}@{planting(tier, seed)}"
    return f"{place.model}@{seed % place.trainings}" if place.trainings else place.model


def tier_of(task: str, model: str, seed: int) -> Tier | None:
    """The tier that a run belongs to, None if it belongs to none.

    Where the model changes with the seed it must be the one that its tier has for its seed.
    """
    for tier, found in PLACES.items():
        for place in found:
            if place.task == task and model_for(tier, place, seed) == model:
                return tier
    return None


def preset_of(task: str, model: str, seed: int) -> str | None:
    """What the model of a run is called without its seed, if its tier has another for each seed:
    a preset, or a puzzle; None for any other.
    """
    preset, at, _ = model.partition("@")
    return preset if at and tier_of(task, model, seed) is not None else None
