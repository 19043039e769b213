"""The page on numbers that need no truth: one file without scripts, or Markdown, or data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup

from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.core.extras import needs_extra
from circuitbench.results import write_atomically
from circuitbench.results.index import read_runs
from circuitbench_leaderboard.formats import escape_markdown, markdown_table
from circuitbench_leaderboard.tables.cells import Table, count
from circuitbench_leaderboard.truth_free.forecast import Report, report
from circuitbench_leaderboard.truth_free.tables import tables
from circuitbench_leaderboard.truth_free.words import sentences

Format = Literal["markdown", "html", "json"]
FORMATS: tuple[Format, ...] = ("markdown", "html", "json")
STEM = "truth-free"
TITLE = "Do numbers that need no truth predict the truth?"


def render_report(
    results: Path | str,
    format: str = "markdown",
    out: Path | str | None = None,
    warn: Callable[[str], None] = lambda line: None,
    workers: int = 1,
    commit: str | None = None,
) -> str:
    """The report on a results folder, as text; ``out`` is a folder for the same text as a file.

    Returns:
        What to print: the text, or the path of the file.

    Raises:
        UnknownName: an unknown format.
        InvalidSpec: no records, or too few that finished the same runs; ``out`` cannot be written.
    """
    if format not in FORMATS:
        raise UnknownName("format", format, FORMATS)
    runs, problems = read_runs(results, warn, workers=workers)
    for problem in problems:
        warn(f"left out {problem}")
    if not runs:
        raise InvalidSpec(f"no records in {results}")
    found = report(runs, commit)
    text = {"markdown": markdown, "html": page, "json": data}[format](found)
    if out is None:
        return text
    suffix = {"markdown": "md", "html": "html", "json": "json"}[format]
    path = Path(out) / f"{STEM}.{suffix}"
    write_atomically(path, text)
    return str(path)


def basis(found: Report) -> str:
    """What the report stands on, in a sentence."""
    parts = [
        f"{tier.answers.name} ({count(len(tier.answers.entries), 'method')} x "
        f"{count(tier.answers.grid.size, 'run')})"
        for tier in found.tiers
    ]
    source = f"circuitbench {found.source}" if found.source else "all versions together"
    return (
        f"Runs of {source} under {found.ablation} ablation, of the methods that finished all runs "
        f"of a tier: {', '.join(parts)}."
    )


def markdown(found: Report) -> str:
    """Words first, then the tables."""
    parts = [f"# {TITLE}", escape_markdown(basis(found))]
    parts.append("\n".join(f"- {escape_markdown(line)}" for line in sentences(found)))
    parts += [
        f"## {escape_markdown(table.title)}\n\n{markdown_table(table)}\n\n"
        f"{escape_markdown(table.note)}"
        for table in tables(found)
    ]
    return "\n\n".join(parts) + "\n"


def data(found: Report) -> str:
    """The same as JSON: ``sentences``, and ``tables.KEY.rows`` with one object per row."""
    content = {
        "source": found.source,
        "ablation": found.ablation,
        "tiers": {
            unit.name: {
                tier.answers.tier: {
                    "methods": [entry.label for entry in tier.answers.entries],
                    "tasks": [task._asdict() for task in tier.answers.grid.tasks],
                    "seeds": list(tier.answers.grid.seeds),
                }
                for tier in tiers
            }
            for unit, tiers in found.by_unit.items()
        },
        "sentences": sentences(found),
        "tables": {table.key: _as_data(table) for table in tables(found)},
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _as_data(table: Table) -> dict[str, Any]:
    rows = []
    for row in table.rows:
        content: dict[str, Any] = {}
        for column, field in zip(table.columns, row.fields, strict=True):
            content[column.key] = field.raw
            if field.interval is not None:
                content[f"{column.key}_interval"] = list(field.interval)
        rows.append(content)
    return {"title": table.title, "note": table.note, "rows": rows}


def page(found: Report) -> str:
    """One HTML file that needs no other, without any script; what comes from records is escaped."""
    with needs_extra("the page"):
        from circuitbench_leaderboard.page import data_address, new_environment, source_text
        from circuitbench_leaderboard.truth_free.figure import correlations

    loaded = new_environment()
    drawings = [correlations(tiers) for tiers in found.by_unit.values()]
    return loaded.get_template("truth-free.html.j2").render(
        title=TITLE,
        basis=basis(found),
        sentences=sentences(found),
        tables=tables(found),
        pictures=[(drawing, data_address(drawing)) for drawing in drawings],
        style=Markup(source_text(loaded, "page.css")),
    )
