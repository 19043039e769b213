"""Where entries stand: means over a full grid, ranks, ties. Incomplete entries get none of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.stats import rankdata

from circuitbench.core.seeding import generator
from circuitbench.evaluation.statistics import (
    bootstrap_interval,
    interquartile_mean,
    tied_with_best,
)
from circuitbench.results import Record
from circuitbench_leaderboard.entries import Cell, Entry, Grid, widest_grid
from circuitbench_leaderboard.metrics import METRICS, Metric

LEVEL = 0.05
Mark = Literal["best", "tied", "untested", ""]
Values = Mapping[Cell, Mapping[int, float]]


@dataclass(frozen=True)
class Estimate:
    """A mean over the grid's runs, and how sure it is.

    Args:
        mean: over all runs; as every cell has the same seeds, cells weigh the same.
        iqm: interquartile mean.
        interval: 95 % stratified bootstrap interval of the mean, None with one run per cell
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
    records: tuple[Record, ...] = ()


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


def ranking(
    entries: Sequence[Entry],
    by: Metric,
    cells: Sequence[Cell] | None = None,
    intervals: bool = False,
) -> Ranking:
    """Rank ``entries`` by their mean of ``by`` over the widest grid (of ``cells``, if given).

    ``intervals`` asks for the intervals of all quality metrics, not that of ``by`` alone.

    Entries are told apart by sign-flip tests on runs of the same cell and seed, against the best,
    Holm-corrected, at the 5 % level. The result does not depend on the order of entries, and an
    incomplete entry changes nobody's place.
    """
    if cells is not None:
        wanted = set(cells)
        entries = [e for e in entries if any(_cell(r) in wanted for r in e.records)]
    entries = sorted(entries, key=lambda e: (e.label, str(sorted(e.settings.items()))))
    values = [_within(e.values(by.of), cells) for e in entries]
    grid = widest_grid(values)
    main = estimates(entries, by.of, grid, by.key, interval=True)
    ranks = _ranks(main)
    others = {
        m.key: estimates(
            entries, m.of, grid, m.key, sign=not m.cost, interval=intervals and not m.cost
        )
        for m in METRICS
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
            tuple(r for r in entry.records if cells is None or _cell(r) in wanted),
        )
        for i, entry in enumerate(entries)
    ]
    standings.sort(key=lambda s: (s.rank is None, s.rank or 0, s.entry.label))
    n_ranked = sum(rank is not None for rank in ranks)
    return Ranking(by, grid, tuple(standings), _testable(n_ranked, grid.size))


def strata(values: Values, grid: Grid) -> list[np.ndarray]:
    """Per cell of the grid, the values by seed ``[seeds]``."""
    return [np.array([values[cell][seed] for seed in grid.seeds]) for cell in grid.cells]


def estimates(
    entries: Sequence[Entry],
    of: Callable[[Record], float | None],
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
    values = [e.values(of) for e in entries]
    complete = [i for i, v in enumerate(values) if grid.size and grid.covered(v) == grid.size]
    result: list[Estimate | None] = [None] * len(entries)
    if not complete:
        return result
    runs = {i: strata(values[i], grid) for i in complete}
    table = np.array([np.concatenate(runs[i]) for i in complete])
    marks: list[Mark] = _marks(sign * table, key) if sign else [""] * len(complete)
    for i, row, mark in zip(complete, table, marks, strict=True):
        span = None
        if interval and len(grid.seeds) > 1:
            rng = generator(0, "leaderboard", key, entries[i].label)
            span = bootstrap_interval(runs[i], rng, np.mean)
        result[i] = Estimate(float(row.mean()), float(interquartile_mean(row)), span, mark)
    return result


def _cell(record: Record) -> Cell:
    return Cell(record.task, record.model_name)


def _within(values: Values, cells: Sequence[Cell] | None) -> Values:
    return values if cells is None else {c: v for c, v in values.items() if c in cells}


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


def _ranks(estimates: Sequence[Estimate | None]) -> list[int | None]:
    present = [i for i, e in enumerate(estimates) if e is not None]
    means = _rounded(np.array([e.mean for e in estimates if e is not None]))
    ranks: list[int | None] = [None] * len(estimates)
    for i, rank in zip(present, rankdata(-means, method="min"), strict=True):
        ranks[i] = int(rank)
    return ranks


def _rounded(means: np.ndarray) -> np.ndarray:
    """Equal scores summed in another order must still tie."""
    return np.round(means, 12)


def _testable(n_entries: int, n_runs: int) -> bool:
    """Whether the smallest p-value the test can give survives Holm's correction."""
    return n_entries > 1 and 2.0 ** (1 - n_runs) * (n_entries - 1) < LEVEL
