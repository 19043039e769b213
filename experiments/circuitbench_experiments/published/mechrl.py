"""What MechRL's first version reports, beside what :mod:`circuitbench_experiments.mechrl` found."""

from __future__ import annotations

from typing import Any

from circuitbench import Oracle, load_model, load_task
from circuitbench_experiments.mechrl.protocol import MechRL
from circuitbench_experiments.published.figures import paper, rows_of, stand_in
from circuitbench_experiments.published.measure import Table


def table(settings: MechRL, results: dict[str, Any]) -> Table:
    """The best head's reward by task and contender, one value per training seed."""
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
