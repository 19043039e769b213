"""What MechRL reports in its two versions, beside what was found here."""

from __future__ import annotations

from typing import Any

from circuitbench import Oracle, load_model, load_task
from circuitbench_experiments.mechrl.protocol import MechRL
from circuitbench_experiments.mechrl_edges.circuits import COMMITTED
from circuitbench_experiments.mechrl_edges.settings import Edges
from circuitbench_experiments.mechrl_edges.table import Cell, value_of
from circuitbench_experiments.mechrl_edges.targets import model_of
from circuitbench_experiments.published.figures import paper, rows_of, stand_in
from circuitbench_experiments.published.measure import Table


def table(settings: MechRL, results: dict[str, Any]) -> Table:
    """The first version: the best head's reward by task and contender, one value per seed."""
    said = paper("mechrl")
    values: dict[tuple[str, str], list[float]] = {}
    for seed in results["seeds"]:
        for row in seed["rows"]:
            if "best" in row:
                values.setdefault((row["contender"], row["task"]), []).append(row["best"])
    model = load_model(settings.model)
    other = {}
    for task in said.columns:
        oracle = Oracle(
            model, load_task(task), task_name=task, seed=0, batch_size=32, device=settings.device
        )
        right = float((oracle.batch.clean(oracle.batch, "task") > 0).mean())
        other[task] = stand_in(model, said.models[task], right)
    return Table(said, model.name, rows_of(said, values, {}, other))


def edge_table(settings: Edges, results: dict[str, Any]) -> Table:
    """The second version: edges, faithfulness and passes by task, one value per seed."""
    said = paper("mechrl-edges")
    values: dict[tuple[str, str], list[float]] = {}
    for cell in results["cells"]:
        if cell["task"] in said.columns and not cell["failed"]:
            for name, value in _figures(cell).items():
                values.setdefault((f"{cell['arm']} {name}", cell["task"]), []).append(value)
    model = model_of(
        f"{settings.model}@{settings.seeds[0]}" if settings.planted else settings.model
    )
    other: dict[str, str] = {}
    missing: dict[tuple[str, str], str] = {}
    for task in said.columns:
        if task not in (*settings.train_tasks, *settings.held_out_tasks):
            why = f"not asked of {model.name}"
            missing |= {(str(f.ours), task): why for f in said.figures}
            continue
        oracle = Oracle(
            model, load_task(task), task_name=task, seed=0, batch_size=32, device=settings.device
        )
        right = float((oracle.batch.clean(oracle.batch, "task") > 0).mean())
        other[task] = stand_in(model, said.models[task], right)
    return Table(said, model.name, rows_of(said, values, missing, other))


def _figures(cell: Cell) -> dict[str, float]:
    """What the paper's table has of an arm on a task."""
    found = {"size": float(cell["size"]), "faithfulness": float(cell["faithfulness"])}
    found |= {"passes": float(cell["passes"]), "asked": value_of(cell, "asked") or 0.0}
    for point in cell["curve"]:
        if point["name"] == COMMITTED:
            found[COMMITTED] = float(point["size"])
            found[f"{COMMITTED} faithfulness"] = float(point["faithfulness"])
        else:
            found[point["name"]] = float(point["faithfulness"])
    return found
