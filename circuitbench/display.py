"""How one record looks on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from circuitbench.results import Record


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
    ranking, selection = record.metrics.get("ranking", {}), record.metrics.get("selection", {})
    chance = ranking.get("chance", {})
    spent, training = record.costs.get("discovery", {}), record.costs.get("training", {})
    rows: list[tuple[str, str, str]] = [("status", record.status, "")]
    if record.status == "done":
        selected = record.discovery["selected"]
        rows += [
            ("found heads", " ".join(selected) or "none", ""),
            ("AUROC", _number(ranking.get("auroc")), _number(chance.get("auroc"))),
            (
                "average precision",
                _number(ranking.get("average_precision")),
                _number(chance.get("average_precision")),
            ),
            ("F1", _number(selection.get("f1")), _number(selection.get("chance", {}).get("f1"))),
        ]
    rows += [("queries", str(spent.get("queries", 0)), ""), ("seconds", _seconds(spent), "")]
    if training.get("queries"):
        rows += [
            ("training queries", str(training["queries"]), ""),
            ("training seconds", _seconds(training), ""),
        ]
    return rows


def head_grid_lines(record: Record) -> list[str]:
    """Layers x heads: ``#`` found, ``o`` missed, ``x`` wrongly found, ``.`` neither."""
    found = set(record.discovery["selected"])
    true = {head for role in record.truth["roles"].values() for head in role["heads"]}
    marks = {(True, True): "#", (False, True): "o", (True, False): "x", (False, False): "."}
    lines = ["heads by layer (# found, o missed, x wrongly found):"]
    for layer, row in enumerate(record.discovery["scores"]):
        names = [f"{layer}.{head}" for head in range(len(row))]
        marked = " ".join(marks[(name in found, name in true)] for name in names)
        lines.append(f"{layer:>4}  {marked}")
    return lines


def one_line(record: Record, new: bool) -> str:
    """One run of a sweep; ``new`` is False for one that was there already."""
    ranking = record.metrics.get("ranking", {})
    what = f"AUROC {_number(ranking.get('auroc'))}" if record.status == "done" else record.reason
    kept = "" if new else " (kept)"
    return f"{record.method} on {record.task} seed {record.seed}: {what}{kept}"


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}"


def _seconds(costs: Mapping[str, Any]) -> str:
    return f"{costs.get('method_seconds', costs.get('seconds', 0.0)):.1f}"
