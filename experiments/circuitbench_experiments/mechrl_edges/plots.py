"""Two figures: how faithful how few edges are, and how much is recovered at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from circuitbench_experiments.mechrl_edges.circuits import COMMITTED, WHOLE
from circuitbench_experiments.mechrl_edges.table import Cell, Line, lines, paybacks
from circuitbench_experiments.mechrl_edges.targets import GROUPS

MARKERS = "oXsDP^v<>*hdp"


def size_against_faith(results: Mapping[str, Any]) -> Figure:
    """Faithfulness by edges kept: lines are cuts of a ranking, markers what an arm commits to.

    Means over a group's targets and seeds (of sizes geometric), on the prompts for judging.
    """
    cells = [cell for cell in results["cells"] if not cell["failed"]]
    groups = [g for g in GROUPS if any(cell["group"] == g for cell in cells)]
    figure, axes = _panels(groups)
    looks = _looks([cell["arm"] for cell in cells])
    for axis, group in zip(axes, groups, strict=True):
        here = [cell for cell in cells if cell["group"] == group]
        for arm, (colour, marker) in looks.items():
            points = _curve([cell for cell in here if cell["arm"] == arm])
            cuts = sorted(at for name, at in points.items() if name != COMMITTED)
            axis.plot(*np.array(cuts).reshape(-1, 2).T, "-", color=colour, linewidth=1.1, alpha=0.8)
            if COMMITTED in points:
                axis.plot(
                    *points[COMMITTED],
                    marker,
                    color=colour,
                    markersize=7,
                    label=arm,
                    markeredgecolor="white",
                    markeredgewidth=0.6,
                    linestyle="none",
                )
        taus = [cell["tau"] for cell in here]
        axis.axhspan(min(taus), max(taus) + 1e-3, color="0.5", alpha=0.25, linewidth=0)
        axis.set(xscale="log", xlabel="edges kept", title=group, ylim=(-0.25, 1.05))
    axes[0].set_ylabel("faithfulness (band: tau)")
    return _with_legend(figure, axes)


def recovery_against_passes(results: Mapping[str, Any]) -> Figure:
    """Average precision of edges and of heads by passes per discovery, with 95 % intervals.

    Hollow markers add a share of the training, over 10, 100 and 1,000 discoveries.
    """
    table = [line for line in lines(results) if line.estimates]
    groups = [g for g in GROUPS if any(line.group == g for line in table)]
    figure, axes = _panels(groups, rows=2)
    looks = _looks([line.arm for line in table])
    shared = {(p.group, p.arm): p.shared for p in paybacks(results, table)}
    grid = np.array(axes).reshape(2, len(groups))
    for row, (figure_name, title) in enumerate((("edge_ap", "edges"), ("head_ap", "heads"))):
        for axis, group in zip(grid[row], groups, strict=True):
            for line in (line for line in table if line.group == group):
                _dot(axis, line, figure_name, looks[line.arm], shared.get((group, line.arm), {}))
            axis.set(xscale="log", ylim=(-0.03, 1.05), xlabel="forward passes per discovery")
            axis.set_title(group if row == 0 else "")
        grid[row, 0].set_ylabel(f"average precision of {title}")
    return _with_legend(figure, list(grid.ravel()))


def _dot(
    axis: Axes, line: Line, name: str, look: tuple[Any, str], shared: Mapping[int, float]
) -> None:
    at, cost = line.estimates.get(name), line.estimates.get("asked")
    if at is None or cost is None:
        return
    colour, marker = look
    span = [[max(0.0, at.mean - at.low)], [max(0.0, at.high - at.mean)]]
    axis.errorbar(
        cost.mean, at.mean, span, fmt=marker, color=colour, label=line.arm, markersize=6,
        elinewidth=0.8,
    )  # fmt: skip
    more = [passes for passes in shared.values() if passes > 1.02 * cost.mean]
    if more:
        xs = [cost.mean, *more]
        axis.plot(xs, [at.mean] * len(xs), ":", color=colour, linewidth=0.8)
        axis.plot(more, [at.mean] * len(more), marker, color=colour, fillstyle="none", markersize=5)


def _curve(cells: Sequence[Cell]) -> dict[str, tuple[float, float]]:
    """By the name of a circuit, its mean size and mean faithfulness; those of all cells alone."""
    found: dict[str, list[tuple[float, float]]] = {}
    for cell in cells:
        for point in cell["curve"]:
            if point["name"] != WHOLE:
                at = (max(1.0, point["size"]), point["faithfulness"])
                found.setdefault(point["name"], []).append(at)
    return {
        name: (
            float(np.exp(np.mean(np.log([x for x, _ in at])))),
            float(np.mean([y for _, y in at])),
        )
        for name, at in found.items()
        if len(at) == len(cells)
    }


def _looks(arms: Sequence[str]) -> dict[str, tuple[Any, str]]:
    names = list(dict.fromkeys(arms))
    colours = [*sns.color_palette("colorblind"), *sns.color_palette("dark")]
    return {
        name: (colours[i % len(colours)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)
    }


def _panels(groups: Sequence[str], rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(3.6 * len(groups) + 0.6, 3.2 * rows + 0.9), layout="constrained")
    return figure, list(figure.subplots(rows, len(groups), sharey=True, squeeze=False).ravel())


def _with_legend(figure: Figure, axes: Sequence[Axes]) -> Figure:
    named: dict[str, Artist] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    columns = -(-len(named) // 2)
    figure.legend(
        list(named.values()), list(named), loc="outside lower center", ncols=columns, fontsize=8
    )
    return figure
