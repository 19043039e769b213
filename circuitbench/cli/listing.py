"""What is installed, as tables and as JSON. Plug-ins are read from their sources, not imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.table import Table
from rich.text import Text

from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.plugins.registry import Kind, describe, list_plugins
from circuitbench.plugins.tiers import PLACES, places

WIDTH = 100
PLUGINS: dict[str, Kind] = {"methods": "method", "tasks": "task", "models": "model"}
LISTS = (*PLUGINS, "metrics")
# The fields that head the groups and fill the columns of a table.
SHOWN = {"metrics": ("kind", "title", "better", "about", "from")}
OF_PLUGINS = ("family", "title", "tiers", "models", "needs", "paper", "from")


def rows_of(what: str, tier: str | None = None) -> list[dict[str, Any]]:
    """All that is known of the methods, tasks, models or metrics that are installed.

    ``tier`` keeps tasks of a tier alone. Raises :class:`UnknownName` for another list or tier,
    naming the nearest, and :class:`InvalidSpec` for a tier of what has none.
    """
    if tier is not None:
        if what != "tasks":
            raise InvalidSpec(f"only tasks are in tiers, not {what}; leave out --tier")
        places(tier)  # refuses one that does not exist
    if what in PLUGINS:
        rows = [
            {"name": p.name, "target": p.target, "origin": p.origin}
            | describe(PLUGINS[what], p.name).as_dict()
            | ({"tiers": _models_by_tier(p.name)} if what == "tasks" else {})
            for p in list_plugins(PLUGINS[what])
        ]
        if tier is None:
            return rows
        return [row | {"models": row["tiers"][tier]} for row in rows if tier in row["tiers"]]
    if what != "metrics":
        raise UnknownName("list", what, LISTS)
    from circuitbench.evaluation.metrics import metrics  # numpy takes a while

    fields = ("title", "kind", "better", "unit", "needs", "about", "origin")
    return [
        {"name": key, **{field: getattr(metric, field) for field in fields}}
        for key, metric in metrics().items()
    ]


def table_of(what: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Names with what is known of them, under the headings of their families or kinds.

    A plug-in of somebody else shows its distribution. Columns empty throughout are left out.
    """
    group, *columns = SHOWN.get(what, OF_PLUGINS)
    shown = [
        {
            **row,
            **{key: ", ".join(row.get(key, ())) for key in ("needs", "tiers", "models")},
            "from": _foreign(row),
        }
        for row in rows
    ]
    columns = [column for column in columns if any(row[column] for row in shown)]
    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    if what in PLUGINS:
        shown.sort(key=lambda row: (row[group] == "other", row[group]))
    for heading, members in groupby(shown, key=lambda row: row[group]):
        table.add_row(Text(heading, style="bold"))
        for row in members:
            table.add_row(Text(f"  {row['name']}"), *(Text(row[column]) for column in columns))
    return table


def _models_by_tier(task: str) -> dict[str, list[str]]:
    """The tiers a task is in, each with the models it is on there."""
    found = {
        tier: [place.model for place in members if place.task == task]
        for tier, members in PLACES.items()
    }
    return {tier: models for tier, models in found.items() if models}


def _foreign(row: Mapping[str, Any]) -> str:
    ours = row["origin"].partition(" ")[0] == "circuitbench"
    return "" if ours else row["origin"]
