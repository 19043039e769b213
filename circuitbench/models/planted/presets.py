"""Planted models: transformers whose circuits are known because they were written by hand.

Every preset is a :class:`PlantedConfig` and a factory of the entry-point group
``circuitbench.models``; what follows ``@`` is the seed (``planted@3``), or ``held-out`` for a
seed that nobody could have tuned on because it is drawn when the model is built.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from circuitbench.core.errors import InvalidSpec
from circuitbench.core.info import Info
from circuitbench.models.base import Model
from circuitbench.models.limits import DEFAULT_LIMITS, Limits
from circuitbench.models.planted.build import PlantedModel, plant
from circuitbench.models.planted.config import PlantedConfig
from circuitbench.models.planted.fading import Fading
from circuitbench.models.planted.wiring import Copies

__all__ = ["Copies", "PlantedConfig", "PlantedModel", "plant", "planted", "planted_model"]

HELD_OUT = "held-out"
SEED_BITS = 48


def planted_model(
    name: str,
    config: PlantedConfig,
    variant: str = "",
    limits: Limits = DEFAULT_LIMITS,
) -> Model:
    """A :class:`Model` planted from ``config`` with the seed that ``variant`` names.

    The seed is part of the model's name and provenance, also where it was drawn for
    ``held-out``: asking for that name builds the same model again.
    """
    seed = seed_of(name, variant)
    construction = plant(config, seed)
    return Model(
        name=f"{name}@{seed}" if variant else name,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        transformer=construction.transformer,
        construction=construction,
        provenance={
            "kind": "planted",
            "preset": name,
            "seed": seed,
            "held_out": variant == HELD_OUT,
            "dials": construction.dials,
        },
        dials=construction.dials,
        limits=limits,
        uniform_loss=construction.language.uniform_loss,
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


LANGUAGE = {"bigram": Copies(3), "skip_bigram": Copies(2), "unigram": Copies(1)}

EASY = PlantedConfig(
    roles={
        "previous_token": Copies(1),
        "chain_previous_token": Copies(1),
        "argument_previous_token": Copies(1),
        "induction": Copies(2),
        "duplicate_token": Copies(1),
        "s_inhibition": Copies(1),
        "name_mover": Copies(2),
        "first_hop": Copies(1),
        "chain_mover": Copies(2),
        "argument_reader": Copies(1),
        "argument_mover": Copies(2),
        "year_reader": Copies(1),
        "greater_than": Copies(2),
        **LANGUAGE,
    },
    shared_tasks=False,
    lookalikes=8,
    noise=0.1,
)

PLANTED = PlantedConfig(
    roles={
        "previous_token": Copies(2),
        "induction": Copies(3),
        "duplicate_token": Copies(2),
        "s_inhibition": Copies(2),
        "name_mover": Copies(2),
        "backup_name_mover": Copies(2),
        "negative_name_mover": Copies(1),
        "first_hop": Copies(1),
        "chain_mover": Copies(2),
        "argument_reader": Copies(1),
        "year_reader": Copies(1),
        "greater_than": Copies(2),
        **LANGUAGE,
    }
)

REDUNDANT = PlantedConfig(
    roles={
        "previous_token": Copies(3, "or"),
        "induction": Copies(3),
        "duplicate_token": Copies(3, "or"),
        "s_inhibition": Copies(3, "or"),
        "name_mover": Copies(2),
        "backup_name_mover": Copies(2),
        "negative_name_mover": Copies(1),
        "first_hop": Copies(2, "or"),
        "chain_mover": Copies(2),
        "argument_reader": Copies(2, "or"),
        "year_reader": Copies(2, "or"),
        "greater_than": Copies(2),
        **LANGUAGE,
    }
)

HARD = replace(
    REDUNDANT,
    roles={
        role: Copies(min(n, 2), mode) if mode == "or" else Copies(n)
        for role, (n, mode) in REDUNDANT.roles.items()
        if role != "skip_bigram"
    },
    shared_language=True,
    lookalikes=40,
    output_noise=0.1,
    superposition=1.03,
)

MLPS = replace(
    PLANTED,
    roles={
        **{r: c for r, c in PLANTED.roles.items() if r not in ("year_reader", "greater_than")},
        "code_reader": Copies(2),
    },
    mlps={"number_code": 1, "number_table": 2},
    lookalike_mlps=4,
)

HARD_LIMITS = Limits(
    accuracy=0.95,
    tolerance=0.06,
    together=0.2,
    damaged=0.2,
    sufficiency=0.2,
    edge_sufficiency=0.2,
    control=0.62,
)
"""What superposition costs: single heads outside the truth leak into every task a little."""

FADING_LIMITS = Limits(
    sufficiency=0.25,
    edge_sufficiency=0.25,
    matters=0.005,
    edge_matters=0.002,
    against=6,
    tolerance=0.08,
    together=0.2,
    damaged=0.2,
    stability=0.5,
)
"""Where shares are unequal the smallest are small, those of edges more so; look-alikes leak."""

GRADED_LIMITS = replace(FADING_LIMITS, damaged=0.35)
"""Heads of the other tasks' circuits, stand-ins of name movers above all, wake where a soft
circuit is broken.
"""

LARGE = replace(
    REDUNDANT,
    n_layers=48,
    n_heads=25,
    roles={
        "previous_token": Copies(4, "or"),
        "induction": Copies(6),
        "duplicate_token": Copies(3),
        "s_inhibition": Copies(4, "or"),
        "name_mover": Copies(3),
        "backup_name_mover": Copies(4),
        "negative_name_mover": Copies(2),
        "first_hop": Copies(2),
        "chain_mover": Copies(4),
        "argument_reader": Copies(2, "or"),
        "year_reader": Copies(2),
        "greater_than": Copies(4),
        **LANGUAGE,
    },
    lookalikes=200,
)


GRADED = PlantedConfig(
    roles={
        "previous_token": Copies(3),
        "previous_token_stand_in": Copies(1),
        "duplicate_token": Copies(3),
        "duplicate_token_stand_in": Copies(1),
        "argument_reader": Copies(3),
        "argument_reader_stand_in": Copies(1),
        "year_reader": Copies(3),
        "year_reader_stand_in": Copies(1),
        "first_hop": Copies(3),
        "first_hop_stand_in": Copies(1),
        "s_inhibition": Copies(3),
        "s_inhibition_stand_in": Copies(1),
        "induction": Copies(4),
        "induction_stand_in": Copies(1),
        "negative_induction": Copies(1),
        "name_mover": Copies(4),
        "name_mover_stand_in": Copies(2),
        "negative_name_mover": Copies(1),
        "chain_mover": Copies(4),
        "chain_mover_stand_in": Copies(1),
        "negative_chain_mover": Copies(1),
        "greater_than": Copies(4),
        "greater_than_stand_in": Copies(1),
        "negative_greater_than": Copies(1),
        **LANGUAGE,
    },
    fading=Fading(excess=(0.0, 0.6), partial=0.3, repair=(0.2, 0.9), leak=0.02),
)

DIFFUSE = PlantedConfig(
    roles={
        f"{role}{path}": Copies(n)
        for path in ("", "_2", "_3")
        for role, n in {
            "previous_token": 4,
            "duplicate_token": 3,
            "argument_reader": 3,
            "year_reader": 4,
            "first_hop": 3,
            "s_inhibition": 3,
            "induction": 5,
            "name_mover": 3,
            "chain_mover": 3,
            "greater_than": 5,
        }.items()
    }
    | LANGUAGE,
    lookalikes=12,
    fading=Fading(partial=0.2, leak=0.02, paths=(0.36, 0.33, 0.31)),
)


@Info(title="Planted, 12 x 12 heads", family="Planted")
def planted(variant: str = "") -> Model:
    """The default: 12 x 12 heads, work shared by copies, self-repair in IOI."""
    return planted_model("planted", PLANTED, variant)


@Info(title="Planted, every head visible", family="Planted")
def planted_easy(variant: str = "") -> Model:
    """12 x 12 heads: every task has heads of its own, each visible when ablated alone."""
    return planted_model("planted-easy", EASY, variant)


@Info(title="Planted, redundant copies", family="Planted")
def planted_redundant(variant: str = "") -> Model:
    """12 x 12 heads: every early role has copies any of which suffices, movers have backups."""
    return planted_model("planted-redundant", REDUNDANT, variant)


@Info(title="Planted, superposed and noisy", family="Planted")
def planted_hard(variant: str = "") -> Model:
    """As redundant, with superposition, noisy outputs, and heads shared with the language."""
    return planted_model("planted-hard", HARD, variant, HARD_LIMITS)


@Info(title="Planted, circuits through MLPs", family="Planted")
def planted_mlp(variant: str = "") -> Model:
    """12 x 12 heads and 12 MLPs: greater-than is a table that two MLPs look up."""
    return planted_model("planted-mlp", MLPS, variant)


@Info(title="Planted, 48 x 25 heads", family="Planted")
def planted_large(variant: str = "") -> Model:
    """48 x 25 = 1,200 heads, 200 of them look-alikes."""
    return planted_model("planted-large", LARGE, variant)


@Info(title="Planted, circuits that fade", family="Planted")
def planted_graded(variant: str = "") -> Model:
    """12 x 12 heads: unequal copies, stand-ins that repair in part, heads against the answer."""
    return planted_model("planted-graded", GRADED, variant, GRADED_LIMITS)


@Info(title="Planted, diffuse circuits", family="Planted")
def planted_diffuse(variant: str = "") -> Model:
    """12 x 12 heads: three parallel circuits per task, 27 to 30 heads, none of much weight."""
    return planted_model("planted-diffuse", DIFFUSE, variant, FADING_LIMITS)


PRESETS = {
    "planted-easy": EASY,
    "planted": PLANTED,
    "planted-redundant": REDUNDANT,
    "planted-hard": HARD,
    "planted-mlp": MLPS,
    "planted-large": LARGE,
    "planted-graded": GRADED,
    "planted-diffuse": DIFFUSE,
}
