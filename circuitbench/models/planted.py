"""Planted models: transformers whose circuits are known because they were written by hand.

Every preset is a :class:`PlantedConfig` and a factory of the entry-point group
``circuitbench.models``; what follows ``@`` is the seed (``planted@3``), or ``held-out`` for a
seed that nobody could have tuned on because it is drawn when the model is built.
"""

from __future__ import annotations

import secrets

from circuitbench.errors import InvalidSpec
from circuitbench.models.base import Model
from circuitbench.models.planted_build import PlantedModel, plant
from circuitbench.models.planted_config import PlantedConfig
from circuitbench.models.planted_roles import Copies

__all__ = ["Copies", "PlantedConfig", "PlantedModel", "plant", "planted", "planted_model"]

HELD_OUT = "held-out"
SEED_BITS = 48


def planted_model(name: str, config: PlantedConfig, variant: str = "") -> Model:
    """A :class:`Model` planted from ``config`` with the seed that ``variant`` names.

    The seed is recorded in the provenance, also where it was drawn for ``held-out``.
    """
    seed = seed_of(name, variant)
    construction = plant(config, seed)
    return Model(
        name=f"{name}@{variant}" if variant else name,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        transformer=construction.transformer,
        construction=construction,
        provenance={
            "kind": "planted",
            "preset": name,
            "seed": seed,
            "held_out": variant == HELD_OUT,
        },
    )


def seed_of(name: str, variant: str) -> int:
    """The seed named by what follows ``@``: ``""`` is 0, ``held-out`` a fresh one.

    Raises :class:`InvalidSpec` for anything else that is not a non-negative integer.
    """
    if variant == "":
        return 0
    if variant == HELD_OUT:
        return secrets.randbits(SEED_BITS)
    if not (variant.isascii() and variant.isdigit()):
        raise InvalidSpec(
            f"{name}@{variant}: expected a seed (a non-negative integer) or {HELD_OUT!r}, "
            f"e.g. {name}@3"
        )
    return int(variant)


PLANTED = PlantedConfig(
    roles={
        "previous_token": Copies(2),
        "duplicate_token": Copies(2),
        "s_inhibition": Copies(2),
        "name_mover": Copies(2),
        "backup_name_mover": Copies(2),
        "negative_name_mover": Copies(1),
        "induction": Copies(3),
        "first_hop": Copies(1),
        "chain_mover": Copies(2),
        "argument_reader": Copies(1),
        "year_reader": Copies(1),
        "greater_than": Copies(2),
        "bigram": Copies(3),
        "skip_bigram": Copies(2),
        "unigram": Copies(1),
    }
)


def planted(variant: str = "") -> Model:
    """The default: 12 x 12 heads, work shared by copies, self-repair in IOI."""
    return planted_model("planted", PLANTED, variant)
