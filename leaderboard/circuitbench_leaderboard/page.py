"""The page: a shell that opens at once, and details of runs that it loads when asked for.

It needs neither network nor server. The shell holds what it shows as data, and its script makes
the tables; ``tables.html`` holds the same tables for readers without scripts.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from circuitbench.evaluation.metrics import Metric, metrics
from circuitbench.results.run_row import RunRow
from circuitbench_leaderboard import details
from circuitbench_leaderboard.entries import Entry, TaskOnModel
from circuitbench_leaderboard.figures.style import Drawing
from circuitbench_leaderboard.formats import left_out
from circuitbench_leaderboard.standing import Estimate, Standing, main_metrics
from circuitbench_leaderboard.table import (
    Board,
    Column,
    Field,
    Row,
    Table,
    count,
    short_commit,
)

SHELL, PLAIN = "index.html", "tables.html"
MARKS = ("", "best", "tied", "untested")
EXACT = 12  # decimals: equal means summed in another order still tie


def pages(
    board: Board, tables: Sequence[Table], drawings: Sequence[Drawing], base: Path
) -> dict[str, str]:
    """File name -> text, relative to ``base``: details, plain tables and last the shell.

    The shell refers to the figures as ``figures/NAME.svg``. Everything that comes from records is
    escaped by the template engine or sits in a JSON text that the script reads as text. The
    content security policy allows no request but for own files, and no script but the shell's own
    and what that one loads.
    """
    chunks = list(details.chunks(board, base))
    return {
        **{f"{details.FOLDER}/{chunk.name}": chunk.script for chunk in chunks},
        PLAIN: _plain(board, tables),
        SHELL: _shell(board, tables, drawings, chunks, lambda d: f"figures/{d.name}.svg"),
    }


def single_page(
    board: Board, tables: Sequence[Table], drawings: Sequence[Drawing], base: Path
) -> str:
    """The same as one text that needs no other file: with all details, tables and figures."""
    chunks = list(details.chunks(board, base))
    return _shell(board, tables, drawings, chunks, _data_address, _every(board, tables))


def remove_stale_details(base: Path, files: Collection[str]) -> None:
    """Remove the details of earlier pages in ``base``; ``files`` are those of this one."""
    details.remove_others(base / details.FOLDER, {Path(file).name for file in files})


def _shell(
    board: Board,
    tables: Sequence[Table],
    drawings: Sequence[Drawing],
    chunks: Sequence[details.Chunk],
    address: Callable[[Drawing], str],
    plain: Sequence[Table] = (),
) -> str:
    """The main page. ``plain`` tables, and with them all details, are put inside."""
    environment = _environment()
    script = _source(environment, "page.js")
    return environment.get_template("page.html.j2").render(
        board=board,
        style=Markup(_source(environment, "page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        choices=[m for m in _shown(board) if m == board.by or (m.sign and not m.is_cost)],
        families=sorted({_method(entry)["family"] for entry in board.entries}),
        figures=[(drawing, address(drawing)) for drawing in drawings],
        left_out=left_out(board),
        data=Markup(details.safe_json(_data(board, tables, chunks))),
        inside=[(chunk.name, Markup(chunk.text)) for chunk in chunks] if plain else [],
        plain=plain,
        plain_file=PLAIN,
        count=count,
    )


def _plain(board: Board, tables: Sequence[Table]) -> str:
    environment = _environment()
    return environment.get_template("tables.html.j2").render(
        tables=_every(board, tables),
        style=Markup(_source(environment, "page.css")),
        shell_file=SHELL,
    )


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("circuitbench_leaderboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _data_address(drawing: Drawing) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(drawing.svg().encode()).decode()


def _data(board: Board, tables: Sequence[Table], chunks: Sequence[details.Chunk]) -> dict[str, Any]:
    """What the script shows before a run is opened; long lists are positional to be short."""
    tasks = {task: i for i, task in enumerate(board.by_task)}
    entries = {id(entry): i for i, entry in enumerate(board.entries)}
    chunk_of = {run_id: i for i, chunk in enumerate(chunks) for run_id in chunk.run_ids}
    shown = _shown(board)
    rankings = [(None, board.overall), *((tasks[on], it) for on, it in board.by_task.items())]
    standings = [
        _standing(standing, entries[id(standing.entry)], task, shown)
        for task, within in rankings
        for standing in within.standings
    ]
    runs = [
        _run(run, i, tasks[TaskOnModel.of(run)], chunk_of[run.run_id], shown)
        for i, entry in enumerate(board.entries)
        for run in entry.runs
    ]
    return {
        "metrics": [_metric(m) for m in shown],
        "rankedBy": board.by.title,
        "marks": MARKS,
        "methods": [_method(entry) for entry in board.entries],
        "tasks": list(tasks),
        "standings": standings,
        "runs": runs,
        "tables": [
            _table(t, board.by) for t in tables if t.key not in ("overall", "tasks") and t.rows
        ],
        "folder": details.FOLDER,
        "details": [[chunk.name, chunk.integrity] for chunk in chunks],
    }


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


def _method(entry: Entry) -> dict[str, str]:
    """What a method says of itself, as text; a link only where it leads to the web."""
    told: Any = next((found for run in entry.runs if (found := run.info.get("method"))), {})
    told = told if isinstance(told, Mapping) else {}
    granularity, needs = told.get("granularity"), told.get("needs")
    about = [f"scores {granularity}"] if granularity else []
    about += [f"needs {', '.join(map(str, needs))}"] if needs and isinstance(needs, list) else []
    link = str(told.get("link") or "")
    words = {
        "title": str(told.get("title") or ""),
        "paper": str(told.get("paper") or ""),
        "link": link if urlsplit(link).scheme in ("http", "https") else "",
        "about": "; ".join(about),
    }
    return {
        "label": entry.label,
        "family": entry.family,
        **{key: text for key, text in words.items() if text},
    }


def _standing(
    standing: Standing, entry: int, task: int | None, shown: Sequence[Metric]
) -> list[Any]:
    """``[entry, task, done, expected, sources, value per metric ...]``."""
    sources = {
        f"{run.versions.get('circuitbench') or 'unknown'} @ {short_commit(run)}"
        for run in standing.runs
    }
    values = [_value(standing.estimates[m.key], m.digits) for m in shown]
    return [entry, task, standing.done, standing.expected, ", ".join(sorted(sources)), *values]


def _value(estimate: Estimate | None, digits: int) -> list[float] | None:
    """``[mean, interquartile mean, mark, low, high]``, without zeros and limits it lacks."""
    if estimate is None:
        return None
    mark = MARKS.index(estimate.mark)
    limits = [_number(limit, EXACT) for limit in estimate.interval or ()]
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
        *(None if value is None else _number(value, EXACT) for value in values),
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
        raw = None if field.raw is None else _number(float(field.raw), 6)
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
    for entry in board.entries:
        for run in entry.runs:
            texts = [run.run_id, entry.label, run.task, run.model_name, str(run.seed), run.status]
            for m in shown:
                value = run.values.get(m.key)
                texts.append("–" if value is None else f"{value:,.{m.digits}f}")
            rows.append(Row(tuple(Field(text, text) for text in texts), (run,)))
    measures = [Column(m.key, m.title, m.about, numeric=True) for m in shown]
    return Table("runs", "Runs", "", (*columns, *measures), tuple(rows))
