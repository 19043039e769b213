"""The floor: rankings drawn at random, without asking anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitbench import Discovery, Info, Oracle
from circuitbench_baselines.edge_ranking import edge_discovery
from circuitbench_baselines.selection import top_heads


@Info(title="Random ranking", family="Control")
@dataclass(frozen=True)
class RandomRanking:
    """Uniform scores; commits to a fixed share of the heads. Costs no queries.

    Args:
        share: fraction of all heads that is committed to (at least one head).
    """

    share: float = 0.1

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """Draw one number per head."""
        scores = rng.random(oracle.shape)
        return Discovery(scores, top_heads(scores, max(1, round(self.share * scores.size))))


@Info(title="Random edges", family="Control", granularity="edges", needs=("edges",))
@dataclass(frozen=True)
class RandomEdges:
    """Uniform scores of all edges; commits to a number of them. Costs no queries.

    A head scores what its best outgoing edge scores. Since there are about as many edges from
    early heads as from late ones to each receiver, but more receivers behind them, early heads
    rank higher: what an edge ranking owes to that alone shows here.

    Args:
        commit: edges committed to, the best.
        listed: edges reported, the best; the rest ranks below them, tied.
    """

    commit: int = 100
    listed: int = 1_000

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """Draw one number per edge.

        Raises:
            InvalidSpec: the model is run by hooks, which know no edges; or nothing is listed.
        """
        scores = rng.random(len(oracle.edges.edges))
        selected = np.zeros(len(scores), bool)
        selected[np.argsort(-scores, kind="stable")[: self.commit]] = True
        return edge_discovery(oracle, scores, selected, listed=self.listed)
