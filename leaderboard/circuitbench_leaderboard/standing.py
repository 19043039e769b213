"""Where entries stand: means over a full grid, ranks, ties. Incomplete entries get none of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

from circuitbench.core.seeding import generator
from circuitbench.evaluation.metrics import DEFAULT, Metric, of_kind
from circuitbench.evaluation.statistics import (
    interquartile_mean,
    resampling_weights,
    tied_with_best,
    units_of,
)
from circuitbench.results.run_row import RunRow
from circuitbench_leaderboard.entries import Entry, Grid, TaskOnModel, Value, widest_grid
from circuitbench_leaderboard.groups import TRACKS

LEVEL = 0.05
PLACED_BY = {DEFAULT: "rounded_average_precision"}
"""A metric -> the one that decides places by it: a place won inside near ties is shown as a tie."""
Mark = Literal["best", "tied", "untested", ""]


@dataclass(frozen=True)
class Estimate:
    """A mean over the grid's runs, and how sure it is.

    Args:
        mean: over all runs; as every task has the same seeds, tasks weigh the same.
        iqm: interquartile mean.
        interval: 95 % bootstrap interval of the mean, see
            :func:`circuitbench.evaluation.statistics.resampling_weights`; None with one seed or
            where none was asked for.
        mark: ``best``; ``tied`` (cannot be told from the best); ``untested`` (differs from the
            best in too few runs for the test to tell them apart); or nothing: told apart.
    """

    mean: float
    iqm: float
    interval: tuple[float, float] | None = None
    mark: Mark = ""


@dataclass(frozen=True)
class Standing:
    """One entry's place among those of its track. ``rank`` is None unless all ``expected`` runs
    are there; ``shared`` says that others have the same."""

    entry: Entry
    rank: int | None
    done: int
    expected: int
    estimates: Mapping[str, Estimate | None] = field(default_factory=dict)
    runs: tuple[RunRow, ...] = ()
    shared: bool = False


@dataclass(frozen=True)
class Ranking:
    """All entries by one metric over one grid: track by track, best first, the incomplete last.

    Places and marks are within a track. ``tested`` is False where too little was drawn for any
    test to tell two entries apart; then no entry is marked as tied.
    """

    by: Metric
    grid: Grid
    standings: tuple[Standing, ...]
    tested: bool


def value_of(metric: Metric) -> Value:
    """A metric as a function of a run."""
    return lambda run: run.values.get(metric.key)


def main_metrics() -> tuple[Metric, ...]:
    """What the main tables show: every metric of quality, then every cost."""
    return (*of_kind("quality"), *of_kind("cost"))


def ranking(
    entries: Sequence[Entry],
    by: Metric,
    task: TaskOnModel | None = None,
    intervals: bool = False,
) -> Ranking:
    """Rank ``entries`` by their mean of ``by`` over the widest grid (on ``task``, if given).

    Places by average precision count near ties as ties (:data:`PLACED_BY`): whoever is ahead by the
    tie-breaks of its own scores alone is not.

    ``intervals`` asks for the intervals of all quality metrics, not that of ``by`` alone.

    Entries are told apart from the best of their track by sign-flip tests on what was drawn
    (:func:`circuitbench.evaluation.statistics.units_of`), Holm-corrected, at the 5 % level. The
    result does not depend on the order of entries, and an incomplete entry changes nobody's place.
    """
    runs = {
        id(entry): [run for run in entry.runs if task is None or TaskOnModel.of(run) == task]
        for entry in entries
    }
    entries = [entry for entry in entries if runs[id(entry)]]
    entries = sorted(entries, key=lambda e: (e.label, str(sorted(e.settings.items()))))
    values = [e.values(value_of(by), None if task is None else [task]) for e in entries]
    grid = widest_grid(values)
    main = estimates(entries, value_of(by), grid, by.key, sign=by.sign, interval=True)
    others = {
        m.key: estimates(
            entries,
            value_of(m),
            grid,
            m.key,
            sign=0 if m.is_cost else m.sign,
            interval=intervals and not m.is_cost,
        )
        for m in main_metrics()
        if m != by
    }
    near = others.get(PLACED_BY.get(by.key, ""), main)
    ranks = places(main, near, by, [entry.track for entry in entries])
    # An incomplete entry shows nothing: means over different runs would invite comparison.
    shown = {
        key: [e if rank is not None else None for e, rank in zip(column, ranks, strict=True)]
        for key, column in {by.key: main, **others}.items()
    }
    taken = Counter((e.track, rank) for e, rank in zip(entries, ranks, strict=True))
    standings = [
        Standing(
            entry,
            ranks[i],
            grid.covered(values[i]),
            grid.size,
            {key: column[i] for key, column in shown.items()},
            tuple(runs[id(entry)]),
            ranks[i] is not None and taken[entry.track, ranks[i]] > 1,
        )
        for i, entry in enumerate(entries)
    ]
    order = list(TRACKS.values())
    standings.sort(
        key=lambda s: (order.index(s.entry.track), s.rank is None, s.rank or 0, s.entry.label)
    )
    ranked = Counter(s.entry.track for s in standings if s.rank is not None)
    units = int(units_of(plantings(entries, grid)).max()) + 1 if grid.size else 0
    return Ranking(by, grid, tuple(standings), any(_testable(n, units) for n in ranked.values()))


def on_grid(entry: Entry, of: Value, grid: Grid) -> np.ndarray | None:
    """A number of the grid's runs, ``[tasks, seeds]``; None unless all of them have it."""
    numbers = []
    for task in grid.tasks:
        runs = entry.finished.get(task, {})
        for seed in grid.seeds:
            value = of(runs[seed]) if seed in runs else None
            if value is None:
                return None
            numbers.append(value)
    return np.array(numbers, dtype=float).reshape(len(grid.tasks), len(grid.seeds))


def estimates(
    entries: Sequence[Entry],
    of: Value,
    grid: Grid,
    key: str,
    *,
    sign: int = 1,
    interval: bool = False,
) -> list[Estimate | None]:
    """The mean of a number over the grid's runs, per entry; None unless all runs have it.

    ``sign`` is 1 where higher is better, -1 where lower is, 0 where neither is and nothing gets
    a mark; ``key`` names the random stream of tests and intervals.
    """
    result: list[Estimate | None] = [None] * len(entries)
    found = [on_grid(entry, of, grid) if grid.size else None for entry in entries]
    complete = {i: values for i, values in enumerate(found) if values is not None}
    if not complete:
        return result
    table = np.array([values.ravel() for values in complete.values()])
    design = plantings(entries, grid)
    marks: dict[int, Mark] = {}
    for track in {entries[i].track for i in complete} if sign else ():
        rows = [row for row, i in enumerate(complete) if entries[i].track == track]
        marks |= zip(rows, _marks(sign * table[rows], units_of(design).ravel(), key), strict=True)
    spans: dict[int, tuple[float, float]] = {}
    if interval and len(grid.seeds) > 1:
        low, high = np.quantile(table @ resamples(design), [0.025, 0.975], axis=1)
        spans = {row: (float(low[row]), float(high[row])) for row in range(len(table))}
    for row, i in enumerate(complete):
        values, middle = table[row], float(interquartile_mean(table[row]))
        result[i] = Estimate(float(values.mean()), middle, spans.get(row), marks.get(row, ""))
    return result


def plantings(entries: Sequence[Entry], grid: Grid) -> np.ndarray:
    """Which model the grid's runs are on, ``[tasks, seeds]``: a number for every model.

    Entries agree in it: plantings follow from tier and seed.
    """
    names: dict[str, int] = {}
    design = np.zeros((len(grid.tasks), len(grid.seeds)), dtype=int)
    for t, task in enumerate(grid.tasks):
        for s, seed in enumerate(grid.seeds):
            runs = (entry.finished.get(task, {}).get(seed) for entry in entries)
            model = next(run.model_name for run in runs if run is not None)
            design[t, s] = names.setdefault(model, len(names))
    return design


def resamples(design: np.ndarray) -> np.ndarray:
    """Weights of the grid's runs in resamples of what was drawn, ``[runs, resamples]``.

    The same for all entries, so that what is compared is compared on the same resamples.
    """
    rows = tuple(tuple(int(x) for x in row) for row in design)
    return _resamples(rows)


@lru_cache(maxsize=32)
def _resamples(rows: tuple[tuple[int, ...], ...]) -> np.ndarray:
    weights = resampling_weights(np.array(rows), generator(0, "leaderboard", "resamples"))
    return np.ascontiguousarray(weights.reshape(len(weights), -1).T)


def _marks(runs: np.ndarray, units: np.ndarray, key: str) -> list[Mark]:
    """Marks of entries ``[entries, runs]``; ``units [runs]`` says what was drawn together."""
    means = _rounded(runs.mean(axis=1))
    best = means == means.max()
    table = np.stack([runs[:, units == unit].sum(axis=1) for unit in range(units.max() + 1)], 1)
    if not _testable(*table.shape):
        return ["best" if b else "" for b in best]
    tied = tied_with_best(table, generator(0, "leaderboard", key), LEVEL)
    # What is equal carries no sign to flip.
    differing = (_rounded(table) != _rounded(table[means.argmax()])).sum(axis=1)
    marks: list[Mark] = []
    for b, t, runs in zip(best, tied, differing, strict=True):
        if b or not t:
            marks.append("best" if b else "")
        else:
            marks.append("tied" if _testable(len(table), int(runs)) else "untested")
    return marks


def places(
    main: Sequence[Estimate | None],
    near: Sequence[Estimate | None],
    by: Metric,
    tracks: Sequence[str],
) -> list[int | None]:
    """Places within tracks by a metric; of equal scores all get the best place.

    ``near`` is what :data:`PLACED_BY` names; it decides where whoever has the metric has it.
    """
    paired = list(zip(main, near, strict=True))
    decisive = near if all((m is None) == (n is None) for m, n in paired) else main
    scores = _rounded(np.array([np.nan if e is None else by.sign * e.mean for e in decisive]))
    theirs = np.array(tracks, dtype=object)
    return [
        None if e is None else 1 + int((scores[theirs == track] > score).sum())
        for e, score, track in zip(decisive, scores, tracks, strict=True)
    ]


def _rounded(means: np.ndarray) -> np.ndarray:
    """Equal scores summed in another order must still tie."""
    return np.round(means, 12)


def _testable(n_entries: int, n_runs: int) -> bool:
    """Whether the smallest p-value the test can give survives Holm's correction."""
    return n_entries > 1 and 2.0 ** (1 - n_runs) * (n_entries - 1) < LEVEL
