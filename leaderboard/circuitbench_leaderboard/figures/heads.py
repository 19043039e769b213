"""Figures on the layers x heads grid: truth against scores, and what ablation does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from circuitbench.core.circuit import Head
from circuitbench_leaderboard.board import Board
from circuitbench_leaderboard.entries import TaskOnModel
from circuitbench_leaderboard.figures.style import COLOURS, MARKERS, Drawing, ranked
from circuitbench_leaderboard.head_grids import mean_scores, ranks, truth_grid, truth_heads

PANELS_PER_LINE = 6
EFFECTS_PER_LINE = 4
EFFECT_WIDTH = 1.6  # inches


def truth_against_scores(board: Board) -> Iterator[Drawing]:
    """Per task and model: the true heads by role, and where each method ranks every head."""
    for task, ranking in board.by_task.items():
        standings = ranked(ranking)
        first = next((run for s in standings for run in s.runs if run.status == "done"), None)
        if first is None or not first.n_items:
            continue
        record = first.record
        truth, roles = truth_grid(record), truth_heads(record)
        panels = {
            s.entry.label: ranks(mean_scores(s.entry.finished[task].values())) for s in standings
        }
        yield Drawing(
            f"heads-{task.task}-{task.model}".replace(":", "-"),
            f"Truth and scores, {task}: rank of each head by its mean score over seeds (dark = "
            "ranked high); true heads outlined",
            f"Heat maps on the {truth.shape[0]} by {truth.shape[1]} grid of heads for the truth "
            f"and {len(panels)} methods.",
            _panels(truth, roles, panels),
        )


def _panels(
    truth: np.ndarray, roles: Mapping[str, Sequence[Head]], panels: Mapping[str, np.ndarray]
) -> Figure:
    n = len(panels) + 1
    columns = min(n, PANELS_PER_LINE)
    lines = -(-n // columns)
    n_layers, n_heads = truth.shape
    legend_lines = -(-len(roles) // columns)
    # Placed by hand, in inches: a layout engine takes seconds over this many panels.
    panel = (1.7, 1.7 * n_layers / n_heads)
    left, bottom, right, top, gap = 0.55, 0.5, 1.0, 0.4 + 0.2 * legend_lines, (0.15, 0.35)
    width = left + columns * panel[0] + (columns - 1) * gap[0] + right
    height = bottom + lines * panel[1] + (lines - 1) * gap[1] + top
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    figure.subplots_adjust(
        left / width, bottom / height, 1 - right / width, 1 - top / height,
        gap[0] / panel[0], gap[1] / panel[1],
    )  # fmt: skip
    for axis in axes.flat[n:]:
        axis.axis("off")
    _role_panel(axes.flat[0], roles, truth)
    colours = ScalarMappable(LogNorm(1, max(2, truth.size)), "Blues_r")
    for axis, (label, grid) in zip(axes.flat[1:], panels.items(), strict=False):
        axis.imshow(grid, cmap=colours.cmap, norm=colours.norm)
        axis.set_title(label, fontsize=8)
        _outline(axis, truth, COLOURS[3])
    for axis in axes.flat[:n]:
        _head_ticks(axis)
    for axis in axes[:, 0]:
        axis.set_ylabel("layer")
    for axis in axes.flat[max(0, n - columns) : n]:  # the lowest of each column
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("head")
    place = (1 - (right - 0.2) / width, bottom / height, 0.12 / width, panel[1] / height)
    bar = figure.colorbar(colours, cax=figure.add_axes(place), label="rank (1 = highest)")
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda rank, _: f"{rank:g}"))
    bar.ax.invert_yaxis()
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="upper left", ncols=columns, fontsize=8, handletextpad=0.2,
        columnspacing=1.2,
    )  # fmt: skip
    return figure


def _role_panel(axes: Axes, roles: Mapping[str, Sequence[Head]], truth: np.ndarray) -> None:
    axes.set_title("truth", fontsize=9, fontweight="bold")
    for i, (name, heads) in enumerate(sorted(roles.items())):
        axes.plot(
            [head.head for head in heads], [head.layer for head in heads],
            MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)], markersize=5,
            linestyle="none", label=name,
        )  # fmt: skip
    axes.set(xlim=(-0.5, truth.shape[1] - 0.5), ylim=(truth.shape[0] - 0.5, -0.5))
    axes.set_aspect("equal")


def _outline(axes: Axes, truth: np.ndarray, colour: Any) -> None:
    for layer, head in np.argwhere(truth):
        axes.add_patch(Rectangle((head - 0.5, layer - 0.5), 1, 1, fill=False, ec=colour, lw=1.4))


def _head_ticks(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, integer=True))
    axes.tick_params(length=2, labelsize=7)
    axes.grid(False)


def ablation_effects(board: Board) -> Iterator[Drawing]:
    """Needs runs of ``head-ablation``: its scores are the effects, in units of the metric."""
    found: dict[TaskOnModel, tuple[np.ndarray, np.ndarray]] = {}
    for entry in board.entries:
        if entry.method != "head-ablation":
            continue
        for task, runs in entry.finished.items():
            first = next(iter(runs.values()))
            if first.n_items and task not in found:
                found[task] = mean_scores(runs.values()), truth_grid(first.record)
    if not found:
        return
    yield Drawing(
        "ablation-effect",
        "Effect of ablating each head alone, mean over seeds, in parts of the largest: logits of "
        "task metric lost, less the weighted control damage; true heads outlined",
        f"Heat maps of single-head ablation effects in {len(found)} task and model pairs.",
        _effect_panels(found),
    )


def _effect_panels(found: Mapping[TaskOnModel, tuple[np.ndarray, np.ndarray]]) -> Figure:
    # Panels of one height share a line; like above, they are placed by hand, in inches.
    ordered = sorted(found, key=lambda task: (-_height(found[task][0]), task))
    columns = min(len(ordered), EFFECTS_PER_LINE)
    lines = [ordered[i : i + columns] for i in range(0, len(ordered), columns)]
    heights = [max(_height(found[task][0]) for task in line) for line in lines]
    left, right, above, below, gap = 0.5, 0.9, 0.45, 0.45, 0.5
    width = left + columns * (EFFECT_WIDTH + gap) - gap + right
    height = sum(heights) + len(lines) * (above + below)
    figure = Figure(figsize=(width, height))
    scale, colours = Normalize(-1, 1), sns.color_palette("vlag", as_cmap=True)
    top = height
    for line, tall in zip(lines, heights, strict=True):
        for column, task in enumerate(line):
            effect, truth = found[task]
            bound = float(np.abs(effect).max()) or 1.0
            own = _height(effect)
            place = (left + column * (EFFECT_WIDTH + gap), top - above - own, EFFECT_WIDTH, own)
            axis = figure.add_axes(_shares(place, width, height))
            axis.imshow(effect / bound, cmap=colours, norm=scale)
            axis.set_title(f"{task}\nlargest {bound:.3g} logits", fontsize=7)
            axis.set_xlabel("head", fontsize=8)
            if column == 0:
                axis.set_ylabel("layer", fontsize=8)
            _outline(axis, truth, "black")
            _head_ticks(axis)
        top -= above + tall + below
    bar = (width - right + 0.15, height - above - heights[0], 0.12, heights[0])
    axis = figure.add_axes(_shares(bar, width, height))
    figure.colorbar(ScalarMappable(scale, colours), cax=axis, label="effect / largest effect")
    return figure


def _height(grid: np.ndarray) -> float:
    return float(EFFECT_WIDTH * grid.shape[0] / grid.shape[1])


def _shares(
    inches: tuple[float, float, float, float], width: float, height: float
) -> tuple[float, float, float, float]:
    x, y, across, up = inches
    return x / width, y / height, across / width, up / height
