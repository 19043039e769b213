"""Does one number of a run predict another? Pure functions on arrays.

Numbers are ``[methods, runs]``, NaN where a run has none, and **higher is better**: whoever calls
turns them round. A run here is a place (a task on a model) with a seed; its column holds what each
method made of it. ``weights [runs, repetitions]`` are those of
:func:`circuitbench.evaluation.statistics.resampling_weights`, so every interval resamples what was
drawn: plantings, then tasks, then prompts. Methods are not resampled: they are who they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from circuitbench.evaluation.statistics import centred_ranks, rank_correlations

FEWEST = 3
"""With fewer methods than this, a rank correlation says nothing."""
LEVEL = 0.95


class Spread(NamedTuple):
    """An estimate with its percentile interval (None where nothing was resampled)."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Noise:
    """How far a number moves when only the seed changes, against how far methods are apart.

    Args:
        reseed: standard deviation of one run of a method on one task, over seeds, once what a seed
            does to all methods alike is taken away; in the number's unit.
        between: standard deviation of methods on a task, without that noise.
        reliability: ``between^2 / (between^2 + reseed^2)``, the share of one run's variance that
            is the method's (intraclass correlation), in [0, 1].
    """

    reseed: float
    between: float
    reliability: float


def over_methods(proxy: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> Spread | None:
    """Spearman's correlation over methods of their means: does the better method look better?

    A method's two means are over the same runs, those that have both numbers; a method that has
    them in fewer than half of the runs is left out. None with fewer than three methods, or where
    the truth tells none apart; 0 where only the proxy is constant.
    """
    both = _usable(proxy, truth)
    kept = 2 * both.sum(axis=1) >= max(1, both.any(axis=0).sum())
    if kept.sum() < FEWEST:
        return None
    both, every = both[kept], _with_whole(weights)
    shares = both @ every
    there = (shares > 0).all(axis=0)
    shares, every = shares[:, there], every[:, there]
    ours, theirs = (np.where(both, values[kept], 0) @ every / shares for values in (proxy, truth))
    if np.ptp(np.round(theirs[:, 0], 12)) == 0:
        return None
    return _spread(rank_correlations(ours, theirs))


def within_places(proxy: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> Spread | None:
    """Spearman's correlation over methods on one run, mean over runs: which answer is better here?

    This is the question of whoever has several circuits of one behaviour and no truth. Runs whose
    truth does not differ between methods say nothing and are left out; None if all are.
    """
    both = _usable(proxy, truth)
    found = np.full(both.shape[1], np.nan)
    for run in np.flatnonzero(both.any(axis=0)):
        ours, theirs = proxy[both[:, run], run], truth[both[:, run], run]
        if np.ptp(np.round(theirs, 12)) > 0:
            found[run] = rank_correlations(ours[:, None], theirs[:, None])[0]
    return mean_over_runs(found, weights)


def over_everything(proxy: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> Spread | None:
    """Spearman's correlation over methods x runs at once: does a value mean the same elsewhere?

    Ranks are those in the whole sample; resamples weigh them. None where the truth is constant.
    """
    both = _usable(proxy, truth)
    if not both.any() or np.ptp(np.round(truth[both], 12)) == 0:
        return None
    runs = np.nonzero(both)[1]
    one, two = (centred_ranks(values[both][:, None])[:, 0] for values in (proxy, truth))
    shares = _with_whole(weights)[runs]
    total = shares.sum(axis=0)
    shares = shares[:, total > 0] / total[total > 0]
    first, second = one @ shares, two @ shares
    covariance = (one * two) @ shares - first * second
    size = np.sqrt((one**2 @ shares - first**2).clip(0) * (two**2 @ shares - second**2).clip(0))
    return _spread(np.divide(covariance, size, out=np.zeros_like(size), where=size > 1e-9))


def chosen_by(proxy: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> Spread | None:
    """The mean truth of whichever method the proxy prefers on each run; ties share.

    Methods without a number there cannot be chosen.
    """
    found = np.full(proxy.shape[1], np.nan)
    for run in range(proxy.shape[1]):
        there = np.isfinite(proxy[:, run]) & np.isfinite(truth[:, run])
        if there.sum() >= FEWEST:
            scores = np.round(proxy[there, run], 12)
            found[run] = truth[there, run][scores == scores.max()].mean()
    return mean_over_runs(found, weights)


def mean_over_runs(values: np.ndarray, weights: np.ndarray) -> Spread | None:
    """The mean of ``values [runs]`` that exist, with its interval; None if none does."""
    known = np.isfinite(values)
    if not known.any():
        return None
    every = _with_whole(weights)[known]
    total = every.sum(axis=0)
    return _spread(values[known] @ every[:, total > 0] / total[total > 0])


def noise(values: np.ndarray) -> Noise | None:
    """Reseed noise of a number, from ``[methods, tasks, seeds]``, pooled over tasks.

    On each task, the methods that have all seeds: a two-way analysis of variance without
    repetition (methods x seeds). What is left beside both means is noise; the variance of the
    methods' means less a seed's share of noise is what is between methods. None where no task has
    two methods and two seeds.
    """
    n_seeds = values.shape[2]
    left, apart = [], []
    for task in range(values.shape[1]):
        table = values[np.isfinite(values[:, task]).all(axis=1), task]
        if len(table) < 2 or n_seeds < 2:
            continue
        rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
        left.append((rest**2).sum() / ((len(table) - 1) * (n_seeds - 1)))
        apart.append(max(0.0, table.mean(axis=1).var(ddof=1) - left[-1] / n_seeds))
    if not left:
        return None
    within, between = float(np.mean(left)), float(np.mean(apart))
    whole = within + between
    return Noise(within**0.5, between**0.5, between / whole if whole > 0 else 0.0)


def told_apart(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Which pairs of methods a number tells apart, ``[pairs]``: 1, -1 (the second is better) or 0.

    A pair is told apart if the 95 % interval of its mean difference, over the runs that both have,
    does not hold 0; none without resamples. Pairs are in the order of
    ``np.triu_indices(methods, 1)``.
    """
    first, second = np.triu_indices(len(values), 1)
    differences = values[first] - values[second]
    if not weights.shape[1]:
        return np.zeros(len(differences), dtype=int)
    both = np.isfinite(differences)
    shares = both @ weights
    means = np.divide(
        np.where(both, differences, 0) @ weights,
        shares,
        out=np.zeros_like(shares),
        where=shares > 0,
    )
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    return np.asarray((low > 1e-12).astype(int) - (high < -1e-12).astype(int))


def _usable(proxy: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Which numbers count, ``[methods, runs]``: both there, in a run with enough such methods."""
    both = np.isfinite(proxy) & np.isfinite(truth)
    return np.asarray(both & (both.sum(axis=0) >= FEWEST))


def _with_whole(weights: np.ndarray) -> np.ndarray:
    """The sample itself before its resamples, ``[runs, 1 + repetitions]``."""
    whole = np.full((len(weights), 1), 1 / max(1, len(weights)))
    return np.hstack([whole, weights])


def _spread(found: np.ndarray) -> Spread:
    """The first as the estimate, the percentiles of the others as its interval."""
    value = float(found[0])
    if len(found) < 2 or np.ptp(found) == 0:
        return Spread(value, None)
    low, high = np.quantile(found[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Spread(value, (float(low), float(high)))
