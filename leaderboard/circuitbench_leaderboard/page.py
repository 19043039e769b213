"""The page: one HTML file that needs nothing else, neither network nor server."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from circuitbench.core.circuit import ABLATIONS
from circuitbench.evaluation.metrics import of_kind
from circuitbench.results.run_row import RunRow
from circuitbench_leaderboard.entries import Entry
from circuitbench_leaderboard.figures.style import INK, Drawing
from circuitbench_leaderboard.formats import left_out, link
from circuitbench_leaderboard.standing import Estimate, Standing, main_metrics
from circuitbench_leaderboard.table import Board, Table, count, short_commit

_FUNCTION = ("faithfulness", "cpr", "cmd")


def page(board: Board, tables: Sequence[Table], drawings: Sequence[Drawing], base: Path) -> str:
    """The whole page as text; links to records are relative to ``base``.

    Everything that comes from records is escaped by the template engine or sits in a JSON block
    that the page's script reads as text. The content security policy allows no request and no
    script but the page's own, by its hash.
    """
    environment = Environment(
        loader=PackageLoader("circuitbench_leaderboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sources = {name: _source(environment, name) for name in ("page.css", "page.js")}
    digest = hashlib.sha256(sources["page.js"].encode()).digest()
    return environment.get_template("page.html.j2").render(
        board=board,
        style=Markup(sources["page.css"]),
        script=Markup(sources["page.js"]),
        script_hash=base64.b64encode(digest).decode(),
        metrics=main_metrics(),
        quality=of_kind("quality"),
        standings=_standings(board),
        runs=_runs(board),
        tables=[table for table in tables if table.key not in ("overall", "tasks") and table.rows],
        figures=[(d, Markup(inline_svg(d))) for d in drawings],
        left_out=left_out(board),
        data=_data(board, base),
        count=count,
    )


def inline_svg(drawing: Drawing) -> str:
    """A figure as an element of the page: it follows the page's colours, width and ids."""
    svg = drawing.transparent_svg
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(
        r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg
    )  # matplotlib numbers its groups alike in every figure
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _standings(board: Board) -> list[dict[str, Any]]:
    """One row of the main table each: over all cells, then within each cell."""
    rows = [_standing(standing, None, None) for standing in board.overall.standings]
    for task, within in board.by_task.items():
        rows += [_standing(standing, task.task, task.model) for standing in within.standings]
    return rows


def _standing(standing: Standing, task: str | None, model: str | None) -> dict[str, Any]:
    return {
        "entry": standing.entry,
        "task": task,
        "model": model,
        "rank": standing.rank,
        "done": standing.done,
        "expected": standing.expected,
        "values": {m.key: _value(standing.estimates[m.key], m.digits) for m in main_metrics()},
        "sources": sorted(
            {
                f"{run.versions.get('circuitbench') or 'unknown'} @ {short_commit(run)}"
                for run in standing.runs
            }
        ),
    }


def _value(estimate: Estimate | None, digits: int) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {
        "mean": estimate.mean,
        "text": f"{estimate.mean:,.{digits}f}",
        "iqm": f"{estimate.iqm:,.{digits}f}",
        "interval": estimate.interval,
        "mark": estimate.mark,
    }


def _runs(board: Board) -> list[dict[str, Any]]:
    return [
        {
            "id": run.run_id,
            "entry": entry,
            "record": run,
            "values": {
                m.key: None
                if (x := run.values.get(m.key)) is None
                else {"raw": x, "text": _short(x, m.digits)}
                for m in main_metrics()
            },
        }
        for entry in board.entries
        for run in entry.runs
    ]


def _short(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _data(board: Board, base: Path) -> dict[str, Any]:
    """What the script needs to show one run."""
    return {
        "metrics": [
            {"key": m.key, "label": m.title, "about": m.about, "unit": m.unit, "digits": m.digits}
            for m in main_metrics()
        ],
        "rankedBy": board.by.title,
        "runs": {
            run.run_id: _run(entry, run, board, base)
            for entry in board.entries
            for run in entry.runs
        },
    }


def _run(entry: Entry, run: RunRow, board: Board, base: Path) -> dict[str, Any]:
    record = run.record
    scores = record.discovery.get("scores") if record.status == "done" else None
    return {
        "label": entry.label,
        "task": record.task,
        "model": record.model_name,
        "seed": record.seed,
        "status": record.status,
        "reason": record.reason,
        "scores": None if scores is None else _rounded(scores),
        "selected": record.discovery.get("selected") or [],
        "truth": record.truth,
        "curve": [[q, round(value, 4)] for q, value in run.curves.get(board.by.key, ())],
        "chance": None,
        "values": {m.key: run.values.get(m.key) for m in of_kind("quality")},
        "function": {
            ablation: [run.values.get(f"{name}_{ablation}") for name in _FUNCTION]
            for ablation in ABLATIONS
        },
        "costs": record.costs,
        "spec": record.spec,
        "versions": record.versions,
        "hardware": record.hardware,
        "command": record.command,
        "created": record.created,
        "file": link(run, base),
    }


def _rounded(scores: Any) -> list[list[float]]:
    """Four significant digits: enough to see and to sort by, a third of the size."""
    return [[float(f"{value:.4g}") for value in layer] for layer in np.asarray(scores)]
