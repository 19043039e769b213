"""Does a method say the same again, on other prompts or with another seed?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import InvalidSpec
from circuitbench.core.seeding import derive_seed, generator
from circuitbench.evaluation.against_truth.evaluate import checked_scores, checked_selection
from circuitbench.evaluation.against_truth.selection import jaccard
from circuitbench.plugins.method import Method

if TYPE_CHECKING:
    from circuitbench.oracle import Oracle


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's correlation of two score arrays, ties by mid-ranks, in [-1, 1].

    None where one of them is constant: it ranks nothing.
    """
    x, y = np.ravel(a), np.ravel(b)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def agreement(discoveries: Sequence[Discovery]) -> dict[str, Any]:
    """How alike several discoveries of one model are, over all pairs of them.

    Returns:
        ``n``; ``jaccard`` of the committed sets (two empty sets agree: 1) and
        ``rank_correlation`` (Spearman) of the scores, each the mean over pairs;
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
    overlaps = [jaccard(discoveries[i].selected, discoveries[j].selected) for i, j in pairs]
    correlations = [rank_correlation(scores[i], scores[j]) for i, j in pairs]
    usable = [value for value in correlations if value is not None]
    complete = len(usable) == len(pairs)
    return {
        "n": len(discoveries),
        "jaccard": float(np.mean([1.0 if value is None else value for value in overlaps])),
        "rank_correlation": float(np.mean(usable)) if complete else None,
        "selected_share": selected.mean(axis=0).tolist(),
        "undefined": {} if complete else {"rank_correlation": "a ranking has equal scores only"},
    }


def stability(
    method: Method,
    make_oracle: Callable[[int], Oracle],
    seed: int,
    resamples: int = 100,
    seeds: int = 5,
) -> dict[str, Any]:
    """Agreement of a method with itself over fresh prompts, and over its own seeds.

    Args:
        method: ready to discover (trained, if it learns).
        make_oracle: a fresh oracle, with its own budget and meter, whose prompts are drawn
            from the seed it is given.
        seed: root of all draws.
        resamples: discoveries on different prompts with one method seed.
        seeds: discoveries with different method seeds on the same prompts.

    Returns:
        ``prompts`` and ``seeds``: see :func:`agreement`.
    """

    def discover(prompts: int, repetition: int) -> Discovery:
        oracle = make_oracle(derive_seed(seed, "stability", "prompts", prompts))
        return method.discover(oracle, generator(seed, "stability", "method", repetition))

    return {
        "prompts": agreement([discover(i, 0) for i in range(resamples)]),
        "seeds": agreement([discover(0, i) for i in range(seeds)]),
    }
