"""What the tasks on planted models share: access to the construction, control text, the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import Circuit, Role
from circuitbench.core.errors import InvalidSpec
from circuitbench.core.seeding import generator
from circuitbench.models.base import Model
from circuitbench.models.planted.build import PlantedModel
from circuitbench.models.planted.edges import EDGE_ABLATIONS, edges_of
from circuitbench.models.planted.roles import CATALOGUE
from circuitbench.tasks.base import Prompts

SPAN = 24
"""Tokens of a control span."""

SHOWN = 32
"""Prompts on which it is seen what varies."""

Draw = Callable[[Model, int, np.random.Generator], Prompts]


def planted_of(model: Model, task: str) -> PlantedModel:
    """The construction of a planted model that does ``task``; :class:`InvalidSpec` otherwise."""
    planted = model.construction
    if not isinstance(planted, PlantedModel):
        raise InvalidSpec(f"task {task} runs on planted models, not on {model.name}")
    if not planted.config.does(task):
        needed = ", ".join((*planted.config.roles_of(task), *planted.config.mlps_of(task)))
        raise InvalidSpec(f"model {model.name} does not do task {task}: it lacks one of {needed}")
    return planted


def control_text(model: Model, task: str, n: int, rng: np.random.Generator) -> Tensor:
    """``n`` spans of the background language, ``[n, SPAN]`` long."""
    return torch.from_numpy(planted_of(model, task).language.text(n, SPAN, rng))


def distinct(items: np.ndarray, n: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` rows of ``k`` different items in random order, ``[n, k]``."""
    return rng.permuted(np.tile(items, (n, 1)), axis=1)[:, :k]


def planted_truth(model: Model, task: str, modelled_on: str, prompts: Draw) -> Circuit:
    """The circuit as constructed, with what ablating one head of every role shows.

    ``prompts`` draws the task's prompts, always the same here: edges are those that carry what
    varies over them.
    """
    planted = planted_of(model, task)
    config = planted.config
    names = [role for role in config.roles_of(task) if role in config.roles]
    mlps = config.mlps_of(task)
    asked = f"{task} {prompts.__module__} {prompts.__qualname__}"
    if asked not in planted.edges:
        shown = prompts(model, SHOWN, generator(0, task, "edges"))
        planted.edges[asked] = edges_of(
            planted,
            names,
            shown.tokens.numpy(),
            shown.counterfactual.numpy(),
            shown.positions.numpy(),
            shown.token_ids.numpy(),
            mlps,
        )
    roles = {}
    for name in names:
        count, mode = config.roles[name]
        roles[name] = Role(
            heads=planted.heads[name],
            needed=1 if mode == "or" else count,
            sign=CATALOGUE[name].sign,
            shows=shows(name, planted),
        )
    return Circuit(
        roles=roles,
        source=f"written by hand (circuitbench.models.planted.presets, {model.name}), modelled on "
        f"{modelled_on}",
        kind="constructed",
        ablations=("zero", "mean", "resample"),
        edges=planted.edges[asked],
        mlps=tuple(sorted(layer for role in mlps for layer in planted.mlps[role])),
        edge_ablations=EDGE_ABLATIONS,
        blind_spots=tuple(f"{name}: {role.shows}" for name, role in roles.items() if _blind(role)),
        degrees=config.fading is not None,
    )


def _blind(role: Role) -> bool:
    return role.shows.startswith("nothing")


def shows(role: str, planted: PlantedModel) -> str:
    """What zero-ablating one head of a role does to its task's metric."""
    n, mode = planted.config.roles[role]
    backups = "backup_name_mover" in planted.config.roles and planted.config.repair > 0
    if role == "backup_name_mover":
        return "nothing alone: it sleeps while every name mover is awake"
    if role == "negative_name_mover":
        return "the metric rises: it writes against the answer"
    if role == "name_mover" and backups:
        if planted.config.repair < 1:
            return "part of its share: the backups wake and give back the rest"
        return "nothing alone: the backups wake and give back what it wrote"
    if mode == "or" and n > 1:
        return f"nothing alone: any of the {n} copies suffices"
    if n > 1 and CATALOGUE[role].writes_logits:
        return f"1/{n} of the gap: the copies add up"
    if backups and role == "s_inhibition" and n > 1:
        return "part of the gap: the movers fall asleep, and the backups stand in"
    if backups and role in ("duplicate_token", "s_inhibition"):
        return "more than the gap: no name is inhibited, and the backups copy both"
    return "the whole gap: nothing replaces it"
