"""What tables are made of, free of any output format: columns, rows, values and their words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from circuitbench.evaluation.metrics import Metric
from circuitbench.results.run_row import RunRow
from circuitbench_leaderboard.entries import TaskOnModel
from circuitbench_leaderboard.groups import TRACKS
from circuitbench_leaderboard.sources import short_commit
from circuitbench_leaderboard.standing import PLACED_BY, Estimate, Mark, Ranking, Standing

LEGEND = (
    "best: highest mean; tied: cannot be told from the best by sign-flip tests on what was drawn "
    "(plantings, else tasks, else prompts; Holm-corrected, 5 %); untested: differs from the best "
    "in too little for that test; no mark: told apart"
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
    """One line, with the runs it stands on."""

    fields: tuple[Field, ...]
    runs: tuple[RunRow, ...]


@dataclass(frozen=True)
class Table:
    """A table: ``key`` in file names, ``title`` and ``note`` above and below it.

    ``task`` is set where all of it is about one task on a model.
    """

    key: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    task: TaskOnModel | None = None


RANK = Column("rank", "#", "Place by the mean; incomplete methods have none.", numeric=True)
METHOD = Column("method", "Method", "With what tells its settings apart, where they differ.")
TRACK = Column("track", "Track", "What the method learned on; places are within a track.")
FAMILY = Column("family", "Family", "The kind of method.", minor=True)
COVERAGE = Column("coverage", "Runs", "Finished runs of those the comparison rests on.")
VERSION = Column("version", "Version", "circuitbench's, of all runs in the row.")
COMMIT = Column("commit", "Commit", "Of circuitbench's source.")
PROVENANCE = (COVERAGE, VERSION, COMMIT)
PLACE = (Column("task", "Task"), Column("model", "Model"))


def by_track(table: Table, standings: Sequence[Standing]) -> list[Table]:
    """A table whose rows are those of ``standings``, split by their tracks.

    The first keeps its name; marks are within tracks already.
    """
    found = list(dict.fromkeys(s.entry.track for s in standings))
    if len(found) < 2:
        return [table]
    pairs = list(zip(table.rows, standings, strict=True))
    return [
        replace(
            table,
            key=f"{table.key}-{short_track(track)}" if i else table.key,
            title=f"{table.title}: {track}",
            rows=tuple(row for row, standing in pairs if standing.entry.track == track),
        )
        for i, track in enumerate(found)
    ]


def short_track(track: str) -> str:
    """A track as it stands in file names."""
    return next(key for key, words in TRACKS.items() if words == track)


def column_of(metric: Metric) -> Column:
    """A metric as a column."""
    label = f"{metric.title} ({metric.unit})" if metric.unit else metric.title
    return Column(metric.key, label, metric.about, numeric=True, minor=metric.minor)


def row_of(standing: Standing, *numbers: Field) -> Row:
    """A line of what stands there: who, then ``numbers``, then where they come from."""
    fields = (worded(standing.entry.label), *numbers, *provenance(standing))
    return Row(fields, standing.runs)


def named(standing: Standing) -> tuple[Field, ...]:
    """Place, method and family."""
    rank = standing.rank
    place = Field("–" if rank is None else f"{rank}{'=' * standing.shared}", rank)
    return place, worded(standing.entry.label), worded(standing.entry.family)


def provenance(standing: Standing) -> tuple[Field, ...]:
    """How many runs there are, of which versions and commits."""
    versions = {str(run.versions.get("circuitbench") or "unknown") for run in standing.runs}
    commits = {short_commit(run) for run in standing.runs}
    coverage = f"{standing.done}/{standing.expected}"
    return worded(coverage), worded(", ".join(sorted(versions))), worded(", ".join(sorted(commits)))


def worded(text: str) -> Field:
    """A value that is words."""
    return Field(text, text)


def plain(value: float | None, digits: int) -> Field:
    """A number without an interval; None where there is none."""
    return Field("–", None) if value is None else Field(f"{value:,.{digits}f}", value)


def number(estimate: Estimate | None, digits: int = 3) -> Field:
    """An estimate with its interval and mark; None where there is none."""
    if estimate is None:
        return Field("–", None)
    return spanned(estimate.mean, estimate.interval, digits, estimate.mark)


def spanned(
    value: float, interval: tuple[float, float] | None, digits: int, mark: Mark = ""
) -> Field:
    """A number with its interval, if it has one."""
    text = f"{value:,.{digits}f}"
    if interval is not None:
        low, high = interval
        text += f" ({low:.{digits}f}–{high:.{digits}f})"
    return Field(text, value, interval, mark)


def count(number: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def legend(ranked: Ranking) -> str:
    """What the marks of a ranking say."""
    return LEGEND if ranked.tested else TOO_FEW


def ranked_by(by: Metric) -> str:
    """What a ranking goes by, in words."""
    return f"{by.title} (near ties count as ties)" if by.key in PLACED_BY else by.title


def interval_said(ranked: Ranking) -> str:
    """That there are intervals, where more than one seed gives some."""
    if len(ranked.grid.seeds) < 2:
        return ""
    return ", with 95 % bootstrap interval over plantings, tasks and prompts"
