"""Does a method say the same again? How alike several of its answers are, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import InvalidSpec
from circuitbench.evaluation.against_truth.evaluate import checked_scores, checked_selection
from circuitbench.evaluation.against_truth.selection import jaccard

RESAMPLES = 1000


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's correlation of two score arrays, ties by mid-ranks, in [-1, 1].

    None where one of them is constant: it ranks nothing.
    """
    x, y = np.ravel(a), np.ravel(b)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def agreement(
    discoveries: Sequence[Discovery], rng: np.random.Generator | None = None
) -> dict[str, Any]:
    """How alike several discoveries of one model are, over all pairs of them.

    Args:
        rng: draws the resamples of the intervals; None leaves intervals out.

    Returns:
        ``n``; ``jaccard`` of the committed sets (two empty sets agree: 1) and
        ``rank_correlation`` (Spearman) of the scores, each the mean over pairs, with
        ``jaccard_interval`` and ``rank_correlation_interval``, see :func:`pair_interval`;
        ``selected_share [n_layers][n_heads]``, how often each head was selected. A mean that
        would skip a pair is None, with the reason under ``undefined``.

    Raises:
        InvalidSpec: fewer than two discoveries.
        RunFailed: one of them is broken or of another shape.
    """
    if len(discoveries) < 2:
        raise InvalidSpec(f"stability needs at least two discoveries, not {len(discoveries)}")
    shape = np.shape(discoveries[0].scores)
    if len(shape) != 2:
        raise InvalidSpec(f"scores must be [n_layers, n_heads], not {shape}")
    scores = [checked_scores(d.scores, *shape) for d in discoveries]
    selected = np.array([checked_selection(d, *shape) for d in discoveries])
    pairs = list(combinations(range(len(discoveries)), 2))
    overlaps = [overlap(discoveries[i], discoveries[j]) for i, j in pairs]
    correlations = [rank_correlation(scores[i], scores[j]) for i, j in pairs]
    usable = [value for value in correlations if value is not None]
    complete = len(usable) == len(pairs)
    intervals = {}
    if rng is not None:
        n = len(discoveries)
        intervals["jaccard_interval"] = pair_interval(overlaps, n, rng)
        intervals["rank_correlation_interval"] = pair_interval(usable, n, rng) if complete else None
    return {
        "n": len(discoveries),
        **intervals,
        "jaccard": float(np.mean(overlaps)),
        "rank_correlation": float(np.mean(usable)) if complete else None,
        "selected_share": selected.mean(axis=0).tolist(),
        "undefined": {} if complete else {"rank_correlation": "a ranking has equal scores only"},
    }


def overlap(a: Discovery, b: Discovery) -> float:
    """Jaccard index of two committed sets; two empty sets agree."""
    found = jaccard(a.selected, b.selected)
    return 1.0 if found is None else found


def pair_interval(
    values: Sequence[float], n: int, rng: np.random.Generator, level: float = 0.95
) -> list[float] | None:
    """Percentile interval of a mean over pairs, answers resampled; pairs of an answer with itself
    do not count.

    Args:
        values: one per pair, in the order of ``combinations(range(n), 2)``.
        n: how many answers there are; None comes back for two, which leave nothing to resample.
    """
    if n < 3:
        return None
    table = np.zeros((n, n))
    table[np.triu_indices(n, 1)] = values
    table += table.T
    times = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)
    total = n**2 - (times**2).sum(axis=1)  # pairs of different answers, each counted twice
    means = ((times @ table) * times).sum(axis=1)[total > 0] / total[total > 0]
    return [float(x) for x in np.quantile(means, [(1 - level) / 2, (1 + level) / 2])]


def spread(
    values: Sequence[float | None], rng: np.random.Generator, level: float = 0.95
) -> dict[str, Any] | None:
    """How a number differs between answers; None where one of them has no such number.

    Returns:
        ``mean``, ``sd`` (standard deviation), ``least``, ``most`` and the bootstrap ``interval`` of
        the mean.
    """
    known = np.array([value for value in values if value is not None])
    if len(known) < len(values) or len(known) < 2:
        return None
    drawn = rng.choice(known, size=(RESAMPLES, len(known))).mean(axis=1)
    interval = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return {
        "mean": float(known.mean()),
        "sd": float(known.std(ddof=1)),
        "least": float(known.min()),
        "most": float(known.max()),
        "interval": [float(x) for x in interval],
    }
