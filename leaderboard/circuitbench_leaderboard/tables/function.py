"""What needs no truth, over the same runs as the overall table."""

from __future__ import annotations

from circuitbench.evaluation.metrics import Metric, of_kind
from circuitbench_leaderboard.board import Board
from circuitbench_leaderboard.standing import Estimate, estimates, value_of
from circuitbench_leaderboard.tables.cells import (
    METHOD,
    PROVENANCE,
    Table,
    by_track,
    column_of,
    number,
    row_of,
)


def functions(shown: Board) -> list[Table]:
    """Faithfulness and its areas, a table per track."""
    entries = [s.entry for s in shown.overall.standings]
    found: dict[Metric, list[Estimate | None]] = {}
    for measure in of_kind("function"):
        column = estimates(
            entries, value_of(measure), shown.overall.grid, measure.key, sign=measure.sign
        )
        if any(column):
            found[measure] = column
    rows = tuple(
        row_of(standing, *(number(found[m][i], m.digits) for m in found))
        for i, standing in enumerate(shown.overall.standings)
    )
    note = (
        "What needs no truth, mean over the same runs as the overall table: faithfulness of the "
        "committed heads (1 = the whole metric kept), and the areas of MIB (Mueller et al. 2025) "
        "over circuit sizes, CPR never without CMD. For CMD lower is better; it alone is marked."
    )
    columns = (METHOD, *map(column_of, found), *PROVENANCE) if found else ()
    table = Table("function", "Function", note, columns, rows)
    return by_track(table, shown.overall.standings)
