"""The tables of the board, free of any output format."""

from __future__ import annotations

from circuitbench_leaderboard.board import Board
from circuitbench_leaderboard.tables.ablations import ablations
from circuitbench_leaderboard.tables.cells import Table
from circuitbench_leaderboard.tables.costs import levels
from circuitbench_leaderboard.tables.edges import edges
from circuitbench_leaderboard.tables.function import functions
from circuitbench_leaderboard.tables.overall import overalls, per_task
from circuitbench_leaderboard.tables.roles import per_role
from circuitbench_leaderboard.tables.unranked import elsewhere, external, untold
from circuitbench_leaderboard.tables.wanted import wanted


def tables(shown: Board) -> list[Table]:
    """All tables: overall, what the board should do, per task, per cost level, function, edges,
    other ablations, without truth, of other versions, external, roles by task.

    Where there are several tracks, what compares methods has a table for each.
    """
    roles = [per_role(task, within) for task, within in shown.by_task.items()]
    apart = [*levels(shown), *functions(shown), *edges(shown)]
    made = [*overalls(shown), *wanted(shown), per_task(shown), *apart, *ablations(shown)]
    made += [untold(shown), elsewhere(shown), external(shown)]
    made += [table for of_task in roles for table in of_task]
    return [table for table in made if table.columns and (table.rows or shown.entries)]
