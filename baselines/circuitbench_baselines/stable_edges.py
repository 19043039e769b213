"""Bootstrap-stable edges: which attributions would survive other prompts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitbench import GRADIENT_COST, AblationName, Discovery, Info, InvalidSpec, Oracle, Straight
from circuitbench_baselines.bandits import affordable
from circuitbench_baselines.edge_paths import interpolated_inputs
from circuitbench_baselines.edge_ranking import edge_discovery


@Info(
    title="Bootstrap-stable edges",
    family="Combination",
    paper="Nikankin et al. 2025",
    link="https://arxiv.org/abs/2510.25786",
    granularity="edges",
    needs=("counterfactuals", "edges", "gradients"),
)
@dataclass(frozen=True)
class BootstrapStableEdges:
    """EAP-IG that trusts edges which keep their sign (Nikankin et al. 2025).

    As in the paper (arXiv 2510.25786), prompts are resampled with replacement and attributed
    again; an edge whose bootstrap interval holds 0 is unsure, and ranks below all sure ones. Then
    the paper's ratio: ``positive`` of the committed edges are those of the largest effect that
    helps the task, the rest those left of the largest magnitude.

    It departs from the paper in what is resampled: every prompt is attributed once, and the mean
    of a resample is that of its prompts' attributions. For means over prompts this is the same
    at the cost of one attribution instead of one for each resample. The interval is that of
    quantiles. An edge is committed to if it is sure and its effect is above ``threshold``. The
    projection to heads is that of :func:`circuitbench_baselines.edge_ranking.edge_discovery`.

    Args:
        batches: of prompts; all but the first are drawn afresh (fewer if the budget is smaller).
        steps: points of an attribution, see :class:`EAPIGInputs`; 0 is edge attribution patching.
        resamples: of all prompts.
        confidence: of the interval.
        positive: share of the committed edges that is kept for those that help; 0 is by
            magnitude alone.
        threshold: commits to edges above this fraction of the clean metric.
        ablation: what stands for the sender's output otherwise.
        listed: edges reported, the best; the rest ranks below them, tied.
    """

    batches: int = 2
    steps: int = 5
    resamples: int = 200
    confidence: float = 0.95
    positive: float = 0.0
    threshold: float = 0.02
    ablation: AblationName = "resample"
    listed: int = 1_000

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """Three queries for each point and batch.

        Raises:
            BudgetExceeded: the budget does not cover one batch.
        """
        shares = self.confidence < 1 and self.confidence > 0 and 0 <= self.positive <= 1
        if min(self.batches, self.resamples) < 1 or self.steps < 0 or not shares:
            raise InvalidSpec(
                "bootstrap-stable-edges needs batches and resamples >= 1, steps >= 0, "
                f"0 < confidence < 1 and 0 <= positive <= 1, not {self.batches}, "
                f"{self.resamples}, {self.steps}, {self.confidence}, {self.positive}"
            )
        path = interpolated_inputs(self.steps) if self.steps else Straight()
        each = GRADIENT_COST * path.passes
        n = max(1, affordable(oracle, each * self.batches) // each)
        batches = [oracle.batch, *(oracle.draw(int(s)) for s in rng.integers(2**31, size=n - 1))]
        effects = np.concatenate(
            [
                oracle.edges.attribution(path, ablation=self.ablation, per_prompt=True, batch=batch)
                .double()
                .mean(0)
                .numpy()
                for batch in batches
            ]
        )
        mean = effects.mean(0)
        sure = keeps_sign(effects, self.resamples, self.confidence, rng)
        scores = ranked(np.abs(mean), sure)
        selected = sure & (np.abs(mean) > self.threshold * abs(oracle.clean_metric))
        selected = mostly_positive(mean, sure, int(selected.sum()), self.positive)
        if self.positive:
            scores = scores + np.where(selected, scores.max(initial=0.0), 0.0)
        return edge_discovery(
            oracle,
            scores,
            selected,
            effects=np.sign(mean) * scores,
            listed=self.listed,
            info={"prompts": len(effects), "sure": int(sure.sum())},
        )


def keeps_sign(
    effects: np.ndarray, resamples: int, confidence: float, rng: np.random.Generator
) -> np.ndarray:
    """Whether the bootstrap interval of an edge's mean effect leaves out 0, ``[n_edges]``.

    Args:
        effects: ``[n_prompts, n_edges]``.
        resamples: of the prompts, with replacement.
        confidence: of the interval between quantiles.
        rng: draws them.
    """
    n = len(effects)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=resamples)
    means = (counts / n) @ effects
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return np.asarray((low > 0) | (high < 0))


def ranked(strength: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """``strength`` where an edge is sure; below all of these, in their order, the rest."""
    rest = np.where(sure, 0.0, strength)
    floor = strength[sure].min(initial=np.inf)
    top = rest.max(initial=0.0)
    if not sure.any() or top <= 0:
        return strength
    return np.where(sure, strength, strength * min(1.0, 0.5 * floor / top))


def mostly_positive(
    effects: np.ndarray, sure: np.ndarray, count: int, positive: float
) -> np.ndarray:
    """``count`` sure edges: a share of the most positive, then those left by magnitude."""
    taken = np.zeros(len(effects), dtype=bool)
    helping = np.flatnonzero(sure & (effects > 0))
    best = helping[np.argsort(-effects[helping], kind="stable")]
    taken[best[: round(positive * count)]] = True
    left = np.flatnonzero(sure & ~taken)
    order = left[np.argsort(-np.abs(effects[left]), kind="stable")]
    taken[order[: count - int(taken.sum())]] = True
    return taken
