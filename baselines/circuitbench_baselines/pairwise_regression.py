"""Regression with pair terms: which heads matter because another one is off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import Ridge

from circuitbench import AblationName, Discovery, Info, InvalidSpec, Oracle, TracePoint
from circuitbench_baselines.bandits import affordable
from circuitbench_baselines.selection import above


@Info(
    title="Pairwise regression",
    family="Surrogate model",
    paper="Ilyas et al. 2022",
    link="https://arxiv.org/abs/2202.00622",
)
@dataclass(frozen=True)
class PairwiseRegression:
    """Regresses the task damage on which heads are off, and on which *pairs* are off together.

    A datamodel (Ilyas et al. 2022, arXiv 2202.00622) with interactions. A head that another
    one stands in for does nothing alone; its pair term says what it does when that one is off.
    Pairs of all heads would be too many, so a first pass without pair terms, as
    :class:`circuitbench_baselines.regression.SubsetRegression`, screens the heads; the second
    switches off screened heads alone, more of them at a time, and fits their own and their pair
    terms by ridge.

    A screened head scores the largest of the changes it makes by itself or with any one other
    screened head off, by magnitude. Heads not screened score 0 or less, in the order of the
    first pass. What the first pass doesn't see at all, the second does not ask about: stand-ins
    are found if they were screened. (Defaults were tried on ``planted-redundant@110`` alone.)

    Args:
        queries: of both passes (fewer if the budget is smaller).
        screening: the first pass's fraction of them.
        screened: heads that the second pass is about.
        share: probability that a head is off in the first pass.
        pair_share: the same in the second.
        ridge: strength of the squared-norm penalty.
        ablation: None takes the oracle's own.
        threshold: commits to heads above this fraction of the clean metric.
    """

    queries: int = 1440
    screening: float = 0.4
    screened: int = 32
    share: float = 0.1
    pair_share: float = 0.25
    ridge: float = 1.0
    ablation: AblationName | None = None
    threshold: float = 0.1

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """``queries`` queries, in two rounds."""
        fractions = (self.screening, self.share, self.pair_share)
        if not all(0 < x < 1 for x in fractions) or self.screened < 1 or self.ridge <= 0:
            raise InvalidSpec(
                "pairwise-regression needs screening, share and pair_share between 0 and 1, "
                f"screened >= 1 and ridge > 0, not {fractions}, {self.screened}, {self.ridge}"
            )
        n = oracle.n_layers * oracle.n_heads
        queries = affordable(oracle, self.queries)
        first = min(queries, max(1, round(self.screening * queries)))
        effects, trace = np.zeros(n), list[TracePoint]()
        scores = effects.copy()
        if first:
            off = rng.random((first, n)) < self.share
            effects = self._fit(off, self._damage(oracle, off))
            scores = np.abs(effects)
            trace.append(TracePoint(first, scores.reshape(oracle.shape)))
        if queries > first:
            order = np.argsort(-scores, kind="stable")
            few, rest = order[: self.screened], order[self.screened :]
            off = np.zeros((queries - first, n), dtype=bool)
            off[:, few] = rng.random((len(off), len(few))) < self.pair_share
            i, j = np.triu_indices(len(few), 1)
            terms = np.hstack([off[:, few], off[:, few[i]] & off[:, few[j]]])
            fitted = self._fit(terms, self._damage(oracle, off))
            beside = np.zeros((len(few), len(few)))  # the diagonal: with nothing else off
            beside[i, j] = beside[j, i] = fitted[len(few) :]
            beside += fitted[: len(few), None]
            effects[few] = beside[np.arange(len(few)), np.abs(beside).argmax(1)]
            scores = np.abs(effects)
            scores[rest] -= scores[rest].max(initial=0.0)
            trace.append(TracePoint(queries, scores.reshape(oracle.shape)))
        grid = scores.reshape(oracle.shape)
        chosen = above(grid, self.threshold * abs(oracle.clean_metric))
        return Discovery(grid, chosen, trace=trace, signed=effects.reshape(oracle.shape))

    def _fit(self, terms: np.ndarray, damage: np.ndarray) -> np.ndarray:
        fitted = Ridge(alpha=self.ridge, solver="cholesky").fit(terms.astype(float), damage)
        return np.asarray(fitted.coef_)

    def _damage(self, oracle: Oracle, off: np.ndarray) -> np.ndarray:
        masks = torch.from_numpy(~off.reshape(-1, *oracle.shape))
        return oracle.query(masks, ablation=self.ablation, control=False).task.double().numpy()
