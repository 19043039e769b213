"""Where entries stand: means over a full grid, ranks, ties. Incomplete entries get none of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from circuitbench.core.seeding import generator
from circuitbench.evaluation.metrics import Metric, of_kind
from circuitbench.evaluation.statistics import (
    bootstrap_interval,
    interquartile_mean,
    tied_with_best,
)
from circuitbench.results.run_row import RunRow
from circuitbench_leaderboard.entries import Entry, Grid, TaskOnModel, Value, widest_grid

LEVEL = 0.05
Mark = Literal["best", "tied", "untested", ""]


@dataclass(frozen=True)
class Estimate:
    """A mean over the grid's runs, and how sure it is.

    Args:
        mean: over all runs; as every task has the same seeds, tasks weigh the same.
        iqm: interquartile mean.
        interval: 95 % stratified bootstrap interval of the mean, None with one run per task
            (nothing to resample) or where none was asked for.
        mark: ``best``; ``tied`` (cannot be told from the best); ``untested`` (differs from the
            best in too few runs for the test to tell them apart); or nothing: told apart.
    """

    mean: float
    iqm: float
    interval: tuple[float, float] | None = None
    mark: Mark = ""


@dataclass(frozen=True)
class Standing:
    """One entry's place. ``rank`` is None unless all ``expected`` runs are there."""

    entry: Entry
    rank: int | None
    done: int
    expected: int
    estimates: Mapping[str, Estimate | None] = field(default_factory=dict)
    runs: tuple[RunRow, ...] = ()


@dataclass(frozen=True)
class Ranking:
    """All entries by one metric over one grid, best first, the incomplete ones last.

    ``tested`` is False where there are too few runs for any test to tell two entries apart; then
    no entry is marked as tied.
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

    ``intervals`` asks for the intervals of all quality metrics, not that of ``by`` alone.

    Entries are told apart by sign-flip tests on runs of the same task, model and seed, against
    the best, Holm-corrected, at the 5 % level. The result does not depend on the order of
    entries, and an incomplete entry changes nobody's place.
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
    ranks = _ranks(main, by.sign)
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
    # An incomplete entry shows nothing: means over different runs would invite comparison.
    shown = {
        key: [e if rank is not None else None for e, rank in zip(column, ranks, strict=True)]
        for key, column in {by.key: main, **others}.items()
    }
    standings = [
        Standing(
            entry,
            ranks[i],
            grid.covered(values[i]),
            grid.size,
            {key: column[i] for key, column in shown.items()},
            tuple(runs[id(entry)]),
        )
        for i, entry in enumerate(entries)
    ]
    standings.sort(key=lambda s: (s.rank is None, s.rank or 0, s.entry.label))
    n_ranked = sum(rank is not None for rank in ranks)
    return Ranking(by, grid, tuple(standings), _testable(n_ranked, grid.size))


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
    marks: list[Mark] = _marks(sign * table, key) if sign else [""] * len(complete)
    for i, row, mark in zip(complete, table, marks, strict=True):
        span = None
        if interval and len(grid.seeds) > 1:
            rng = generator(0, "leaderboard", key, entries[i].label)
            span = bootstrap_interval(list(complete[i]), rng, np.mean)
        result[i] = Estimate(float(row.mean()), float(interquartile_mean(row)), span, mark)
    return result


def _marks(table: np.ndarray, key: str) -> list[Mark]:
    means = _rounded(table.mean(axis=1))
    best = means == means.max()
    if not _testable(*table.shape):
        return ["best" if b else "" for b in best]
    tied = tied_with_best(table, generator(0, "leaderboard", key), LEVEL)
    # Runs that are equal carry no sign to flip.
    differing = (table != table[means.argmax()]).sum(axis=1)
    marks: list[Mark] = []
    for b, t, runs in zip(best, tied, differing, strict=True):
        if b or not t:
            marks.append("best" if b else "")
        else:
            marks.append("tied" if _testable(len(table), int(runs)) else "untested")
    return marks


def _ranks(estimates: Sequence[Estimate | None], sign: int) -> list[int | None]:
    scores = _rounded(np.array([np.nan if e is None else sign * e.mean for e in estimates]))
    # Of equal scores all get the best place.
    return [
        None if e is None else 1 + int((scores > score).sum())
        for e, score in zip(estimates, scores, strict=True)
    ]


def _rounded(means: np.ndarray) -> np.ndarray:
    """Equal scores summed in another order must still tie."""
    return np.round(means, 12)


def _testable(n_entries: int, n_runs: int) -> bool:
    """Whether the smallest p-value the test can give survives Holm's correction."""
    return n_entries > 1 and 2.0 ** (1 - n_runs) * (n_entries - 1) < LEVEL
