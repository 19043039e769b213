"""A control that asks nothing: the layers where circuits of other models stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from circuitbench import Circuit, Curriculum, Discovery, Info, InvalidSpec, Oracle, TrainingTools
from circuitbench_baselines.other_plantings import TASKS, plantings
from circuitbench_baselines.selection import top_heads

GRID = 48
"""Points of the depth profile; what lies between is interpolated."""


@Info(
    title="Layer prior",
    family="Control",
    needs=("training",),
)
@dataclass
class LayerPrior:
    """Scores a head by how often heads at its depth belong to a circuit in other models.

    A control: it shows how much of a method's score is owed to looking at the right depth, by luck
    or by design. It learns from the truths of other models (see :class:`Curriculum`), never
    asks the oracle, and gives all heads of a layer the same score. A task that it learnt has a
    profile of its own, any other gets the mean of all.

    Written for this benchmark.

    Args:
        models: that it learns on; the one it is scored on is refused.
        tasks: of these models.
        smoothing: of the profile, as a fraction of the depth (sd of a Gaussian).
        per_task: whether a task it learnt has a profile of its own.
    """

    models: tuple[str, ...] = plantings("planted-redundant", range(150, 158))
    tasks: tuple[str, ...] = TASKS
    smoothing: float = 0.05
    per_task: bool = True

    # What training leaves behind: task -> share of heads in a circuit by depth [GRID].
    profiles: dict[str, np.ndarray] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def curriculum(self) -> Curriculum:
        """The tasks on all models, with their truths."""
        return Curriculum(self.tasks, models=self.models, labelled=True)

    def train(
        self,
        oracles: Sequence[Oracle],
        rng: np.random.Generator,
        tools: TrainingTools = TrainingTools(),
    ) -> None:
        """Average the circuits by depth; no query."""
        if self.smoothing <= 0:
            raise InvalidSpec(f"layer-prior needs smoothing > 0, not {self.smoothing}")
        by_task: dict[str, list[np.ndarray]] = {}
        for oracle, truth in zip(oracles, tools.truths, strict=True):
            by_task.setdefault(oracle.task_name, []).append(self._profile(oracle, truth))
        self.profiles = {task: np.mean(found, axis=0) for task, found in by_task.items()}

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """Look the layers up; commits to as many heads as circuits of the other models have.

        Which heads of a layer are committed to is drawn from ``rng``.
        """
        known = self.per_task and oracle.task_name in self.profiles
        profile = (
            self.profiles[oracle.task_name]
            if known
            else np.mean(list(self.profiles.values()), axis=0)
        )
        layers = np.interp(_depth(oracle.n_layers), _depth(GRID), profile)
        scores = np.repeat(layers[:, None], oracle.n_heads, axis=1)
        size = max(1, round(float(profile.mean()) * scores.size))
        shuffled = scores + 1e-9 * rng.random(scores.shape)
        return Discovery(scores, top_heads(shuffled, size))

    def _profile(self, oracle: Oracle, truth: Circuit) -> np.ndarray:
        """The smoothed share of heads that are in the circuit, by depth ``[GRID]``."""
        share = np.zeros(oracle.n_layers)
        for head in truth.heads:
            share[head.layer] += 1 / oracle.n_heads
        away = (_depth(GRID)[:, None] - _depth(oracle.n_layers)) / self.smoothing
        weight = np.exp(0.5 * ((away**2).min(1, keepdims=True) - away**2))
        return np.asarray(weight @ share / weight.sum(1))


def _depth(n: int) -> np.ndarray:
    """Depths of ``n`` layers between 0 and 1, each in the middle of its own."""
    return np.asarray((np.arange(n) + 0.5) / n)
