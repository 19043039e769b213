"""The tables of :mod:`.measure` as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from circuitbench.results import write_atomically
from circuitbench_experiments.published.figures import Paper
from circuitbench_experiments.published.measure import Table


def markdown(tables: Sequence[Table]) -> str:
    """Every figure beside ours, with a verdict."""
    return "\n".join(map(_table, tables))


def write_report(tables: Sequence[Table], out: Path, name: str = "results") -> list[Path]:
    """``<name>.md`` and ``<name>.json`` into ``out``; gives their paths."""
    paths = [out / f"{name}.md", out / f"{name}.json"]
    content = [
        {
            "source": table.paper.source,
            "transcribed": table.paper.transcribed,
            "model": table.model,
            "rows": [
                {**row.figure._asdict(), "values": list(row.values)}
                | {"verdict": row.verdict, "because": row.other}
                for row in table.rows
            ],
        }
        for table in tables
    ]
    write_atomically(paths[0], markdown(tables))
    write_atomically(paths[1], json.dumps(content, indent=1, allow_nan=False) + "\n")
    return paths


def _table(table: Table) -> str:
    said = table.paper
    marked = " (figures copied by hand)" if said.transcribed else ""
    lines = [f"### {said.source}{marked}", "", f"Here: {table.model}.", ""]
    for reason in dict.fromkeys(row.other for row in table.rows if row.other):
        columns = dict.fromkeys(r.figure.column for r in table.rows if r.other == reason)
        named = ", ".join(columns)
        lines += [f"**{named}: cannot be compared. This model is a stand-in: {reason}.**", ""]
    verdicts = {row.verdict for row in table.rows}
    if len(verdicts) == 1 and not any(row.values for row in table.rows):
        return "\n".join([*lines, *_published_alone(said, verdicts.pop())]) + "\n"
    lines += [
        "| method | figure | published | here | verdict |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    for row in table.rows:
        method, ours, column, value = row.figure
        named = method if ours is None or ours == method else f"{method} ({ours})"
        cells = [named, column, f"{value:g}", row.shown, row.verdict]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Agrees: within 0.05, or a tenth of the published figure (our limits).", ""]
    lines += _notes(said)
    return "\n".join(lines) + "\n"


def _published_alone(said: Paper, why: str) -> list[str]:
    """The paper's table as it is, where there is nothing of ours to set beside any of it."""
    rows = [f"| method | {' | '.join(said.columns)} |", "| --- |" + " ---: |" * len(said.columns)]
    for method in dict.fromkeys(figure.method for figure in said.figures):
        known = {f.column: f"{f.value:g}" for f in said.figures if f.method == method}
        rows.append(f"| {method} | {' | '.join(known.get(c, '') for c in said.columns)} |")
    return [f"Published figures; here: {why}.", "", *rows, "", *_notes(said)]


def _notes(said: Paper) -> list[str]:
    return [f"- {' '.join(note.split())}" for note in said.notes]
