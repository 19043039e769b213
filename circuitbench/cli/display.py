"""How records and progress look on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from circuitbench.results import Record
    from circuitbench.runs.progress import Progress as ProgressCallback

NO_TRUTH = ("truth", "none is known", "")

# A pipe has no width of its own; rows should not fold for it.
out_console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
err_console = Console(stderr=True, highlight=False)


def warn(message: str) -> None:
    """One line on standard error about something that does not end the verb."""
    err_console.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)


def progress_bar(title: str) -> AbstractContextManager[ProgressCallback]:
    """A bar on a terminal, plain lines elsewhere; both on standard error."""
    from circuitbench.runs.progress_bar import progress_bar as bar_on

    return bar_on(title, err_console)


def summary(record: Record) -> Table:
    """The short table that ends a run."""
    table = Table(
        title=f"{record.method} on {record.task} ({record.model_name}, seed {record.seed})"
    )
    table.add_column("measure")
    table.add_column("value", justify="right", overflow="fold")
    table.add_column("chance", justify="right")
    for row in summary_rows(record):
        table.add_row(*row)
    return table


def summary_rows(record: Record) -> list[tuple[str, str, str]]:
    """Measure, value, and what chance gives, as text."""
    spent, training = record.costs.get("discovery", {}), record.costs.get("training", {})
    rows: list[tuple[str, str, str]] = [("status", record.status, "")]
    if record.status == "done":
        selected = record.discovery["selected"]
        rows += [
            ("found heads", " ".join(selected) or "none", ""),
            *(_quality(record) if record.truth else [NO_TRUTH]),
            *_function(record),
        ]
    if record.external:
        return [*rows, ("cost", "unknown: found elsewhere", "")]
    rows += [
        ("queries", str(spent.get("queries", 0)), ""),
        ("discovery seconds", _seconds(spent), ""),
    ]
    if training.get("queries"):
        rows += [
            ("training queries", str(training["queries"]), ""),
            ("training seconds", _seconds(training), ""),
        ]
    return rows


def head_grid_lines(record: Record) -> list[str]:
    """Layers x heads: ``#`` found, ``o`` missed, ``x`` wrongly found, ``.`` neither."""
    found = set(record.discovery["selected"])
    roles = record.truth.get("roles", {})
    true = {head for role in roles.values() for head in role["heads"]}
    marks = {(True, True): "#", (False, True): "o", (True, False): "x", (False, False): "."}
    lines = ["heads by layer (# found, o missed, x wrongly found):"]
    if not record.truth:
        marks[True, False] = "#"
        lines = ["heads by layer (# found; nobody knows which are true):"]
    for layer, row in enumerate(record.discovery["scores"]):
        names = [f"{layer}.{head}" for head in range(len(row))]
        marked = " ".join(marks[(name in found, name in true)] for name in names)
        lines.append(f"{layer:>4}  {marked}")
    return lines


def one_line(record: Record, new: bool) -> str:
    """One run of a sweep; ``new`` is False for one that was there already."""
    if record.status == "done":
        rows = _quality(record) if record.truth else _function(record) or [NO_TRUTH]
        what = f"{rows[0][0]} {rows[0][1]}"
    else:
        what = f"{record.ending}: {record.reason}"
    kept = "" if new else " (kept)"
    return f"{record.method} on {record.task} seed {record.seed}: {what}{kept}"


def _quality(record: Record) -> list[tuple[str, str, str]]:
    """How the discovery compares with the truth: measure, value, and what chance gives."""
    from circuitbench.evaluation.metrics import metric
    from circuitbench.results.content import outcome_of

    outcome = outcome_of(record)
    titles = {"auroc": "AUROC", "average_precision": "average precision", "f1": "F1"}
    rows = []
    for key, title in titles.items():
        found = metric(key)
        chance = found.chance(outcome) if found.chance else None
        rows.append((title, _number(found.of(outcome)), _number(chance)))
    return rows


def _function(record: Record) -> list[tuple[str, str, str]]:
    """What the model keeps of its task with the found heads alone; where no truth says more."""
    from circuitbench.evaluation.metrics import metrics
    from circuitbench.evaluation.without_truth import MEASURED_ABLATIONS
    from circuitbench.results.content import outcome_of

    if record.truth or not record.measurements:
        return []
    outcome = outcome_of(record)
    rows = []
    for ablation in MEASURED_ABLATIONS:
        for key, title in (("faithfulness", "faithfulness"), ("cmd", "CMD")):
            value = metrics()[f"{key}_{ablation}"].of(outcome)
            rows.append((f"{title}, {ablation} ablation", _number(value), ""))
    return rows


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}"


def _seconds(costs: Mapping[str, Any]) -> str:
    # What was trained elsewhere took seconds, and the method only reads what it learnt.
    return f"{max(costs.get(name, 0.0) for name in ('method_seconds', 'seconds')):.1f}"
