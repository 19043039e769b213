"""What stands beside the rankings: no known circuit, another version, found elsewhere."""

from __future__ import annotations

from circuitbench.evaluation.metrics import Metric, metric, of_kind
from circuitbench.results.run_row import RunRow
from circuitbench_leaderboard.board import UNTOLD, Board
from circuitbench_leaderboard.entries import Entry, all_tasks
from circuitbench_leaderboard.sources import short_commit
from circuitbench_leaderboard.standing import Estimate, Standing, estimates, ranking, value_of
from circuitbench_leaderboard.tables.cells import (
    COMMIT,
    FAMILY,
    METHOD,
    PLACE,
    PROVENANCE,
    RANK,
    TRACK,
    VERSION,
    Column,
    Row,
    Table,
    column_of,
    named,
    number,
    plain,
    provenance,
    row_of,
    worded,
)


def untold(shown: Board) -> Table:
    """Tasks without a truth: what can be said all the same."""
    by, queries = metric(UNTOLD), metric("queries")
    measures = (by, *(m for m in of_kind("function") if m != by))
    rows = []
    for task in all_tasks(list(shown.untold)):
        within = ranking(shown.untold, by, task)
        entries = [s.entry for s in within.standings]
        found = [estimates(entries, value_of(m), within.grid, m.key, sign=m.sign) for m in measures]
        for i, standing in enumerate(within.standings):
            numbers = [
                number(column[i], m.digits) for m, column in zip(measures, found, strict=True)
            ]
            cost = number(standing.estimates[queries.key], queries.digits)
            who = (worded(standing.entry.track), *named(standing))
            fields = (*map(worded, task), *who, *numbers, cost, *provenance(standing))
            rows.append(Row(fields, standing.runs))
    columns = (
        *PLACE, TRACK, RANK, METHOD, FAMILY, *map(column_of, (*measures, queries)), *PROVENANCE
    )  # fmt: skip
    note = (
        "Nobody knows the circuit of these tasks, so nothing here says whether the right heads "
        f"were found: only what the model keeps of its behaviour with them. Ranked by {by.title} "
        "(the smaller, the nearer the model over all circuit sizes); means over seeds."
    )
    return Table(
        "untold", "Tasks without a known circuit", note, columns if rows else (), tuple(rows)
    )


def on_the_grid(shown: Board, entry: Entry, measure: Metric) -> Estimate | None:
    """What an entry of another version has over the runs that the board's ranking rests on."""
    grid, key = shown.overall.grid, measure.key
    return estimates([entry], value_of(measure), grid, key, sign=0)[0]


def elsewhere(shown: Board) -> Table:
    """Runs of other versions: shown, not ranked."""
    measures = (shown.by, metric("queries"))
    grid = shown.overall.grid
    rows = []
    for entry in shown.elsewhere:
        done = grid.covered(entry.values(value_of(shown.by)))
        place = Standing(entry, None, done, grid.size, {}, entry.runs)
        numbers = (number(on_the_grid(shown, entry, m), m.digits) for m in measures)
        rows.append(row_of(place, *numbers))
    columns = (METHOD, *map(column_of, measures), *PROVENANCE)
    note = (
        f"The board is of {shown.source}. These runs are of other versions or commits, so they "
        "are not ranked with it; means over the runs that its ranking rests on, if all are there."
    )
    return Table(
        "elsewhere", "Of other versions, not ranked", note, columns if rows else (), tuple(rows)
    )


def external(shown: Board) -> Table:
    """Circuits found elsewhere."""
    runs = [run for entry in shown.external for run in entry.runs if run.status == "done"]
    shown_kinds = (*of_kind("quality"), *of_kind("edges"))
    measures = [m for m in shown_kinds if any(m.key in r.values for r in runs)]
    file = Column("file", "File", "The circuit file that was read.")
    columns = (METHOD, *PLACE, file, *map(column_of, measures), VERSION, COMMIT)

    def row(run: RunRow) -> Row:
        words = (run.method, run.task, run.model_name, str(run.spec["external"].get("file", "")))
        numbers = (plain(run.values.get(m.key), m.digits) for m in measures)
        version = str(run.versions.get("circuitbench") or "unknown")
        fields = (*map(worded, words), *numbers, worded(version), worded(short_commit(run)))
        return Row(fields, (run,))

    note = (
        "Circuits that other tools found, read from their files (circuitbench import) and held "
        "against the truth here. What they cost is not known, so they are not ranked with the "
        "methods. A head counts by the largest absolute score of its edges unless the file scores "
        "heads; a file that names no set of edges or heads has F1 0."
    )
    rows = tuple(map(row, runs))
    return Table("external", "Circuits found elsewhere", note, columns if rows else (), rows)
