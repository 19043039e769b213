"""The floor: a ranking drawn at random, without asking anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitbench import Discovery, Info, Oracle
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
