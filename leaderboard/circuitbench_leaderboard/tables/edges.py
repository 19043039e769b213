"""How well edges are ranked and chosen."""

from __future__ import annotations

from collections.abc import Sequence

from circuitbench.evaluation.metrics import metric, of_kind
from circuitbench_leaderboard.board import Board, entries_by_tier
from circuitbench_leaderboard.entries import Entry
from circuitbench_leaderboard.standing import estimates, ranking, value_of
from circuitbench_leaderboard.tables.cells import (
    METHOD,
    PROVENANCE,
    RANK,
    Row,
    Table,
    by_track,
    column_of,
    count,
    legend,
    named,
    number,
    provenance,
)


def edges(shown: Board) -> list[Table]:
    """The ranking by edges, over everything and on each tier, a table per track.

    Where there are several tiers, a track has a table over everything only if one of its methods
    has run everywhere.
    """
    tiers = entries_by_tier(shown.entries)
    if len(tiers) < 2:
        return _edges(shown.entries, "edges", "Edges", ranked_only=False)
    made = _edges(shown.entries, "edges", "Edges", ranked_only=True)
    for tier, entries in tiers.items():
        made += _edges(entries, f"edges-{tier}", f"Edges on tier {tier}", ranked_only=False)
    return made


def _edges(entries: Sequence[Entry], key: str, title: str, ranked_only: bool) -> list[Table]:
    main, *others = of_kind("edges")
    within = ranking([e for e in entries if e.values(value_of(main))], main)
    standings = [s for s in within.standings if s.rank is not None or not ranked_only]
    ranked = [s.entry for s in standings]
    found = {m: estimates(ranked, value_of(m), within.grid, m.key, sign=m.sign) for m in others}
    others = [m for m in others if any(found[m])]
    queries = metric("queries")
    rows = tuple(
        Row(
            (
                *named(standing)[:2],
                number(standing.estimates[main.key], main.digits),
                *(number(found[m][i], m.digits) for m in others),
                number(standing.estimates[queries.key], queries.digits),
                *provenance(standing),
            ),
            standing.runs,
        )
        for i, standing in enumerate(standings)
    )
    columns = (RANK, METHOD, *map(column_of, (main, *others)), column_of(queries), *PROVENANCE)
    note = (
        f"Ranking of all edges, mean over {count(len(within.grid.tasks), 'task')} whose truth "
        f"names edges x {count(len(within.grid.seeds), 'seed')}; methods that score edges; "
        "where no edges are committed, sets are the R best ranked, R being how many are true; "
        "CPR and CMD as MIB computes them (Mueller et al. 2025), CPR never without CMD; "
        f"{legend(within)}."
    )
    table = Table(key, title, note, columns if rows else (), rows)
    return by_track(table, standings)
