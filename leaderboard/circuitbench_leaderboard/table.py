"""The tables of the board, free of any output format: overall, per task, per role, per cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from circuitbench.evaluation.without_truth import MEASURED_ABLATIONS
from circuitbench.results import Problem, Record
from circuitbench_leaderboard.entries import Cell, Entry, all_cells, gather
from circuitbench_leaderboard.metrics import (
    DEFAULT,
    EDGE_METRICS,
    METRICS,
    Metric,
    curve,
    function_metrics,
)
from circuitbench_leaderboard.standing import Estimate, Mark, Ranking, Standing, estimates, ranking

# Steps of about half a decade: where discovery budgets of methods differ visibly.
LEVELS = tuple(step * 10**power for power in range(7) for step in (1, 3))

LEGEND = (
    "best: highest mean; tied: cannot be told from the best by sign-flip tests on runs of the "
    "same task, model and seed (Holm-corrected, 5 %); untested: differs from the best in too few "
    "runs for that test; no mark: told apart"
)
TOO_FEW = "best: highest mean; too few runs for a test to tell entries apart"


@dataclass(frozen=True)
class Column:
    """A column: ``key`` in data formats, ``label`` as a heading, ``about`` as an explanation.

    A ``minor`` one is left out where room is scarce.
    """

    key: str
    label: str
    about: str = ""
    numeric: bool = False
    minor: bool = False


@dataclass(frozen=True)
class Field:
    """One value: ``text`` as shown, ``raw`` as data (None: there is none)."""

    text: str
    raw: str | float | None
    interval: tuple[float, float] | None = None
    mark: Mark = ""


@dataclass(frozen=True)
class Row:
    """One line, with the records it stands on."""

    fields: tuple[Field, ...]
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Table:
    """A table: ``key`` in file names, ``title`` and ``note`` above and below it.

    ``cell`` is set where all of it is about one problem.
    """

    key: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    cell: Cell | None = None


@dataclass(frozen=True)
class Board:
    """Everything a leaderboard shows.

    ``cells`` holds the ranking within each cell, ``unfinished`` the runs that failed, timed out
    or were skipped, ``problems`` the files that were left out.
    """

    by: Metric
    entries: tuple[Entry, ...]
    overall: Ranking
    cells: dict[Cell, Ranking]
    unfinished: tuple[Record, ...]
    problems: tuple[Problem, ...]

    @property
    def records(self) -> list[Record]:
        """All records on the board."""
        return [record for entry in self.entries for record in entry.records]


def board(
    records: Sequence[Record],
    problems: Sequence[Problem] = (),
    by: Metric = DEFAULT,
    intervals: bool = False,
) -> Board:
    """Rank all records by one metric, over all cells and within each.

    ``intervals`` asks for those of all quality metrics, not that of ``by`` alone.
    """
    entries = gather(records)
    ordered = [record for entry in entries for record in entry.records]
    return Board(
        by,
        tuple(entries),
        ranking(entries, by, intervals=intervals),
        {cell: ranking(entries, by, [cell], intervals) for cell in all_cells(entries)},
        tuple(record for record in ordered if record.status != "done"),
        tuple(problems),
    )


def tables(shown: Board) -> list[Table]:
    """All tables: overall, per task, per cost level, function, edges, per role of each cell."""
    roles = [_roles(cell, within) for cell, within in shown.cells.items()]
    edges = _edges(shown)
    made = [_overall(shown), _tasks(shown), _levels(shown), _function(shown), edges, *roles]
    return [table for table in made if table.columns]


_RANK = Column("rank", "#", "Place by the mean; incomplete methods have none.", numeric=True)
_METHOD = Column("method", "Method", "With what tells its settings apart, where they differ.")
_FAMILY = Column("family", "Family", "The kind of method.", minor=True)
_COVERAGE = Column("coverage", "Runs", "Finished runs of those the comparison rests on.")
_VERSION = Column("version", "Version", "circuitbench's, of all runs in the row.")
_COMMIT = Column("commit", "Commit", "Of circuitbench's source.")
_PROVENANCE = (_COVERAGE, _VERSION, _COMMIT)
_PLACE = (Column("task", "Task"), Column("model", "Model"))


def _overall(shown: Board) -> Table:
    by = shown.by
    measures = (by, *(m for m in METRICS if m != by))
    iqm = Column(
        "iqm", f"{by.label} IQM", f"Interquartile mean of {by.label}.", numeric=True, minor=True
    )
    heads = [_column(m) for m in measures]
    columns = (_RANK, _METHOD, _FAMILY, heads[0], iqm, *heads[1:], *_PROVENANCE)

    def row(standing: Standing) -> Row:
        main = standing.estimates[by.key]
        numbers = [_number(standing.estimates[m.key], m) for m in measures]
        middle = _plain(None if main is None else main.iqm, by.digits)
        fields = (*_who(standing), numbers[0], middle, *numbers[1:], *_provenance(standing))
        return Row(fields, standing.records)

    grid = shown.overall.grid
    note = (
        f"Means over {count(len(grid.cells), 'problem')} (task and model) x "
        f"{count(len(grid.seeds), 'seed')}, ranked by {by.label}{_spans(shown.overall)}; "
        f"{_legend(shown.overall)}. A method that lacks a run of the grid is shown with its "
        "coverage and not ranked; the tables per task compare it where it has all runs."
    )
    complete = sum(standing.rank is not None for standing in shown.overall.standings)
    if complete < len(shown.entries):
        note += (
            f" {complete} of {count(len(shown.entries), 'method')} have all of these runs; "
            "--tasks and --seeds narrow the comparison to what more of them share."
        )
    rows = tuple(map(row, shown.overall.standings))
    return Table("overall", "Overall", note, columns, rows)


def _tasks(shown: Board) -> Table:
    by = shown.by
    measures = (by, *(m for m in METRICS if m != by))
    heads = [_column(m) for m in measures]
    columns = (*_PLACE, _RANK, _METHOD, _FAMILY, *heads, *_PROVENANCE)
    rows = [
        Row(
            (
                *(_text(part) for part in cell),
                *_who(standing),
                *(_number(standing.estimates[m.key], m) for m in measures),
                *_provenance(standing),
            ),
            standing.records,
        )
        for cell, within in shown.cells.items()
        for standing in within.standings
    ]
    legends = sorted({_spans(within) + "; " + _legend(within) for within in shown.cells.values()})
    note = f"Means over seeds within each problem, ranked by {by.label}{' or '.join(legends)}."
    return Table("tasks", "Per task", note, columns, tuple(rows))


def _levels(shown: Board) -> Table:
    curves = {r.run_id: curve(r, shown.by) for r in shown.records}

    def at(record: Record, level: int) -> float | None:
        reached = [value for queries, value in curves[record.run_id] if queries <= level]
        return reached[-1] if reached else None

    entries = [s.entry for s in shown.overall.standings]
    found = {
        level: estimates(entries, partial(at, level=level), shown.overall.grid, f"level {level}")
        for level in LEVELS
    }
    useful = [level for level in LEVELS if any(found[level])]
    # Beyond the level where nothing changes any more there is nothing to read.
    while len(useful) > 1 and _means(found[useful[-1]]) == _means(found[useful[-2]]):
        useful.pop()
    columns = (
        _METHOD,
        *(
            Column(f"q{level}", f"{level:,}", f"After {level:,} discovery queries.", numeric=True)
            for level in useful
        ),
        Column("training", "Training", "Oracle queries of training beforehand.", numeric=True),
        *_PROVENANCE,
    )
    training = _metric("training_queries")
    rows = tuple(
        _row(
            standing,
            *(_number(found[level][i], shown.by) for level in useful),
            _number(standing.estimates["training_queries"], training),
        )
        for i, standing in enumerate(shown.overall.standings)
    )
    note = (
        f"{shown.by.label} of the best ranking a method could have given after that many discovery "
        "queries, mean over the same runs as the overall table; none where it had no ranking yet. "
        f"Training is not among the queries; {_legend(shown.overall)}."
    )
    return Table("costs", "Per cost level (discovery queries)", note, columns, rows)


def _function(shown: Board) -> Table:
    entries = [s.entry for s in shown.overall.standings]
    found: dict[Metric, list[Estimate | None]] = {}
    for ablation in MEASURED_ABLATIONS:
        for measure, sign in zip(function_metrics(ablation), (0, 0, -1), strict=True):
            column = estimates(entries, measure.of, shown.overall.grid, measure.key, sign=sign)
            if any(column):
                found[measure] = column
    rows = tuple(
        _row(standing, *(_number(found[m][i], m) for m in found))
        for i, standing in enumerate(shown.overall.standings)
    )
    note = (
        "What needs no truth, mean over the same runs as the overall table: faithfulness of the "
        "committed heads (1 = the whole metric kept), and the areas of MIB (Mueller et al. 2025) "
        "over circuit sizes, CPR never without CMD. For CMD lower is better; it alone is marked."
    )
    columns = (_METHOD, *map(_column, found), *_PROVENANCE) if found else ()
    return Table("function", "Function", note, columns, rows)


def _edges(shown: Board) -> Table:
    main, *others = EDGE_METRICS
    within = ranking([e for e in shown.entries if e.values(main.of)], main)
    entries = [s.entry for s in within.standings]
    found = {m: estimates(entries, m.of, within.grid, m.key) for m in others}
    queries = _metric("queries")
    rows = tuple(
        _row(
            standing,
            _number(standing.estimates[main.key], main),
            *(_number(found[m][i], m) for m in others),
            _number(standing.estimates[queries.key], queries),
        )
        for i, standing in enumerate(within.standings)
    )
    columns = (_METHOD, *map(_column, EDGE_METRICS), _column(queries), *_PROVENANCE)
    note = (
        f"Ranking of all edges, mean over {count(len(within.grid.cells), 'problem')} whose truth "
        f"names edges x {count(len(within.grid.seeds), 'seed')}; methods that score edges; "
        f"{_legend(within)}."
    )
    return Table("edges", "Edges", note, columns if rows else (), rows)


def role_recalls(within: Ranking) -> dict[str, list[Estimate | None]]:
    """Per role, each standing's mean recall of its heads among the R best ranked."""

    def recall(record: Record, name: str) -> float | None:
        role = (record.metrics.get("roles") or {}).get(name) or {}
        value = (role.get("top_r") or {}).get("recall")
        return None if value is None else float(value)

    entries = [s.entry for s in within.standings]
    names = {n for s in within.standings for r in s.records for n in r.metrics.get("roles") or {}}
    return {
        name: estimates(entries, partial(recall, name=name), within.grid, f"role {name}")
        for name in sorted(names)
    }


def _roles(cell: Cell, within: Ranking) -> Table:
    found = role_recalls(within)
    names = list(found)
    rows = tuple(
        _row(standing, *(_number(found[name][i], _RECALL) for name in names))
        for i, standing in enumerate(within.standings)
    )
    columns = (
        _METHOD,
        *(Column(name, name, f"Recall of the heads of {name}.", numeric=True) for name in names),
        *_PROVENANCE,
    )
    note = (
        "Share of each role's heads among the R best ranked, R being the circuit's size; mean over "
        f"seeds; {_legend(within)}."
    )
    key = f"roles-{cell.task}-{cell.model}"
    return Table(key, f"Per role: {cell}", note, columns if names else (), rows, cell)


_RECALL = Metric("recall", "", "Recall", "")


def _metric(key: str) -> Metric:
    return next(m for m in METRICS if m.key == key)


def _column(metric: Metric) -> Column:
    label = f"{metric.label} ({metric.unit})" if metric.unit else metric.label
    return Column(metric.key, label, metric.about, numeric=True, minor=metric.minor)


def _legend(ranked: Ranking) -> str:
    return LEGEND if ranked.tested else TOO_FEW


def _spans(ranked: Ranking) -> str:
    return ", with 95 % stratified bootstrap interval" if len(ranked.grid.seeds) > 1 else ""


def count(number: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _who(standing: Standing) -> tuple[Field, ...]:
    rank = standing.rank
    place = Field("–" if rank is None else str(rank), rank)
    return place, _text(standing.entry.label), _text(standing.entry.family)


def _row(standing: Standing, *numbers: Field) -> Row:
    fields = (_text(standing.entry.label), *numbers, *_provenance(standing))
    return Row(fields, standing.records)


def _provenance(standing: Standing) -> tuple[Field, ...]:
    versions = {str(r.versions.get("circuitbench") or "unknown") for r in standing.records}
    commits = {short_commit(r) for r in standing.records}
    coverage = f"{standing.done}/{standing.expected}"
    return _text(coverage), _text(", ".join(sorted(versions))), _text(", ".join(sorted(commits)))


def short_commit(record: Record) -> str:
    """The commit in 9 digits, still marked where the tree was changed."""
    commit = str(record.versions.get("commit") or "unknown")
    return commit[:9] + ("-dirty" if commit.endswith("-dirty") else "")


def _text(text: str) -> Field:
    return Field(text, text)


def _plain(value: float | None, digits: int) -> Field:
    return Field("–", None) if value is None else Field(f"{value:,.{digits}f}", value)


def _number(estimate: Estimate | None, metric: Metric) -> Field:
    if estimate is None:
        return Field("–", None)
    text = f"{estimate.mean:,.{metric.digits}f}"
    if estimate.interval is not None:
        low, high = estimate.interval
        text += f" ({low:.{metric.digits}f}–{high:.{metric.digits}f})"
    return Field(text, estimate.mean, estimate.interval, estimate.mark)


def _means(found: Sequence[Any]) -> list[float | None]:
    return [None if e is None else e.mean for e in found]
