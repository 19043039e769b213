"""Means with intervals, payback and verdicts, from what :mod:`.protocol` measured."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuitbench import generator
from circuitbench.evaluation.statistics import resampling_weights
from circuitbench_experiments.mechrl.report import Estimate
from circuitbench_experiments.mechrl_edges.cost import DISCOVERIES, amortised, paid_back
from circuitbench_experiments.mechrl_edges.settings import FROZEN
from circuitbench_experiments.mechrl_edges.targets import GROUPS

Cell = Mapping[str, Any]

SIZE = {
    "size": "edges at tau",
    "reached": "of them a circuit",
    "faithfulness": "faithfulness",
    "holds": "still >= tau",
    "queries": "queries",
    "asked": "passes",
}
RECOVERY = {
    "edge_ap": "edge AP",
    "edge_precision": "edge precision",
    "edge_recall": "edge recall",
    "edge_f1": "edge F1",
    "head_ap": "head AP",
    "head_precision": "head precision",
    "head_recall": "head recall",
    "head_f1": "head F1",
}
LOGARITHMIC = ("size",)  # its mean is the geometric one
REPETITIONS = 2_000


@dataclass(frozen=True)
class Line:
    """One arm in one group; an estimate is left out where some run has no value.

    Args:
        group, arm: names.
        estimates: by figure.
        failed: why some of its runs gave no answer, each reason once.
        runs: how many were asked for.
    """

    group: str
    arm: str
    estimates: dict[str, Estimate]
    failed: tuple[str, ...]
    runs: int


def lines(results: Mapping[str, Any]) -> list[Line]:
    """Every arm in every group, in the order they were run in."""
    tables: dict[tuple[str, str], list[Cell]] = {}
    for cell in results["cells"]:
        tables.setdefault((cell["group"], cell["arm"]), []).append(cell)
    order = sorted(tables, key=lambda key: GROUPS.index(key[0]))
    return [_line(group, arm, tables[group, arm]) for group, arm in order]


def _line(group: str, arm: str, cells: Sequence[Cell]) -> Line:
    failed = tuple(dict.fromkeys(cell["failed"] for cell in cells if cell["failed"]))
    found = {}
    for figure in (*SIZE, *RECOVERY):
        estimate = None if failed else estimated(cells, figure)
        if estimate is not None:
            found[figure] = estimate
    return Line(group, arm, found, failed, len(cells))


def value_of(cell: Cell, figure: str) -> float | None:
    """One figure of a cell; ``asked`` is all passes of a discovery, choosing and warming included.

    A size counts edges: of the whole model where no circuit is faithful.
    """
    if figure == "asked":
        return float(cell["passes"] + cell["choosing_passes"] + cell["training_passes"])
    if figure == "queries":
        return float(cell["queries"] + cell["choosing_queries"] + cell["training_queries"])
    value = cell.get(figure)
    return None if value is None else float(value)


def estimated(
    cells: Sequence[Cell], figure: str, of: Callable[[Cell, str], float | None] = value_of
) -> Estimate | None:
    """The mean over places and seeds with its 95 % interval; None where a value is missing.

    Places weigh the same. The hierarchical bootstrap of
    :func:`~circuitbench.evaluation.statistics.resampling_weights`: plantings, places, prompts. A
    seed brings a planting, prompts and a training of its own, so these are resampled together.
    Sizes have geometric means, for they differ by orders of magnitude.
    """
    values = [of(cell, figure) for cell in cells]
    if any(value is None for value in values):
        return None
    places = list(dict.fromkeys((_preset(cell), cell["place"]) for cell in cells))
    seeds = list(dict.fromkeys(cell["seed"] for cell in cells))
    models = list(dict.fromkeys(_planting(cell) for cell in cells))
    table = np.full((len(places), len(seeds)), np.nan)
    design = np.zeros(table.shape, dtype=int)
    for cell, value in zip(cells, values, strict=True):
        row, column = places.index((_preset(cell), cell["place"])), seeds.index(cell["seed"])
        table[row, column] = value
        design[row, column] = models.index(_planting(cell))
    if np.isnan(table).any():
        return None
    logarithmic = figure in LOGARITHMIC
    if logarithmic:
        table = np.log(np.maximum(table, 1.0))
    weights = resampling_weights(design, generator(0, "mechrl-edges", figure), REPETITIONS)
    drawn = (weights * table).sum(axis=(1, 2))
    low, high = np.quantile(drawn, [0.025, 0.975])
    numbers = np.array([table.mean(), low, high])
    return Estimate(*(np.exp(numbers) if logarithmic else numbers).tolist())


def _planting(cell: Cell) -> str:
    return str(cell["model"]).partition("@")[2]


def _preset(cell: Cell) -> str:
    return str(cell["model"]).partition("@")[0]


@dataclass(frozen=True)
class Payback:
    """What an arm's training costs, and when it is worth it.

    Args:
        group, arm: names.
        training: passes, once; the mean over seeds.
        discovery: passes of one discovery, the mean.
        shared: passes per discovery with a share of the training, by how many share it.
        against: by arm that does not learn, after how many discoveries (see :func:`.paid_back`).
    """

    group: str
    arm: str
    training: float
    discovery: float
    shared: dict[int, float]
    against: dict[str, int | None]


def paybacks(results: Mapping[str, Any], table: Sequence[Line]) -> list[Payback]:
    """Of every arm that learns, in every group."""
    method = {cell["arm"]: cell["method"] for cell in results["cells"]}
    learning = {cell["arm"]: cell["learning"] for cell in results["cells"]}
    found = []
    for line in table:
        if learning[line.arm] == "none" or "asked" not in line.estimates:
            continue
        costs = [c["passes"] for c in results["training"] if c["key"] == method[line.arm]]
        training = float(np.mean(costs)) if costs else 0.0
        discovery = line.estimates["asked"].mean
        others = {
            other.arm: other.estimates["asked"].mean
            for other in table
            if other.group == line.group
            and learning[other.arm] == "none"
            and other.arm != "random-edges"  # it finds nothing
            and "asked" in other.estimates
        }
        shared = {n: amortised(training, discovery, n) for n in DISCOVERIES}
        against = {arm: paid_back(training, discovery, cost) for arm, cost in others.items()}
        found.append(Payback(line.group, line.arm, training, discovery, shared, against))
    return found


@dataclass(frozen=True)
class Duel:
    """The frozen policy against the best rival on one task of the contest of heads.

    Args:
        task: of all presets.
        policy: its average precision; None where it gave no answer.
        rivals: of every method that answered everywhere, best first.
        failed: methods that did not, with the reason.
    """

    task: str
    policy: Estimate | None
    rivals: tuple[tuple[str, Estimate], ...]
    failed: tuple[tuple[str, str], ...]

    @property
    def reached(self) -> bool:
        """Whether the policy's interval lies above those of all rivals."""
        return self.policy is not None and all(self.policy.low > e.high for _, e in self.rivals)


def duels(results: Mapping[str, Any]) -> list[Duel]:
    """The contest, task by task."""
    found = []
    for task in dict.fromkeys(cell["task"] for cell in results["contest"]):
        by_arm: dict[str, list[Cell]] = {}
        for cell in results["contest"]:
            if cell["task"] == task:
                by_arm.setdefault(cell["arm"], []).append(cell)
        scored: dict[str, Estimate] = {}
        failed = []
        for arm, cells in by_arm.items():
            reason = next((cell["failed"] for cell in cells if cell["failed"]), "")
            estimate = None if reason else estimated(cells, "head_ap")
            if estimate is None:
                failed.append((arm, reason or "the circuit is not known"))
            else:
                scored[arm] = estimate
        policy = scored.pop(FROZEN, None)
        best_first = sorted(scored.items(), key=lambda item: -item[1].mean)
        found.append(Duel(task, policy, tuple(best_first), tuple(failed)))
    return found


def flat(results: Mapping[str, Any]) -> str:
    """Every cell of both parts as CSV, one row each."""
    curved = [{k: v for k, v in cell.items() if k != "curve"} for cell in results["cells"]]
    rows = [*curved, *results["contest"]]
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
