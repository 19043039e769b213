"""Ridge regression of the damage on random masks: sees heads that no single ablation can."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import Ridge

from circuitbench import AblationName, Discovery, Info, InvalidSpec, Oracle, TracePoint
from circuitbench_baselines.selection import above


@Info(
    title="Subset regression",
    family="Surrogate model",
    paper="Ilyas et al. 2022",
    link="https://arxiv.org/abs/2202.00622",
)
@dataclass(frozen=True)
class SubsetRegression:
    """Ablates many heads at once at random, and regresses the task damage on which were off.

    A datamodel (Ilyas et al. 2022, arXiv 2202.00622) over heads: redundant heads that hide
    each other alone get weight when they are switched off together.

    Args:
        queries: random masks to ask about (fewer if the budget is smaller).
        share: probability that a head is off.
        ridge: strength of the squared-norm penalty.
        ablation: None takes the oracle's own.
        threshold: commits to heads above this fraction of the clean metric.
    """

    queries: int = 1152
    share: float = 0.1
    ridge: float = 1.0
    ablation: AblationName | None = None
    threshold: float = 0.02

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """``queries`` queries, in eight rounds."""
        if self.queries < 1 or not 0 < self.share < 1 or self.ridge <= 0:
            raise InvalidSpec(
                "subset-regression needs queries >= 1, 0 < share < 1 and ridge > 0, not "
                f"{self.queries}, {self.share}, {self.ridge}"
            )
        n = self.queries if oracle.remaining is None else min(self.queries, oracle.remaining)
        off = rng.random((n, *oracle.shape)) < self.share
        damage = np.zeros(n)
        trace: list[TracePoint] = []
        grid = np.zeros(oracle.shape)
        done = 0
        for chunk in np.array_split(np.arange(n), max(1, min(8, n))):
            masks = torch.as_tensor(~off[chunk])
            damage[chunk] = oracle.query(masks, ablation=self.ablation, control=False).task.numpy()
            done += len(chunk)
            grid = self._fit(off[:done].reshape(done, -1), damage[:done]).reshape(oracle.shape)
            trace.append(TracePoint(done, grid))
        return Discovery(grid, above(grid, self.threshold * abs(oracle.clean_metric)), trace=trace)

    def _fit(self, off: np.ndarray, damage: np.ndarray) -> np.ndarray:
        fitted = Ridge(alpha=self.ridge, solver="cholesky").fit(off.astype(float), damage)
        return np.asarray(fitted.coef_)
