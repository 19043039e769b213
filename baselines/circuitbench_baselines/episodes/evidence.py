"""How what an agent saw becomes a ranking of all heads and a committed set.

The rule of :class:`Evidence`: a head that was asked about scores the mean of what it earned. A head
nobody asked about may still matter, which one that was seen to do nothing does not: it scores
between half and all of what a head must earn to be committed to, and among those the agent's own
preference decides (``experiments/tables/unasked.py`` measures what that is worth). The committed
set is every asked head whose mean exceeds that fraction of the clean metric.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from circuitbench import Discovery, TracePoint, heads_of
from circuitbench_baselines.episodes.rules import Episode

TRACE_EVERY = 10  # queries between two points of a discovery's trace


class Evidence:
    """Rewards seen per head, and the queries they took.

    Args:
        shape: of the grid of heads.
        preference: what the agent would ask about first, ``[n_layers * n_heads]``.
        presumed: what a head that nobody asked about is presumed to earn at most; at 0 it is
            presumed to do nothing and scores just below zero.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        preference: np.ndarray | None = None,
        presumed: float = 0.0,
    ) -> None:
        self.shape = shape
        n = shape[0] * shape[1]
        self.sums, self.counts = np.zeros(n), np.zeros(n, dtype=int)
        self.preference = np.zeros(n) if preference is None else preference
        self.presumed = presumed
        self.queries = 0
        self.trace: list[TracePoint] = []

    def add(self, head: int, reward: float) -> None:
        """One more reward of one head."""
        self.sums[head] += reward
        self.counts[head] += 1

    def step(self, asked: Sequence[tuple[int, float]], episode: Episode, queries: int) -> None:
        """Take in what one step of an episode asked, and the queries since the step before."""
        for action, reward in asked:
            if action < episode.n:
                self.add(action, reward)
        self.spent(queries)

    def spent(self, queries: int) -> None:
        """Count queries; leaves a trace point at every tenth."""
        before, self.queries = self.queries, self.queries + queries
        if before // TRACE_EVERY != self.queries // TRACE_EVERY:
            self.trace.append(TracePoint(self.queries, self.scores()))

    def scores(self) -> np.ndarray:
        """The ranking so far, ``[n_layers, n_heads]``."""
        asked = self.counts > 0
        scores = np.zeros(len(self.counts))
        scores[asked] = self.sums[asked] / self.counts[asked]
        if self.presumed > 0:
            # By rank, so that a preference that is nearly flat is not lost in rounding.
            levels, rank = np.unique(self.preference, return_inverse=True)
            scores[~asked] = 0.5 * self.presumed * (1.0 + (rank[~asked] + 1) / (len(levels) + 1))
            return scores.reshape(self.shape)
        span = float(self.preference.max() - self.preference.min())
        disfavour = (
            (self.preference.max() - self.preference) / span if span else np.ones(len(asked))
        )
        scale = max(1.0, float(np.abs(scores).max()))
        scores[~asked] = -1e-9 * scale * (1.0 + disfavour[~asked])
        return scores.reshape(self.shape)

    def asked(self) -> np.ndarray:
        """The heads that may be committed to, ``[n_layers, n_heads]`` bool."""
        return (self.counts > 0).reshape(self.shape)

    def discovery(self, threshold: float, info: dict[str, object]) -> Discovery:
        """The answer; ``threshold`` in the unit of the rewards."""
        scores = self.scores()
        selected = (scores > threshold) & self.asked()
        trace = self.trace
        if not trace or trace[-1].queries != self.queries:
            trace = [*trace, TracePoint(self.queries, scores)]
        return Discovery(scores, heads_of(selected), trace=trace, info=info)


class LargestEvidence(Evidence):
    """Counts a head by the largest reward it ever earned instead of the mean."""

    def add(self, head: int, reward: float) -> None:
        """One more reward of one head."""
        self.sums[head] = reward if self.counts[head] == 0 else max(self.sums[head], reward)
        self.counts[head] = 1
