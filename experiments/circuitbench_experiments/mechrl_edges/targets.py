"""What is to be discovered: a task on a model, in a group that says what is new about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from circuitbench import Model, load_model
from circuitbench.models.planted.presets import PRESETS, planted_model
from circuitbench.plugins.tiers import planting
from circuitbench_experiments.mechrl_edges.settings import Edges, preset_of, shape_of

GROUPS = (
    "training tasks and plantings",
    "held-out tasks",
    "held-out plantings",
    "held-out sizes",
)
TRAINED_FROM = 101
"""The first planting that is learnt on; 100 to 199 are for that."""


@dataclass(frozen=True)
class Target:
    """A task on a model.

    Args:
        group: one of :data:`GROUPS`.
        task, model: their names; see :func:`model_of`.
        place: what a seed's target is one of: the task, and the size where it differs.
    """

    group: str
    task: str
    model: str
    place: str

    def key(self, seed: int) -> str:
        """A name for files."""
        parts = (seed, self.group, self.task, self.model)
        return re.sub(r"[^A-Za-z0-9.@]+", "-", "-".join(map(str, parts)))


def training_models(settings: Edges) -> list[str]:
    """The models that are learnt on."""
    if not settings.planted:
        return [settings.model]
    return [f"{settings.model}@{TRAINED_FROM + k}" for k in range(settings.train_plantings)]


def targets(settings: Edges, seed: int, models: Sequence[str]) -> list[Target]:
    """The targets of a seed: one thing is new at a time, but that a new size is a new planting.

    Args:
        settings: of the experiment.
        seed: draws the new planting.
        models: that are learnt on.
    """
    known, held_out = settings.train_tasks, settings.held_out_tasks
    here = models[seed % len(models)]
    trained, tasks, plantings, sizes = GROUPS
    found = [Target(trained, task, here, task) for task in known]
    found += [Target(tasks, task, here, task) for task in held_out]
    if settings.planted:
        fresh = planting("mechrl", seed)
        found += [Target(plantings, task, f"{settings.model}@{fresh}", task) for task in known]
        preset, _ = preset_of(settings.model)
        found += [
            Target(sizes, task, f"{preset}-{size}@{fresh}", f"{task}, {size}")
            for size in settings.sizes
            for task in known
        ]
    return found


@lru_cache(maxsize=4)
def model_of(name: str) -> Model:
    """A registered model, or a planted preset in another size (``planted-hard-10x10@3``).

    Raises :class:`InvalidSpec` for a size that its circuits do not fit into.
    """
    base, _, variant = name.partition("@")
    if not base.startswith("planted"):
        return load_model(name)
    preset, size = preset_of(base)
    if not size:
        return load_model(name)
    layers, heads = shape_of(size)
    config = replace(PRESETS[preset], n_layers=layers, n_heads=heads)
    return planted_model(base, config, variant)
