"""Which roles of a circuit a method finds."""

from __future__ import annotations

from functools import partial

from circuitbench.results.run_row import RunRow
from circuitbench_leaderboard.entries import TaskOnModel
from circuitbench_leaderboard.standing import Estimate, Ranking, estimates
from circuitbench_leaderboard.tables.cells import (
    METHOD,
    PROVENANCE,
    Column,
    Table,
    by_track,
    legend,
    number,
    row_of,
)


def role_recalls(within: Ranking) -> dict[str, list[Estimate | None]]:
    """Per role, each standing's mean recall of its heads among the R best ranked."""

    def recall(run: RunRow, name: str) -> float | None:
        return run.roles.get(name)

    entries = [s.entry for s in within.standings]
    names = {name for s in within.standings for run in s.runs for name in run.roles}
    return {
        name: estimates(entries, partial(recall, name=name), within.grid, f"role {name}")
        for name in sorted(names)
    }


def per_role(task: TaskOnModel, within: Ranking) -> list[Table]:
    """Recall of each role on one task."""
    found = role_recalls(within)
    names = list(found)
    rows = tuple(
        row_of(standing, *(number(found[name][i]) for name in names))
        for i, standing in enumerate(within.standings)
    )
    columns = (
        METHOD,
        *(Column(name, name, f"Recall of the heads of {name}.", numeric=True) for name in names),
        *PROVENANCE,
    )
    note = (
        "Share of each role's heads among the R best ranked, R being the circuit's size; mean over "
        f"seeds; {legend(within)}."
    )
    key = f"roles-{task.task}-{task.model}"
    table = Table(key, f"Per role: {task}", note, columns if names else (), rows, task)
    return by_track(table, within.standings)
