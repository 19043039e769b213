"""Statistics over runs: averages with intervals, profiles, and tests between methods.

Pure functions on numpy arrays. A *stratum* is the scores of one method on one task, one value
per seed; strata of one method may differ in length. Nothing here accepts a missing value: what
to do with an incomplete method is decided first, in :mod:`circuitbench_leaderboard.standing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from circuitbench.core.errors import InvalidSpec

EXACT_PAIRS = 16  # up to here all 2^n sign flips are enumerated
FLIPS = 20_000
SIGNS_AT_ONCE = 4_000_000  # 32 MB
Statistic = Callable[..., np.ndarray]


def _finite(values: Sequence[float] | np.ndarray, what: str) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.size == 0 or not np.isfinite(array).all():
        raise InvalidSpec(f"{what} must be finite numbers, at least one, with none missing")
    return array


def interquartile_mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean of the middle half: a quarter of the values (rounded down) is cut at each end.

    Agarwal et al. 2021 (arXiv 2108.13264), section 4.3: over the runs of all tasks together.
    With 3 or fewer values it is the mean. ``scipy.stats.trim_mean``, without the second that
    importing it takes.
    """
    scores = _finite(values, "scores")
    scores, axis = (scores.ravel(), 0) if axis is None else (scores, axis)
    n = scores.shape[axis]
    cut = n // 4
    ordered = np.partition(scores, (cut, n - cut - 1), axis)
    return np.asarray(np.take(ordered, range(cut, n - cut), axis).mean(axis))


def bootstrap_interval(
    strata: Sequence[np.ndarray],
    rng: np.random.Generator,
    statistic: Statistic = interquartile_mean,
    level: float = 0.95,
    repetitions: int = 2000,
) -> tuple[float, float]:
    """Percentile interval of a statistic over all runs, resampling runs within each task.

    The stratified bootstrap of Agarwal et al. 2021 (arXiv 2108.13264), section 4.2. One run per
    task leaves nothing to resample: the interval then has width 0 and says nothing.

    Args:
        strata: per task, the scores of its runs.
        statistic: called with ``[repetitions, runs]`` and ``axis=-1``.
        level: coverage, in (0, 1).
    """
    if not 0 < level < 1:
        raise InvalidSpec(f"level must be between 0 and 1, not {level}")
    if not len(strata):
        raise InvalidSpec("an interval needs at least one task")
    runs = [_finite(stratum, "scores") for stratum in strata]
    drawn = [x[rng.integers(len(x), size=(repetitions, len(x)))] for x in runs]
    values = statistic(np.concatenate(drawn, axis=1), axis=-1)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampling_weights(
    plantings: np.ndarray, rng: np.random.Generator, repetitions: int = 2000
) -> np.ndarray:
    """Weights of runs in resamples of what was drawn, ``[repetitions, tasks, runs]``, each sum 1.

    A hierarchical bootstrap (Davison & Hinkley 1997, section 3.8). Level by level, with
    replacement: **plantings** (tasks on the same ones share the draw), **tasks**, and **prompts**,
    the runs of a task on one planting. A level of one member has nothing to resample. A mean in
    every resample is its weights times the runs' values, so the same resamples serve all methods.

    Args:
        plantings: ``[tasks, runs]``, for every run a number that names the model it was on.
    """
    design = np.asarray(plantings)
    n_tasks, n_runs = design.shape
    weights = np.zeros((repetitions, n_tasks, n_runs))
    counts: dict[tuple[int, ...], np.ndarray] = {}
    for task, row in enumerate(design):
        names, which = np.unique(row, return_inverse=True)
        shared = tuple(int(name) for name in names)
        if shared not in counts:
            even = np.full(len(names), 1 / len(names))
            counts[shared] = rng.multinomial(len(names), even, size=repetitions)
        for i in range(len(names)):
            runs = np.flatnonzero(which == i)
            even = np.full(len(runs), 1 / len(runs))
            weights[:, task, runs] = rng.multinomial(counts[shared][:, i] * len(runs), even)
    weights /= weights.sum(axis=2, keepdims=True)
    times = rng.multinomial(n_tasks, np.full(n_tasks, 1 / n_tasks), size=repetitions)
    return np.asarray(weights * (times / n_tasks)[:, :, None])


def units_of(plantings: np.ndarray) -> np.ndarray:
    """What was drawn apart, ``[tasks, runs]``: a number for every run, equal within a unit.

    A planting where a task's plantings differ between its runs; else the task on its model. If
    that is one unit only, every run is one: it has prompts of its own.
    """
    design = np.asarray(plantings)
    names: dict[tuple[str, int], int] = {}
    units = np.zeros(design.shape, dtype=int)
    for task, row in enumerate(design):
        drawn = len(set(row.tolist())) > 1
        for run, planting in enumerate(row.tolist()):
            name = ("planting", planting) if drawn else ("task", task)
            units[task, run] = names.setdefault(name, len(names))
    return units if len(names) > 1 else np.arange(design.size).reshape(design.shape)


def disjoint_groups(intervals: Sequence[tuple[float, float]]) -> int:
    """How many of the intervals can be chosen so that no two of them meet."""
    groups, reach = 0, -np.inf
    for low, high in sorted(intervals, key=lambda interval: interval[1]):
        if low > reach:
            groups, reach = groups + 1, high
    return groups


def rank_transfer(
    ours: np.ndarray, theirs: np.ndarray, level: float = 0.95
) -> tuple[float, tuple[float, float]] | None:
    """Spearman's correlation of two rankings of the same methods, with its interval.

    Args:
        ours, theirs: ``[1 + repetitions, methods]``; the means first, then those in every resample
            of :func:`resampling_weights`.

    Returns:
        The correlation of the means, and the percentiles of that over resamples; None with fewer
        than three methods, or where one ranking is constant.
    """
    if ours.shape[1] < 3 or np.ptp(ours[0]) == 0 or np.ptp(theirs[0]) == 0:
        return None
    found = rank_correlations(ours.T, theirs.T)
    low, high = np.quantile(found[1:], [(1 - level) / 2, (1 + level) / 2])
    return float(found[0]), (float(low), float(high))


def centred_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks within each column of ``[methods, columns]``, ties by mid-ranks, with mean 0.

    What differs in the 12th decimal ties: sums in another order do.
    """
    from scipy.stats import rankdata  # as everywhere here: imported where it is needed

    ranks = np.asarray(rankdata(np.round(values, 12), axis=0))
    return np.asarray(ranks - ranks.mean(axis=0))


def rank_correlations(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each column of two ``[methods, columns]``; 0 if one is constant."""
    one, two = centred_ranks(ours), centred_ranks(theirs)
    size = np.sqrt((one**2).sum(axis=0) * (two**2).sum(axis=0))
    found = np.divide((one * two).sum(axis=0), size, out=np.zeros_like(size), where=size > 0)
    return np.asarray(found)


def performance_profile(strata: Sequence[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """Share of runs that score above each threshold, tasks weighted equally, ``[thresholds]``.

    ``1/M sum_m 1/N_m sum_n [x_mn > tau]``, the score distribution of Agarwal et al. 2021
    (arXiv 2108.13264), section 4.1 (after Dolan & Moré 2002). Falls from 1 to 0; higher is
    better.
    """
    taus = np.asarray(thresholds, dtype=float)
    shares = [(_finite(x, "scores")[:, None] > taus).mean(axis=0) for x in strata]
    return np.asarray(np.mean(shares, axis=0))


def probability_of_improvement(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """P(a random run of ours beats one of theirs on the same random task), ties one half.

    The mean over tasks of the Mann-Whitney U over ``N * K`` (Agarwal et al. 2021, section 4.3
    and appendix A.3). In [0, 1], 0.5 = no difference.
    """
    if len(ours) != len(theirs):
        raise InvalidSpec(f"{len(ours)} tasks cannot be compared with {len(theirs)}")
    wins = []
    for x, y in zip(ours, theirs, strict=True):
        difference = _finite(x, "scores")[:, None] - _finite(y, "scores")[None, :]
        wins.append((np.sign(difference) + 1).mean() / 2)
    return float(np.mean(wins))


def paired_test(ours: np.ndarray, theirs: np.ndarray, rng: np.random.Generator) -> float:
    """Two-sided p-value that matched runs differ in the mean; see :func:`paired_tests`.

    Args:
        ours, theirs: ``[pairs]``, matched by task and seed.
    """
    return float(paired_tests(ours, np.asarray(theirs)[None], rng)[0])


def paired_tests(ours: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two-sided p-values that matched runs differ in the mean, ``[others]``: Fisher's sign flips.

    Under the null each pair's difference is as likely to have either sign. Up to 16 pairs all
    ``2^n`` sign patterns are counted (exact); beyond, 20,000 are drawn, the observed one
    included, and serve all the tests. Zero differences stay zero. Five pairs cannot give less
    than 2/32 = 0.0625.

    ``scipy.stats.permutation_test`` counts the same patterns, but one comparison at a time, and
    takes a second to import.

    Args:
        ours: ``[pairs]``.
        others: ``[others, pairs]``, columns matched with ``ours`` by task and seed.
    """
    a, b = _finite(ours, "scores"), _finite(others, "scores")
    if b.ndim != 2 or a.shape != b.shape[1:]:
        raise InvalidSpec(f"paired scores must match: {a.shape} against {b.shape[1:]}")
    differences = (a - b).T
    least = np.abs(differences.sum(axis=0)) - 1e-12 * np.abs(differences).sum(axis=0)  # rounding
    extreme = np.zeros(len(b))
    total = 0
    for signs in _sign_patterns(len(a), rng):
        extreme += (np.abs(signs @ differences) >= least).sum(axis=0)
        total += len(signs)
    return np.asarray(extreme / total)


def _sign_patterns(n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Patterns of +1 and -1, ``[patterns, n]``, some at a time; the first is all +1."""
    if n <= EXACT_PAIRS:
        yield 1.0 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return
    at_once = max(1, SIGNS_AT_ONCE // n)
    for start in range(0, FLIPS, at_once):
        signs = 2.0 * rng.integers(0, 2, size=(min(at_once, FLIPS - start), n)) - 1
        if start == 0:
            signs[0] = 1
        yield signs


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's (1979) adjusted p-values, in the order given: family-wise error in any dependence.

    ``max over j <= i of min(1, (n - j + 1) p_(j))`` for the i-th smallest.
    """
    p = np.asarray(p_values, dtype=float)
    if p.size == 0:
        return p
    if not ((p >= 0) & (p <= 1)).all():
        raise InvalidSpec("p-values must be between 0 and 1")
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, steps)
    return adjusted


def tied_with_best(scores: np.ndarray, rng: np.random.Generator, level: float = 0.05) -> np.ndarray:
    """Which methods cannot be told from the best mean, ``[methods]`` bool (the best is True).

    Every other method is compared with the best by :func:`paired_tests`, Holm-corrected.

    Args:
        scores: ``[methods, pairs]``, columns matched by task and seed; higher is better.
    """
    table = _finite(scores, "scores")
    best = int(table.mean(axis=1).argmax())
    others = [m for m in range(len(table)) if m != best]
    tied = np.ones(len(table), dtype=bool)
    if others:
        tied[others] = holm(paired_tests(table[best], table[others], rng)) >= level
    return tied


@dataclass(frozen=True)
class CriticalDifference:
    """What a critical-difference diagram shows (Demšar 2006).

    Args:
        mean_ranks: ``[methods]``, 1 = best, ties shared.
        difference: mean ranks further apart than this differ (Nemenyi); rank units.
        friedman: Friedman's chi-square, and ``iman_davenport`` the F statistic from it (None,
            infinite, where all datasets order the methods alike).
        p_value: of the F statistic: are there any differences at all?
        groups: maximal sets of methods (indices, best first) not told apart.
    """

    mean_ranks: np.ndarray
    difference: float
    friedman: float
    iman_davenport: float | None
    p_value: float
    groups: tuple[tuple[int, ...], ...]


def mean_ranks(scores: np.ndarray) -> np.ndarray:
    """Mean rank of each method over datasets, ``[methods]``; 1 = highest score, ties shared.

    Args:
        scores: ``[datasets, methods]``.
    """
    from scipy.stats import rankdata  # as everywhere here: imported where a figure needs it

    return np.asarray(rankdata(-_finite(scores, "scores"), axis=1).mean(axis=0))


def nemenyi_difference(n_methods: int, n_datasets: int, level: float = 0.05) -> float:
    """``q * sqrt(k (k + 1) / (6 N))``, q from the Studentized range over sqrt(2) (Demšar 2006)."""
    from scipy.stats import studentized_range

    q = studentized_range.ppf(1 - level, n_methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(n_methods * (n_methods + 1) / (6 * n_datasets)))


def critical_difference(scores: np.ndarray, level: float = 0.05) -> CriticalDifference:
    """Friedman's test with the Nemenyi post-hoc test, as Demšar 2006, section 3.2.2.

    ``chi2 = 12 N / (k (k + 1)) (sum R^2 - k (k + 1)^2 / 4)``, without a correction for ties
    (conservative), and ``F = (N - 1) chi2 / (N (k - 1) - chi2)``.

    Args:
        scores: ``[datasets, methods]``, at least 2 x 2, none missing; higher is better.
        level: of the Nemenyi test.
    """
    from scipy.stats import f as f_distribution

    table = _finite(scores, "scores")
    if table.ndim != 2 or min(table.shape) < 2:
        raise InvalidSpec(
            f"a critical difference needs at least 2 datasets and 2 methods, not {table.shape}"
        )
    n, k = table.shape
    ranks = mean_ranks(table)
    chi2 = 12 * n / (k * (k + 1)) * float((ranks**2).sum() - k * (k + 1) ** 2 / 4)
    chi2 = max(chi2, 0.0)
    rest = n * (k - 1) - chi2
    f, p_value = None, 0.0
    if rest > 1e-9:
        f = (n - 1) * chi2 / rest
        p_value = float(f_distribution.sf(f, k - 1, (k - 1) * (n - 1)))
    difference = nemenyi_difference(k, n, level)
    return CriticalDifference(ranks, difference, chi2, f, p_value, rank_groups(ranks, difference))


def rank_groups(ranks: np.ndarray, difference: float) -> tuple[tuple[int, ...], ...]:
    """Maximal runs of methods, best first, whose mean ranks lie within ``difference``."""
    order = np.argsort(ranks, kind="stable")
    groups: list[tuple[int, ...]] = []
    reach = 0
    for start in range(len(order)):
        end = int((ranks[order] <= ranks[order[start]] + difference + 1e-12).sum())
        if end > reach:
            groups.append(tuple(int(m) for m in order[start:end]))
            reach = end
    return tuple(groups)
