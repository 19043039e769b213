"""Charts over methods: quality by cost and difficulty, profiles, mean ranks, roles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from circuitbench.evaluation.statistics import critical_difference, performance_profile
from circuitbench_leaderboard.entries import Cell
from circuitbench_leaderboard.figures.style import (
    INK,
    MUTED,
    Drawing,
    legend_beside,
    looks_of,
    new_axes,
    ranked,
)
from circuitbench_leaderboard.metrics import curve
from circuitbench_leaderboard.standing import Ranking, strata
from circuitbench_leaderboard.table import Board, role_recalls

MOST_BANDS = 5  # more would cover each other
RANKS_NAMED = 16  # numbers that fit on the axis of mean ranks


def quality_by_queries(board: Board) -> Iterator[Drawing]:
    """Quality of the best ranking so far against discovery queries; needs traces."""
    grid, looks = board.overall.grid, looks_of(board)
    lines = {}
    for standing in ranked(board.overall):
        runs = standing.entry.runs
        curves = [curve(runs[cell][seed], board.by) for cell in grid.cells for seed in grid.seeds]
        if all(curves):
            lines[standing.entry.label] = mean_curve(curves)
    if not lines:
        return
    figure, axes = new_axes()
    chance = _chance(board)
    if chance is not None:
        axes.axhline(chance, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), label="chance")
    for label, (queries, mean, low, high) in lines.items():
        look = looks[label]
        axes.step(queries, mean, where="post", color=look.colour, linestyle=look.line)
        if len(lines) <= MOST_BANDS:
            axes.fill_between(queries, low, high, step="post", color=look.colour, alpha=0.12, lw=0)
        axes.plot(
            *(queries[-1:], mean[-1:]), look.marker, color=look.colour, linestyle=look.line,
            label=label,
        )  # fmt: skip
    axes.set(
        xscale="log",
        xlim=(0.8 * min(q[0] for q, *_ in lines.values()), None),
        ylim=(0, 1.03),
        xlabel="discovery queries (a mask is one, a gradient three)",
        ylabel=f"{board.by.label} of the best ranking so far",
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda q, _: f"{q:,.0f}"))
    legend_beside(axes)
    ends = ", ".join(f"{label} {mean[-1]:.2f}" for label, (_, mean, _, _) in lines.items())
    yield Drawing(
        "quality-by-queries",
        "Quality against queries: mean over all tasks and seeds"
        + (", band: middle half of the runs" if len(lines) <= MOST_BANDS else "")
        + "; training is not included",
        f"Line chart of {board.by.label} against discovery queries; final values: {ends}.",
        figure,
    )


def mean_curve(
    curves: list[list[tuple[int, float]]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps from where every run has a ranking: queries, mean, lower and upper quartile."""
    start = max(points[0][0] for points in curves)
    queries = np.array(sorted({q for points in curves for q, _ in points if q >= start} | {start}))
    values = np.array(
        [[value for q, value in points if q <= at][-1] for points in curves for at in queries]
    ).reshape(len(curves), len(queries))
    low, high = np.quantile(values, [0.25, 0.75], axis=0)
    return np.maximum(queries, 1), values.mean(axis=0), low, high


def _chance(board: Board) -> float | None:
    """What a random ranking gets in expectation, mean over the grid's cells."""
    values: list[float] = []
    for cell in board.overall.grid.cells:
        record = ranked(board.overall)[0].entry.runs[cell][board.overall.grid.seeds[0]]
        chance = (record.metrics.get("ranking", {}).get("chance") or {}).get(board.by.key)
        if chance is None:
            return None
        values.append(chance)
    return float(np.mean(values)) if values else None


def quality_by_difficulty(board: Board) -> Iterator[Drawing]:
    """Quality in each cell against how rare the circuit is; needs two cells."""
    looks = looks_of(board)
    sparsity = {cell: _heads_per_true_head(ranking) for cell, ranking in board.cells.items()}
    known = {cell: x for cell, x in sparsity.items() if x is not None}
    if len(known) < 2:
        return
    figure, axes = new_axes()
    labels = sorted({s.entry.label for cell in known for s in ranked(board.cells[cell])})
    for i, label in enumerate(labels):
        points = [
            (x, standing.estimates[board.by.key])
            for cell, x in known.items()
            for standing in ranked(board.cells[cell])
            if standing.entry.label == label
        ]
        look = looks[label]
        # Methods meet at the same difficulty: a small shift keeps them apart.
        shift = 1.012 ** (i - len(labels) / 2)
        axes.plot(
            [x * shift for x, _ in points],
            [e.mean for _, e in points if e is not None],
            look.marker,
            color=look.colour,
            alpha=0.85,
            label=label,
        )
    axes.set(
        xscale="log",
        ylim=(min(-0.02, axes.get_ylim()[0]), 1.03),
        xlabel="heads per head of the circuit (rarer circuit = harder)",
        ylabel=f"{board.by.label}, mean over seeds",
    )
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    legend_beside(axes)
    yield Drawing(
        "quality-by-difficulty",
        "Quality against difficulty: one point per method, task and model",
        f"Scatter plot of {board.by.label} against heads per circuit head for {len(known)} "
        f"task and model pairs and {len(labels)} methods.",
        figure,
    )


def _heads_per_true_head(ranking: Ranking) -> float | None:
    for standing in ranking.standings:
        for record in standing.records:
            found = record.metrics.get("ranking") or {}
            if found.get("n_relevant"):
                return float(found["n_items"] / found["n_relevant"])
    return None


def performance_profiles(board: Board) -> Iterator[Drawing]:
    """Share of runs above each threshold; needs two runs of each entry."""
    standings, grid = ranked(board.overall), board.overall.grid
    if not standings or grid.size < 2:
        return
    figure, axes = new_axes()
    taus = np.linspace(0, 1, 201)
    for standing in standings:
        look = looks_of(board)[standing.entry.label]
        share = performance_profile(strata(standing.entry.values(board.by.of), grid), taus)
        axes.plot(
            taus,
            share,
            color=look.colour,
            linestyle=look.line,
            marker=look.marker,
            markevery=(0.03, 0.14),
            markersize=4,
            label=standing.entry.label,
        )
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1.03),
        xlabel=f"threshold τ on {board.by.label}",
        ylabel=f"share of runs with {board.by.label} > τ",
    )
    legend_beside(axes)
    yield Drawing(
        "performance-profiles",
        "Performance profiles: share of runs above each threshold, tasks weighted equally",
        f"Falling curves of {len(standings)} methods over {grid.size} runs each.",
        figure,
    )


def mean_ranks(board: Board) -> Iterator[Drawing]:
    """Critical-difference diagram (Demšar 2006); needs two entries and two cells."""
    standings, grid = ranked(board.overall), board.overall.grid
    if len(standings) < 2 or len(grid.cells) < 2:
        return
    means = np.array(
        [[x.mean() for x in strata(s.entry.values(board.by.of), grid)] for s in standings]
    ).T
    result = critical_difference(means)
    n = len(standings)
    order = np.argsort(result.mean_ranks, kind="stable")
    half = (n + 1) // 2
    depth = 0.7 + 0.3 * len(result.groups)
    figure = Figure(figsize=(6.4, 1.0 + 0.24 * (half + depth)), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(0.2 - 0.35 * n, 1.35 * n + 0.8), ylim=(-(depth + 0.6 * half), 1.6))
    axes.axis("off")
    axes.hlines(0, 1, n, color=INK, linewidth=1)
    for tick in range(1, n + 1):
        axes.vlines(tick, 0, 0.15, color=INK, linewidth=1)
        if (tick - 1) % (1 + n // RANKS_NAMED) == 0:
            axes.text(tick, 0.25, str(tick), ha="center", va="bottom")
    if result.difference <= n - 1:
        axes.hlines(1.25, 1, 1 + result.difference, color=INK, linewidth=1.2)
        axes.text(
            1.1 + result.difference, 1.25, f"critical difference {result.difference:.2f}",
            va="center", ha="left",
        )  # fmt: skip
    for place, index in enumerate(order):
        left = place < half
        level = -(depth + 0.6 * (place if left else n - 1 - place))
        rank, label = float(result.mean_ranks[index]), standings[index].entry.label
        colour = looks_of(board)[label].colour
        edge = 0.85 if left else n + 0.15
        axes.plot([rank, rank, edge], [0, level, level], color=colour, linewidth=1.2)
        axes.text(
            edge + (-0.08 if left else 0.08), level, f"{label}  {rank:.2f}",
            ha="right" if left else "left", va="center",
        )  # fmt: skip
    for i, group in enumerate(g for g in result.groups if len(g) > 1):
        ends = [result.mean_ranks[j] for j in group]
        axes.hlines(-0.3 - 0.3 * i, min(ends) - 0.06, max(ends) + 0.06, color=INK, linewidth=3.5)
    p_value = "p < 0.001" if result.p_value < 0.001 else f"p = {result.p_value:.3f}"
    wider = " (wider than the scale)" if result.difference > n - 1 else ""
    yield Drawing(
        "critical-difference",
        f"Mean rank over {len(means)} task and model pairs; bars join methods not told apart "
        f"(Nemenyi test, 5 %, critical difference {result.difference:.2f}{wider}; Friedman "
        f"{p_value})",
        "Mean ranks: "
        + ", ".join(f"{standings[i].entry.label} {result.mean_ranks[i]:.2f}" for i in order),
        figure,
    )


def role_recall(board: Board) -> Iterator[Drawing]:
    """Heat map of the recall of each role by each entry."""
    columns: list[tuple[Cell, str]] = []
    values: dict[str, dict[tuple[Cell, str], float]] = {}
    for cell, ranking in board.cells.items():
        for name, found in role_recalls(ranking).items():
            columns.append((cell, name))
            for standing, estimate in zip(ranking.standings, found, strict=True):
                if estimate is not None:
                    values.setdefault(standing.entry.label, {})[cell, name] = estimate.mean
    labels = [s.entry.label for s in board.overall.standings if s.entry.label in values]
    if not labels:
        return
    table = np.array([[values[label].get(c, np.nan) for c in columns] for label in labels])
    several = len({cell.model for cell, _ in columns}) > 1
    names = [f"{role}  ({cell if several else cell.task})" for cell, role in columns]
    # Roles go down: their names are long, and there are more of them than methods.
    figure, axes = new_axes(3.2 + 0.62 * len(labels), 1.4 + 0.27 * len(columns))
    axes.grid(False)
    sns.heatmap(
        table.T, ax=axes, vmin=0, vmax=1, cmap="Blues", annot=True, fmt=".2f",
        annot_kws={"fontsize": 8}, xticklabels=labels, yticklabels=names, linewidths=0.8,
        linecolor="white", cbar_kws={"label": "recall (share of the role's heads)"},
    )  # fmt: skip
    for i in range(1, len(columns)):
        if columns[i][0] != columns[i - 1][0]:
            axes.axhline(i, color=INK, linewidth=1.5)
    axes.tick_params(length=0)
    axes.set_xticks(axes.get_xticks(), labels, rotation=35, ha="right", rotation_mode="anchor")
    yield Drawing(
        "role-recall",
        "Recall per role among the R best ranked heads, mean over seeds (empty: incomplete)",
        f"Heat map of {len(labels)} methods by {len(columns)} roles; the values stand in the "
        "tables per role.",
        figure,
    )
