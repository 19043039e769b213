"""Tables as text. Whatever a record holds, it comes out as text: never markup, formula or path."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from circuitbench.results.archive import SUFFIX as ARCHIVE
from circuitbench.results.run_row import RunRow
from circuitbench_leaderboard.board import Board
from circuitbench_leaderboard.entries import TaskOnModel
from circuitbench_leaderboard.tables.cells import Field, Row, Table

_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")
_MARKDOWN = re.compile(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w))")
LONG = 40  # rows that LaTeX can put on one page
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}
_SIGNS = {"tied": "≈", "untested": "?"}
_LATEX_SIGNS = {"tied": r"$^{\sim}$", "untested": "$^{?}$"}


def one_line(text: str) -> str:
    """Without line breaks and other control characters."""
    return _CONTROL.sub(" ", text)


def escape_markdown(text: str) -> str:
    """Text that Markdown and the HTML in it show as it is."""
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", plain)


def escape_csv(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    plain = one_line(text)
    return f"'{plain}" if plain.lstrip()[:1] in {"=", "+", "-", "@"} else plain


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(_LATEX.get(char, char) for char in one_line(text))


def link(run: RunRow, base: Path) -> str:
    """The run's record as a relative URL from ``base``; empty if it was never stored.

    A record in an archive has the archive's URL and its own name after ``#``.
    """
    if run.path is None:
        return ""
    folder, name = _relative(run.path.parent, base), quote(run.path.name)
    return f"{folder}{'#' if run.path.parent.suffix == ARCHIVE else '/'}{name}"


@lru_cache(maxsize=4096)  # thousands of records lie in one folder
def _relative(folder: Path, base: Path) -> str:
    return quote(Path(os.path.relpath(folder.resolve(), base.resolve())).as_posix())


def markdown(board: Board, tables: Sequence[Table], base: Path) -> str:
    """All tables, then the records behind every row, what did not finish and what was left out.

    The name in a row links to the list of its records.
    """
    sources, anchors = _markdown_sources(board, base)
    parts = [
        f"## {escape_markdown(table.title)}\n\n{markdown_table(table, anchors)}\n\n"
        f"{escape_markdown(table.note)} {_key(_SIGNS)}"
        for table in map(_essential, tables)
    ]
    parts.append("## Records\n\n" + "\n".join(sources))
    parts += [
        f"## {title}\n\n" + "\n".join(f"- {escape_markdown(line)}" for line in lines)
        for title, lines in (("Not finished", unfinished(board)), ("Left out", left_out(board)))
        if lines
    ]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table, anchors: Mapping[str, str] | None = None) -> str:
    """One table as lines of Markdown.

    ``anchors`` by run id make the name in each row a link to the anchor of its first run.
    """
    head = [escape_markdown(column.label) for column in table.columns]
    keys = [column.key for column in table.columns]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    lines = [head, rule]
    for row in table.rows:
        fields = [_markdown_field(field) for field in row.fields]
        if anchors is not None and row.runs and "method" in keys:
            named = keys.index("method")
            fields[named] = f"[{fields[named]}](#{anchors[row.runs[0].run_id]})"
        lines.append(fields)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def without(table: Table, *keys: str) -> Table:
    """The table without the columns of these keys."""
    kept = [i for i, column in enumerate(table.columns) if column.key not in keys]
    rows = tuple(replace(row, fields=tuple(row.fields[i] for i in kept)) for row in table.rows)
    return replace(table, columns=tuple(table.columns[i] for i in kept), rows=rows)


def csv_text(table: Table, base: Path) -> str:
    """One table; a column with an interval or a mark has ``_low``, ``_high``, ``_mark`` beside it.

    Numbers are unrounded; the records' paths are separated by ``;``.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    spans = [any(row.fields[i].interval for row in table.rows) for i in range(len(table.columns))]
    marks = [any(row.fields[i].mark for row in table.rows) for i in range(len(table.columns))]
    head: list[str] = []
    for column, span, mark in zip(table.columns, spans, marks, strict=True):
        key = escape_csv(column.key)
        head += [key] + [f"{key}_low", f"{key}_high"] * span + [f"{key}_mark"] * mark
    writer.writerow([*head, "records"])
    for row in table.rows:
        line: list[str | float | None] = []
        for field, span, mark in zip(row.fields, spans, marks, strict=True):
            line.append(escape_csv(field.raw) if isinstance(field.raw, str) else field.raw)
            line += list(field.interval or (None, None)) if span else []
            line += [field.mark] if mark else []
        sources = ";".join(filter(None, (link(run, base) for run in row.runs)))
        writer.writerow([*line, escape_csv(sources)])
    return out.getvalue()


def latex(board: Board, tables: Sequence[Table], base: Path) -> str:
    """All tables; the records behind each row stand in comments. Long tables may break."""
    parts = ["% needs \\usepackage{booktabs,longtable}"]
    for table in map(_essential, tables):
        align = "".join("r" if c.numeric else "l" for c in table.columns)
        head = " & ".join(escape_latex(c.label) for c in table.columns) + r" \\"
        lines = []
        for row in table.rows:
            lines.append(" & ".join(_latex_field(f) for f in row.fields) + r" \\")
            sources = " ".join(filter(None, (link(run, base) for run in row.runs)))
            lines.append(f"% records: {sources}")
        body = "\n".join(lines)
        caption = (
            f"\\caption{{{escape_latex(f'{table.title}. {table.note}')} {_key(_LATEX_SIGNS)}}}"
        )
        if len(table.rows) > LONG:
            parts.append(
                f"{{\\small\n\\begin{{longtable}}{{{align}}}\n{caption}\\tabularnewline\n"
                f"\\toprule\n{head}\n\\midrule\n\\endhead\n{body}\n\\bottomrule\n"
                "\\end{longtable}}"
            )
        else:
            parts.append(
                f"\\begin{{table}}\n\\centering\\small\n{caption}\n"
                f"\\begin{{tabular}}{{{align}}}\n\\toprule\n{head}\n\\midrule\n{body}\n"
                "\\bottomrule\n\\end{tabular}\n\\end{table}"
            )
    parts += [f"% {line}" for line in (*unfinished(board), *left_out(board))]
    return "\n\n".join(parts) + "\n"


def json_text(board: Board, tables: Sequence[Table], base: Path) -> str:
    """All tables as data: ``tables.<key>.rows`` holds one object per row."""
    content = {
        "ranked_by": board.by.key,
        "source": board.source,
        "grid": {
            "tasks": [task._asdict() for task in board.overall.grid.tasks],
            "seeds": list(board.overall.grid.seeds),
        },
        "tables": {
            table.key: {
                "title": table.title,
                "note": table.note,
                "rows": [_json_row(table, row, base) for row in table.rows],
            }
            for table in tables
        },
        "unfinished": [
            {
                "method": r.method,
                "task": r.task,
                "model": r.model_name,
                "seed": r.seed,
                "status": r.status,
                "stage": r.stage,
                "reason": r.reason,
                "record": link(r, base),
            }
            for r in board.unfinished
        ],
        "problems": [{"path": str(p.path), "message": p.message} for p in board.problems],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def unfinished(board: Board) -> list[str]:
    """One line per run that failed, timed out or was skipped."""
    return [
        one_line(f"{r.method}, {r.task} / {r.model_name}, seed {r.seed}: {r.ending}: {r.reason}")
        for r in board.unfinished
    ]


def left_out(board: Board) -> list[str]:
    """One line per file that could not be used."""
    return [one_line(str(problem)) for problem in board.problems]


def _essential(table: Table) -> Table:
    """Without the columns that only data formats and the page have room for."""
    return without(table, *(column.key for column in table.columns if column.minor))


def _key(signs: Mapping[str, str]) -> str:
    return " ".join(["Bold: best.", *(f"{sign}: {mark}." for mark, sign in signs.items())])


def _markdown_field(field: Field) -> str:
    text = escape_markdown(field.text)
    if field.mark == "best":
        return f"**{text}**"
    return f"{text} {_SIGNS[field.mark]}" if field.mark else text


def _latex_field(field: Field) -> str:
    text = escape_latex(field.text)
    if field.mark == "best":
        return f"\\textbf{{{text}}}"
    return text + _LATEX_SIGNS[field.mark] if field.mark else text


def _markdown_sources(board: Board, base: Path) -> tuple[list[str], dict[str, str]]:
    """One line per entry and task, and the anchor of the line that each run stands in.

    An entry's lines follow each other, so the anchor of its first run leads to all of them.
    """
    lines: list[str] = []
    anchors: dict[str, str] = {}
    for entry in (*board.everyone, *board.untold, *board.external):
        for task, runs in groupby(entry.runs, key=TaskOnModel.of):
            anchor = f"runs-{len(lines) + 1}"
            links = []
            for run in runs:
                anchors[run.run_id] = anchor
                url = link(run, base)
                links.append(f"[{run.seed}]({url})" if url else str(run.seed))
            name = escape_markdown(f"{entry.label}, {task}")
            lines.append(f'- <a id="{anchor}"></a>{name}: seeds {" ".join(links)}')
    return lines, anchors


def _json_row(table: Table, row: Row, base: Path) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for column, field in zip(table.columns, row.fields, strict=True):
        content[column.key] = field.raw
        if field.interval is not None:
            content[f"{column.key}_interval"] = list(field.interval)
        if field.mark:
            content[f"{column.key}_mark"] = field.mark
    runs = [{"run_id": r.run_id, "seed": r.seed, "path": link(r, base)} for r in row.runs]
    return {**content, "records": runs}
