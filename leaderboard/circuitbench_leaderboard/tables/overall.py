"""The rankings over everything, per tier, and on each task."""

from __future__ import annotations

from dataclasses import replace

from circuitbench.evaluation.metrics import DEFAULT, metric
from circuitbench.evaluation.statistics import disjoint_groups
from circuitbench_leaderboard.board import UNTOLD, Board
from circuitbench_leaderboard.groups import NO_TRAINING
from circuitbench_leaderboard.protocol import NEARLY_PERFECT, between_tiers, said
from circuitbench_leaderboard.standing import Ranking, Standing, main_metrics, value_of
from circuitbench_leaderboard.tables.cells import (
    FAMILY,
    METHOD,
    PLACE,
    PROVENANCE,
    RANK,
    TRACK,
    Column,
    Row,
    Table,
    column_of,
    count,
    interval_said,
    legend,
    named,
    number,
    plain,
    provenance,
    ranked_by,
    short_track,
    worded,
)

TIE_BREAKS = 0.01
"""Average precision that a ranking owes to differences below 1e-4 of its largest score."""


def overalls(shown: Board) -> list[Table]:
    """A table per track over everything, then one per track and tier."""
    tracks = list(dict.fromkeys(s.entry.track for s in shown.overall.standings)) or [NO_TRAINING]
    made = []
    for tier, within in ((None, shown.overall), *shown.by_tier.items()):
        for i, track in enumerate(tracks):
            found = _overall(shown, within, track)
            where = f"Tier {tier}" if tier else "Overall"
            title = f"{where}: {track}" if len(tracks) > 1 else where
            parts = [(tier and f"tier-{tier}") or "overall", *([short_track(track)] if i else [])]
            note = found.note
            if tier == "hard" and (line := predicts(shown, track)):
                note += " " + line
            made.append(replace(found, key="-".join(parts), title=title, note=note))
    return [table for i, table in enumerate(made) if table.rows or i == 0]


def _overall(shown: Board, within: Ranking, track: str) -> Table:
    by = shown.by
    measures = (by, *(m for m in main_metrics() if m != by))
    iqm = Column(
        "iqm", f"{by.title} IQM", f"Interquartile mean of {by.title}.", numeric=True, minor=True
    )
    heads = [column_of(m) for m in measures]
    columns = (RANK, METHOD, FAMILY, heads[0], iqm, *heads[1:], *PROVENANCE)

    def row(standing: Standing) -> Row:
        main = standing.estimates[by.key]
        numbers = [number(standing.estimates[m.key], m.digits) for m in measures]
        middle = plain(None if main is None else main.iqm, by.digits)
        fields = (*named(standing), numbers[0], middle, *numbers[1:], *provenance(standing))
        return Row(fields, standing.runs)

    grid = within.grid
    usual = value_of(metric(DEFAULT))
    told = by.key != UNTOLD or any(entry.values(usual) for entry in shown.entries)
    note = "" if told else "Nobody knows the circuit of these tasks: what needs none is compared. "
    note += (
        f"Means over {count(len(grid.tasks), 'task')} (each on a model) x "
        f"{count(len(grid.seeds), 'seed')}, ranked by {ranked_by(by)}{interval_said(within)}; "
        f"{legend(within)}. A method that lacks a run of the grid is shown with its "
        "coverage and not ranked; the tables per task compare it where it has all runs."
    )
    standings = [standing for standing in within.standings if standing.entry.track == track]
    complete = sum(standing.rank is not None for standing in standings)
    if complete < len(standings):
        note += (
            f" {complete} of {count(len(standings), 'method')} have all of these runs; "
            "--tasks and --seeds narrow the comparison to what more of them share."
        )
    note += told_apart(within, track)
    return Table("overall", "Overall", note, columns, tuple(map(row, standings)))


def per_task(shown: Board) -> Table:
    """Every task on its own."""
    by = shown.by
    measures = (by, *(m for m in main_metrics() if m != by))
    heads = [column_of(m) for m in measures]
    columns = (*PLACE, TRACK, RANK, METHOD, FAMILY, *heads, *PROVENANCE)
    rows = [
        Row(
            (
                *(worded(part) for part in (*task, standing.entry.track)),
                *named(standing),
                *(number(standing.estimates[m.key], m.digits) for m in measures),
                *provenance(standing),
            ),
            standing.runs,
        )
        for task, within in shown.by_task.items()
        for standing in within.standings
    ]
    legends = sorted(
        {interval_said(within) + "; " + legend(within) for within in shown.by_task.values()}
    )
    note = f"Means over seeds for each task on a model, ranked by {ranked_by(by)}"
    note += f"{' or '.join(legends)}."
    return Table("tasks", "Per task", note, columns, tuple(rows))


def predicts(shown: Board, track: str, ours: str = "hard", theirs: str = "trained") -> str:
    """Whether the ranking on one tier predicts that on another, in a line; empty if unknown."""
    sides = [shown.by_tier.get(tier) for tier in (ours, theirs)]
    if sides[0] is None or sides[1] is None:
        return ""
    found = between_tiers(sides[0], sides[1], track)
    if found is None:
        return ""
    return f"The ranking on {ours} against that on {theirs}: Spearman {said(found)}."


def told_apart(within: Ranking, track: str) -> str:
    """How far a table separates the entries of a track, in a sentence; empty without intervals."""
    key = within.by.key
    found = [
        (s.estimates[key], s.entry.label, s.estimates.get("rounded_average_precision"))
        for s in within.standings
        if s.rank is not None and s.entry.track == track
    ]
    known = [e for e, _, _ in found if e is not None]
    spans = [e.interval for e in known if e.interval is not None]
    if len(spans) < 2:
        return ""
    line = f" {count(disjoint_groups(spans), 'group')} told apart by disjoint 95 % intervals."
    if key == DEFAULT:
        perfect = sum(e.mean >= NEARLY_PERFECT for e in known)
        line += f" {count(perfect, 'method')} at {within.by.title} {NEARLY_PERFECT} or more."
        frail = [label for e, label, r in found if e and r and e.mean - r.mean > TIE_BREAKS]
        if frail:
            line += f" Lose more than {TIE_BREAKS} when near ties are ties: {', '.join(frail)}."
    return line
