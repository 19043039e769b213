"""The page: a shell that opens at once, and details of runs that it loads when asked for.

It needs neither network nor server. The shell holds what it shows as data, and its script makes
the tables; ``tables.html`` holds the same tables for readers without scripts.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from circuitbench.core.version import __version__
from circuitbench.evaluation.metrics import Metric, metrics
from circuitbench.results.run_row import RunRow
from circuitbench_leaderboard import cards, details
from circuitbench_leaderboard.board import Board
from circuitbench_leaderboard.entries import Entry, TaskOnModel, all_tasks
from circuitbench_leaderboard.figures.style import Drawing
from circuitbench_leaderboard.formats import left_out
from circuitbench_leaderboard.groups import TRACKS, tiers_in_order, track_of
from circuitbench_leaderboard.sources import source_of
from circuitbench_leaderboard.standing import (
    PLACED_BY,
    Estimate,
    Ranking,
    Standing,
    main_metrics,
    value_of,
)
from circuitbench_leaderboard.tables.cells import Column, Field, Row, Table, count
from circuitbench_leaderboard.tables.unranked import on_the_grid

SHELL, PLAIN = "index.html", "tables.html"
SCRIPTS = ("elements", "board", "plot", "run", "cards", "overview", "explore", "files", "start")
MARKS = ("", "best", "tied", "untested")
EXACT = 12  # decimals of means: equal ones summed in another order still tie
SHOWN = 6  # decimals of what is only shown and sorted by
COST = ("queries",)  # metrics that add up to what the frontier calls cost; training is included


def pages(
    board: Board,
    tables: Sequence[Table],
    drawings: Sequence[Drawing],
    base: Path,
    health: cards.Health = MappingProxyType({}),
    truth_free: str = "",
) -> dict[str, str]:
    """File name -> text, relative to ``base``: details, plain tables and last the shell.

    The shell refers to the figures as ``figures/NAME.svg``. Everything that comes from records is
    escaped by the template engine or sits in a JSON text that the script reads as text. The
    content security policy allows no request but for own files, and no script but the shell's own
    and what that one loads. ``health`` are the cards that tasks show, ``truth_free`` the page of
    ``circuitbench predict-truth``, which the shell links to ("": there is none).
    """
    loaded = _loaded(board, tables, base, health)
    return {
        **{f"{details.FOLDER}/{chunk.name}": chunk.script for chunk in loaded.chunks},
        **{f"{cards.FOLDER}/{file.name}": file.script for file in (loaded.cards, loaded.rest)},
        PLAIN: _plain(board, tables),
        SHELL: _shell(
            board,
            drawings,
            loaded,
            lambda drawing: f"figures/{drawing.name}.svg",
            truth_free=truth_free,
        ),
    }


def single_page(
    board: Board,
    tables: Sequence[Table],
    drawings: Sequence[Drawing],
    base: Path,
    health: cards.Health = MappingProxyType({}),
) -> str:
    """The same as one text that needs no other file: with all details, tables and figures."""
    loaded = _loaded(board, tables, base, health)
    return _shell(board, drawings, loaded, data_address, _every(board, tables))


def remove_stale_details(base: Path, files: Collection[str]) -> None:
    """Remove the details of earlier pages in ``base``; ``files`` are those of this one."""
    for folder in (details.FOLDER, cards.FOLDER):
        details.remove_others(base / folder, {Path(file).name for file in files})


@dataclass(frozen=True)
class Rest(details.Asked):
    """All runs and the tables below, as JSON text: what a page loads after its first screen."""

    text: str
    stem: str = "runs"


class Loaded(NamedTuple):
    """What the page loads: details of runs and cards when it is asked for them, the rest soon."""

    chunks: list[details.Chunk]
    cards: cards.Cards
    rest: Rest


def _loaded(board: Board, tables: Sequence[Table], base: Path, health: cards.Health) -> Loaded:
    chunks = list(details.chunks(board, base))
    asked = cards.cards_of(board, _tasks(board), health)
    return Loaded(chunks, asked, _rest(board, tables, chunks))


def _tasks(board: Board) -> list[TaskOnModel]:
    """The tasks of the ranking, then those that only runs beside it are about."""
    return [*board.by_task, *(t for t in all_tasks(board.beside) if t not in board.by_task)]


def _shell(
    board: Board,
    drawings: Sequence[Drawing],
    loaded: Loaded,
    address: Callable[[Drawing], str],
    plain: Sequence[Table] = (),
    truth_free: str = "",
) -> str:
    """The main page. ``plain`` tables, and with them all details, are put inside."""
    environment = new_environment()
    script = _script(environment)
    return environment.get_template("page.html.j2").render(
        board=board,
        style=Markup(source_text(environment, "page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        choices=[m for m in _shown(board) if m == board.by or (m.sign and not m.is_cost)],
        families=sorted({entry.family for entry in board.everyone}),
        tracks=[t for t in TRACKS.values() if t in {track_of(e.runs[0]) for e in board.everyone}],
        tiers=tiers_in_order(cards.task_card(run)["tier"] for run in board.runs),
        figures=[(drawing, address(drawing)) for drawing in drawings],
        left_out=left_out(board),
        data=Markup(details.safe_json(_data(board, loaded))),
        inside=[
            (file.name, Markup(file.text))
            for file in (*loaded.chunks, loaded.cards, loaded.rest)
            if plain
        ],
        plain=plain,
        plain_file=PLAIN,
        truth_free=truth_free,
        count=count,
    )


def _plain(board: Board, tables: Sequence[Table]) -> str:
    environment = new_environment()
    return environment.get_template("tables.html.j2").render(
        tables=_every(board, tables),
        style=Markup(source_text(environment, "page.css")),
        shell_file=SHELL,
    )


def new_environment() -> Environment:
    """Where templates come from; everything they are given is escaped."""
    return Environment(
        loader=PackageLoader("circuitbench_leaderboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _script(environment: Environment) -> str:
    """The page's script: its parts share one scope, and leave nothing in the global one."""
    parts = "".join(source_text(environment, f"script/{name}.js") for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def source_text(environment: Environment, name: str) -> str:
    """A template's own text."""
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def data_address(drawing: Drawing) -> str:
    """A figure as an address that needs no file."""
    return "data:image/svg+xml;base64," + base64.b64encode(drawing.svg().encode()).decode()


def _data(board: Board, loaded: Loaded) -> dict[str, Any]:
    """What the first screen and the ranking show; long lists are positional to be short."""
    tasks = {task: i for i, task in enumerate(_tasks(board))}
    entries = {id(entry): i for i, entry in enumerate(board.everyone)}
    runs_of = {TaskOnModel.of(run): run for run in reversed(board.runs)}
    shown = _shown(board)
    rankings: list[tuple[int | str | None, Ranking]] = [(None, board.overall)]
    rankings += [(tasks[on], within) for on, within in board.by_task.items()]
    rankings += board.by_tier.items()
    # In the ranking of a tier, entries hold the runs of the tier alone; their names stay.
    numbers = {entry.label: i for i, entry in enumerate(board.entries)}
    standings = [
        _standing(standing, numbers[standing.entry.label], where, shown)
        for where, within in rankings
        for standing in within.standings
    ]
    standings += [
        _standing(_beside(board, entry, shown), entries[id(entry)], None, shown)
        for entry in board.beside
    ]
    return {
        "metrics": [_metric(m) for m in shown],
        "rankedBy": board.by.title,
        "marks": MARKS,
        "methods": [cards.method_card(entry, list(tasks), board) for entry in board.everyone],
        "tasks": list(tasks),
        "aboutTasks": [cards.task_card(runs_of[task]) for task in tasks],
        "tracks": list(TRACKS.values()),
        "elsewhere": TRACKS["other-models"],
        "cost": COST,
        "source": board.source,
        "placing": PLACED_BY,
        "version": __version__,
        "cards": [loaded.cards.name, loaded.cards.integrity],
        "rest": [loaded.rest.name, loaded.rest.integrity],
        "standings": standings,
        "folders": {"details": details.FOLDER, "cards": cards.FOLDER},
        "details": [[chunk.name, chunk.integrity] for chunk in loaded.chunks],
    }


def _rest(board: Board, tables: Sequence[Table], chunks: Sequence[details.Chunk]) -> Rest:
    tasks = {task: i for i, task in enumerate(_tasks(board))}
    chunk_of = {run_id: i for i, chunk in enumerate(chunks) for run_id in chunk.run_ids}
    shown = _shown(board)
    content = {
        "runs": [
            _run(run, i, tasks[TaskOnModel.of(run)], chunk_of[run.run_id], shown)
            for i, entry in enumerate(board.everyone)
            for run in entry.runs
        ],
        "tables": [
            _table(t, board.by)
            for t in tables
            if not t.key.startswith(("overall", "tasks")) and t.rows
        ],
    }
    return Rest(details.safe_json(content))


def _shown(board: Board) -> list[Metric]:
    """The metrics of the main table: the usual ones, and what the board is ranked by."""
    return list(dict.fromkeys([*main_metrics(), board.by]))


def _metric(metric: Metric) -> dict[str, Any]:
    return {
        "key": metric.key,
        "label": metric.title,
        "about": metric.about,
        "unit": metric.unit,
        "digits": metric.digits,
        "minor": metric.minor,
        "cost": metric.is_cost,
        "better": metric.better,
    }


def _beside(board: Board, entry: Entry, shown: Sequence[Metric]) -> Standing:
    """An entry that is not ranked: its means over the board's grid, and no place."""
    found = {m.key: on_the_grid(board, entry, m) for m in shown}
    grid = board.overall.grid
    done = grid.covered(entry.values(value_of(board.by)))
    return Standing(entry, None, done, grid.size, found, entry.runs)


def _standing(
    standing: Standing, entry: int, where: int | str | None, shown: Sequence[Metric]
) -> list[Any]:
    """``[entry, task or tier, done, expected, sources, value per metric ...]``."""
    sources = {source_of(run) for run in standing.runs}
    values = [_value(standing.estimates[m.key], m.digits) for m in shown]
    return [entry, where, standing.done, standing.expected, ", ".join(sorted(sources)), *values]


def _value(estimate: Estimate | None, digits: int) -> list[float] | None:
    """``[mean, interquartile mean, mark, low, high]``, without zeros and limits it lacks."""
    if estimate is None:
        return None
    mark = MARKS.index(estimate.mark)
    limits = [_number(limit, SHOWN) for limit in estimate.interval or ()]
    short = [_number(estimate.mean, EXACT), _number(estimate.iqm, digits)]
    return [*short, mark, *limits] if mark or limits else short


def _run(run: RunRow, entry: int, task: int, chunk: int, shown: Sequence[Metric]) -> list[Any]:
    """``[entry, task, seed, status, chunk, run id, value per metric but the minor ones ...]``."""
    values = [run.values.get(m.key) for m in shown if not m.minor]
    return [
        entry,
        task,
        run.seed,
        run.status,
        chunk,
        run.run_id,
        *(None if value is None else _number(value, SHOWN) for value in values),
    ]


def _number(value: float, digits: int) -> float:
    """Rounded; whole numbers without a point, which makes thousands of them shorter."""
    short = round(value, digits)
    return int(short) if short == int(short) else short


def _table(table: Table, by: Metric) -> dict[str, Any]:
    """Columns are ``[key, label, about, numeric, better]``.

    Fields are text, or ``[text, number, mark]``.
    """

    def better(column: Column) -> str:
        if not column.numeric:
            return ""
        if table.task is not None:  # recall per role
            return "higher"
        known = metrics().get(column.key, by)  # what is no metric is one at some cost
        return known.better

    def field(column: Column, field: Field) -> Any:
        if not column.numeric:
            return field.text
        raw = None if field.raw is None else _number(float(field.raw), SHOWN)
        mark = MARKS.index(field.mark)
        return [field.text, raw, mark] if mark else [field.text, raw]

    return {
        "title": table.title,
        "note": table.note,
        "where": table.task,
        "columns": [[c.key, c.label, c.about, c.numeric, better(c)] for c in table.columns],
        "rows": [
            [field(c, f) for c, f in zip(table.columns, row.fields, strict=True)]
            for row in table.rows
        ],
    }


def _every(board: Board, tables: Sequence[Table]) -> list[Table]:
    return [*(table for table in tables if table.rows), _runs(board)]


def _runs(board: Board) -> Table:
    """Every run with its own numbers."""
    shown = [m for m in _shown(board) if not m.minor]
    names = ("run", "method", "task", "model", "seed", "status")
    columns = [Column(name, name.capitalize(), numeric=name == "seed") for name in names]
    rows = []
    for entry in board.everyone:
        for run in entry.runs:
            texts = [run.run_id, entry.label, run.task, run.model_name, str(run.seed), run.status]
            for m in shown:
                value = run.values.get(m.key)
                texts.append("–" if value is None else f"{value:,.{m.digits}f}")
            rows.append(Row(tuple(Field(text, text) for text in texts), (run,)))
    measures = [Column(m.key, m.title, m.about, numeric=True) for m in shown]
    return Table("runs", "Runs", "", (*columns, *measures), tuple(rows))
