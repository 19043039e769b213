"""A random forest over what cheap questions say of each head, learnt on other models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier

from circuitbench import (
    GRADIENT_COST,
    AblationName,
    Curriculum,
    Discovery,
    Info,
    InvalidSpec,
    Oracle,
    TrainingTools,
    head_grid,
)
from circuitbench_baselines.other_plantings import TASKS, plantings
from circuitbench_baselines.selection import above

SLOPES: tuple[tuple[float, AblationName], ...] = (
    (1.0, "zero"),
    (1.0, "resample"),
    (0.75, "resample"),
    (0.5, "resample"),
    (0.25, "resample"),
)
"""Where the metric's slope is taken: all gates open so far, and what stands at their far end."""


@Info(
    title="Forest over head descriptors",
    family="Surrogate model",
    paper="Breiman 2001",
    link="https://doi.org/10.1023/A:1010933404324",
    needs=("counterfactuals", "gradients", "training"),
)
@dataclass
class DescriptorForest:
    """Classifies heads by descriptors that any model has: what a few cheap questions say.

    A random forest (Breiman 2001, scikit-learn's) is trained on heads of *other* models, whose
    truths it is told (see :class:`Curriculum`), and is frozen. A head's descriptors are its
    depth, the damage of ablating it alone, and the slope of the metric in its gate where all
    gates are open, or all in part (stand-ins show there); each as a fraction of the clean metric,
    and as its rank among all heads. It shows what can be had by combining cheap evidence
    with experience, and it fails where circuits look otherwise than those it has seen.

    Written for this benchmark.

    Args:
        models: that it learns on; the one it is scored on is refused.
        tasks: of these models.
        trees: in the forest.
        leaf: least heads in a leaf of a tree.
        ablation: of the single heads.
        threshold: commits to heads whose chance to be in the circuit is above this.
    """

    models: tuple[str, ...] = (
        *plantings("planted", range(150, 152)),
        *plantings("planted-redundant", range(152, 154)),
        *plantings("planted-hard", range(154, 156)),
    )
    tasks: tuple[str, ...] = TASKS
    trees: int = 200
    leaf: int = 2
    ablation: AblationName = "resample"
    threshold: float = 0.5

    # What training leaves behind.
    forest: Any = field(default=None, init=False, repr=False, compare=False)

    def curriculum(self) -> Curriculum:
        """The tasks on all models, with their truths."""
        return Curriculum(self.tasks, models=self.models, labelled=True)

    def train(
        self,
        oracles: Sequence[Oracle],
        rng: np.random.Generator,
        tools: TrainingTools = TrainingTools(),
    ) -> None:
        """Describe every head of every model, and fit the forest to who is in a circuit."""
        if self.trees < 1 or self.leaf < 1:
            raise InvalidSpec(
                f"descriptor-forest needs trees >= 1 and leaf >= 1, not {self.trees}, {self.leaf}"
            )
        rows, labels = [], []
        for i, (oracle, truth) in enumerate(zip(oracles, tools.truths, strict=True)):
            tools.report(i / len(oracles), f"on {oracle.task_name}")
            rows.append(self._describe(oracle))
            labels.append(head_grid(truth.heads, *oracle.shape).ravel())
        self.forest = RandomForestClassifier(
            n_estimators=self.trees,
            min_samples_leaf=self.leaf,
            class_weight="balanced_subsample",
            random_state=int(rng.integers(2**31)),
        ).fit(np.vstack(rows), np.concatenate(labels))

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """One query per head and three per slope; what the budget lacks stays unknown."""
        chance = self.forest.predict_proba(self._describe(oracle))
        inside = list(self.forest.classes_).index(True) if True in self.forest.classes_ else None
        scores = (
            np.zeros(oracle.shape) if inside is None else chance[:, inside].reshape(oracle.shape)
        )
        return Discovery(scores, above(scores, self.threshold))

    def _describe(self, oracle: Oracle) -> np.ndarray:
        """``[n_heads in all, descriptors]``; NaN where the budget is spent."""
        n, unit = oracle.n_layers * oracle.n_heads, max(abs(oracle.clean_metric), 1e-9)
        known: list[np.ndarray] = []
        for openness, ablation in SLOPES:
            slope = np.full(n, np.nan)
            if oracle.remaining is None or oracle.remaining >= GRADIENT_COST:
                gates = torch.full((1, *oracle.shape), openness)
                slope = oracle.gradient(gates, ablation=ablation).double().numpy().ravel() / unit
            known.append(slope)
        damage = np.full(n, np.nan)
        if oracle.remaining is None or oracle.remaining >= n:
            damages = oracle.query(oracle.head_masks(), ablation=self.ablation, control=False)
            damage = damages.task.double().numpy() / unit
        known.append(damage)
        ranks = [np.where(np.isnan(x), np.nan, _ranks(np.abs(x))) for x in known]
        depth = np.repeat((np.arange(oracle.n_layers) + 0.5) / oracle.n_layers, oracle.n_heads)
        return np.stack([depth, *known, *ranks], axis=1)


def _ranks(x: np.ndarray) -> np.ndarray:
    """Which share of all entries each one exceeds, in [0, 1); ties share the lowest."""
    return np.searchsorted(np.sort(x), x) / len(x)
