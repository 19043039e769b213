"""Quality after so many discovery queries."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from circuitbench.evaluation.metrics import metric
from circuitbench.results.run_row import RunRow
from circuitbench_leaderboard.board import Board
from circuitbench_leaderboard.standing import estimates
from circuitbench_leaderboard.tables.cells import (
    METHOD,
    PROVENANCE,
    Column,
    Table,
    by_track,
    legend,
    number,
    row_of,
)

# Steps of about half a decade: where discovery budgets of methods differ visibly.
LEVELS = tuple(step * 10**power for power in range(7) for step in (1, 3))


def levels(shown: Board) -> list[Table]:
    """Quality at each level of cost, a table per track."""

    def at(run: RunRow, level: int) -> float | None:
        reached = [v for queries, v in run.curves.get(shown.by.key, ()) if queries <= level]
        return reached[-1] if reached else None

    entries = [s.entry for s in shown.overall.standings]
    found = {
        level: estimates(
            entries,
            partial(at, level=level),
            shown.overall.grid,
            f"level {level}",
            sign=shown.by.sign,
        )
        for level in LEVELS
    }
    useful = [level for level in LEVELS if any(found[level])]
    # Beyond the level where nothing changes any more there is nothing to read.
    while len(useful) > 1 and _means(found[useful[-1]]) == _means(found[useful[-2]]):
        useful.pop()
    columns = (
        METHOD,
        *(
            Column(f"q{level}", f"{level:,}", f"After {level:,} discovery queries.", numeric=True)
            for level in useful
        ),
        Column("training", "Training", "Oracle queries of training beforehand.", numeric=True),
        *PROVENANCE,
    )
    training = metric("training_queries")
    rows = tuple(
        row_of(
            standing,
            *(number(found[level][i], shown.by.digits) for level in useful),
            number(standing.estimates["training_queries"], training.digits),
        )
        for i, standing in enumerate(shown.overall.standings)
    )
    note = (
        f"{shown.by.title} of the best ranking a method could have given after that many discovery "
        "queries, mean over the same runs as the overall table; none where it had no ranking yet. "
        f"Training is not among the queries; {legend(shown.overall)}."
    )
    table = Table("costs", "Per cost level (discovery queries)", note, columns, rows)
    return by_track(table, shown.overall.standings)


def _means(found: Sequence[Any]) -> list[float | None]:
    return [None if e is None else e.mean for e in found]
