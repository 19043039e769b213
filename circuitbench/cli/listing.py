"""What is installed, as tables and as JSON; read from sources, nothing is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.table import Table
from rich.text import Text

from circuitbench.core.errors import UnknownName
from circuitbench.plugins.registry import Kind, describe, list_plugins

WIDTH = 100
KINDS: dict[str, Kind] = {"methods": "method", "tasks": "task", "models": "model"}


def rows_of(kinds: str) -> list[dict[str, Any]]:
    """All that is known of the plug-ins of a kind (``methods``, ``tasks``, ``models``), by name.

    Raises :class:`UnknownName` for another kind, naming the nearest.
    """
    if kinds not in KINDS:
        raise UnknownName("kind of plug-in", kinds, KINDS)
    kind = KINDS[kinds]
    return [
        {"name": p.name, "target": p.target, "origin": p.origin, **describe(kind, p.name).as_dict()}
        for p in list_plugins(kind)
    ]


def table_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Names with title, needs and paper under the headings of their families.

    A plug-in of somebody else shows its distribution. Columns empty throughout are left out.
    """
    shown = [{**row, "needs": ", ".join(row["needs"]), "from": _foreign(row)} for row in rows]
    columns = ["title", *(c for c in ("needs", "paper", "from") if any(row[c] for row in shown))]
    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    for family, members in groupby(sorted(shown, key=_by_family), key=lambda row: row["family"]):
        table.add_row(Text(family, style="bold"))
        for row in members:
            table.add_row(Text(f"  {row['name']}"), *(Text(row[column]) for column in columns))
    return table


def _by_family(row: Mapping[str, Any]) -> tuple[bool, str]:
    return row["family"] == "other", row["family"]


def _foreign(row: Mapping[str, Any]) -> str:
    return "" if row["origin"].startswith("circuitbench ") else row["origin"]
