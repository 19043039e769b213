"""How well edges are ranked and chosen."""

from __future__ import annotations

from circuitbench.evaluation.metrics import metric, of_kind
from circuitbench_leaderboard.board import Board
from circuitbench_leaderboard.standing import estimates, ranking, value_of
from circuitbench_leaderboard.tables.cells import (
    METHOD,
    PROVENANCE,
    Table,
    by_track,
    column_of,
    count,
    legend,
    number,
    row_of,
)


def edges(shown: Board) -> list[Table]:
    """The ranking by edges, a table per track."""
    main, *others = of_kind("edges")
    within = ranking([e for e in shown.entries if e.values(value_of(main))], main)
    entries = [s.entry for s in within.standings]
    found = {m: estimates(entries, value_of(m), within.grid, m.key, sign=m.sign) for m in others}
    others = [m for m in others if any(found[m])]
    queries = metric("queries")
    rows = tuple(
        row_of(
            standing,
            number(standing.estimates[main.key], main.digits),
            *(number(found[m][i], m.digits) for m in others),
            number(standing.estimates[queries.key], queries.digits),
        )
        for i, standing in enumerate(within.standings)
    )
    columns = (METHOD, *map(column_of, (main, *others)), column_of(queries), *PROVENANCE)
    note = (
        f"Ranking of all edges, mean over {count(len(within.grid.tasks), 'task')} whose truth "
        f"names edges x {count(len(within.grid.seeds), 'seed')}; methods that score edges; "
        "where no edges are committed, sets are the R best ranked, R being how many are true; "
        "CPR and CMD as MIB computes them (Mueller et al. 2025), CPR never without CMD; "
        f"{legend(within)}."
    )
    table = Table("edges", "Edges", note, columns if rows else (), rows)
    return by_track(table, within.standings)
