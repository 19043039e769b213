"""How well a ranking, or a committed set, matches a truth with degrees.

A degree is the size of a head's contribution (:mod:`circuitbench.evaluation.contributions`), 0
outside the circuit: whoever works against the task belongs to it too.
"""

from __future__ import annotations

import numpy as np


def graded_ndcg(scores: np.ndarray, degrees: np.ndarray) -> float | None:
    """Normalised discounted cumulative gain (Järvelin and Kekäläinen 2002), in [0, 1].

    The sum of degrees discounted by ``log2(1 + rank)``, over that of the best ranking. Tied items
    share the mean of their discounts, which is the expectation over orders of the tie. None where
    all degrees are 0. Both arrays have one shape.
    """
    degrees, scores = np.asarray(degrees, float).ravel(), np.asarray(scores, float).ravel()
    discounts = 1.0 / np.log2(2.0 + np.arange(len(degrees)))
    best = float(np.sort(degrees)[::-1] @ discounts)
    if best <= 0:
        return None
    _, tie, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
    sums, ends = np.concatenate([[0.0], discounts.cumsum()]), sizes.cumsum()
    expected = (sums[ends] - sums[ends - sizes]) / sizes
    return float(degrees @ expected[tie]) / best


def weighted_recall(selected: np.ndarray, degrees: np.ndarray) -> float | None:
    """Share of all degrees that the bool array ``selected`` holds, in [0, 1]; None if there are
    no degrees."""
    total = float(np.sum(degrees))
    return float(np.asarray(degrees)[np.asarray(selected, bool)].sum()) / total if total else None


def rank_correlation(scores: np.ndarray, degrees: np.ndarray) -> float | None:
    """Spearman's correlation of scores with degrees over the members (degree above 0).

    Membership is judged elsewhere; this asks whether who contributes more ranks higher. None with
    fewer than three members, or where one of the two is constant.
    """
    member = np.asarray(degrees) > 0
    one, two = np.asarray(scores)[member], np.asarray(degrees)[member]
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return None
    return float(np.corrcoef(_ranks(one), _ranks(two))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from the lowest, tied ones sharing their mean (scipy's; loading it costs a second)."""
    _, tie, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((sizes.cumsum() - (sizes - 1) / 2)[tie])
