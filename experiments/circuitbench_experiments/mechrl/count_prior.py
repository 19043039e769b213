"""The adaptive control: how many good heads a layer has, and what an episode says about that.

On the training models the good heads of every layer are counted. In an episode each layer's count
is inferred from the heads already tried there, and the next head is taken where the chance of a
hit is highest. That is Bayes' rule on a table of counts: it adapts, and trains no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import comb

import numpy as np

SMOOTHING = 1.0  # models whose count is anything, added to those that were counted


class CountPrior:
    """Counts of good heads by layer.

    Args:
        hits: which heads are good in each training model, ``[n_layers, n_heads]`` bool.
    """

    def __init__(self, hits: Sequence[np.ndarray]) -> None:
        counts = np.array([grid.sum(1) for grid in hits])  # [models, layers]
        self.n_heads = hits[0].shape[1]
        seen = np.array([(counts == c).sum(0) for c in range(self.n_heads + 1)]).T
        self.prior = seen + SMOOTHING / (self.n_heads + 1)
        self.prior = self.prior / self.prior.sum(1, keepdims=True)

    def chance(self, tried: np.ndarray, hits: np.ndarray) -> np.ndarray:
        """The chance that the next head of each layer is good, ``[n_layers]``.

        Args:
            tried, hits: heads tried in each layer, and the good ones among them, ``[n_layers]``.
        """
        likelihood = np.array(
            [_likelihood(self.n_heads, int(t), int(h)) for t, h in zip(tried, hits, strict=True)]
        )
        posterior = self.prior * likelihood
        posterior /= posterior.sum(1, keepdims=True)
        left = np.maximum(1, self.n_heads - tried)
        good = np.arange(self.n_heads + 1) - hits[:, None]
        return np.asarray((posterior * good).sum(1) / left)


@cache
def _likelihood(n: int, tried: int, hits: int) -> tuple[float, ...]:
    """How likely ``hits`` of ``tried`` are if 0 to ``n`` of the ``n`` heads are good."""
    misses = tried - hits
    return tuple(comb(c, hits) * comb(n - c, misses) / comb(n, tried) for c in range(n + 1))
