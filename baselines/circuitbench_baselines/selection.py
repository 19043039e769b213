"""How a ranking becomes a committed set; shared by the baselines."""

from __future__ import annotations

import numpy as np

from circuitbench import Head, heads_of


def above(scores: np.ndarray, threshold: float) -> frozenset[Head]:
    """The heads whose score exceeds ``threshold``; ``scores`` is ``[n_layers, n_heads]``."""
    return heads_of(scores > threshold)


def top_heads(scores: np.ndarray, k: int) -> frozenset[Head]:
    """The ``k`` best heads; ties go to the lower layer, then the lower head."""
    best = np.argsort(-scores.ravel(), kind="stable")[:k]
    return frozenset(Head(*(int(i) for i in np.unravel_index(b, scores.shape))) for b in best)
