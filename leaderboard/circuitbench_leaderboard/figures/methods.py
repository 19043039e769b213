"""Charts over methods: quality by cost and difficulty, profiles, mean ranks, roles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from circuitbench.evaluation.against_truth.ranking import uninformed
from circuitbench.evaluation.metrics import Metric, metric
from circuitbench.evaluation.statistics import critical_difference, performance_profile
from circuitbench_leaderboard.board import Board
from circuitbench_leaderboard.entries import TaskOnModel
from circuitbench_leaderboard.figures.style import (
    INK,
    MUTED,
    Drawing,
    legend_beside,
    looks_of,
    new_axes,
    ranked,
)
from circuitbench_leaderboard.standing import PLACED_BY, Ranking, Standing, on_grid, value_of
from circuitbench_leaderboard.tables.cells import short_track
from circuitbench_leaderboard.tables.roles import role_recalls

MOST_BANDS = 5  # more would cover each other
RANKS_NAMED = 16  # numbers that fit on the axis of mean ranks


def quality_by_queries(board: Board) -> Iterator[Drawing]:
    """Quality of the best ranking so far against queries, a figure per track; needs traces."""
    for suffix, title, standings in _by_track(ranked(board.overall)):
        yield from _quality_by_queries(board, standings, suffix, title)


def _by_track(standings: Sequence[Standing]) -> Iterator[tuple[str, str, list[Standing]]]:
    """What names a track in a file and in a title (nothing where there is one); its entries."""
    tracks = list(dict.fromkeys(s.entry.track for s in standings))
    for i, track in enumerate(tracks):
        own = [s for s in standings if s.entry.track == track]
        title = f" ({track})" if len(tracks) > 1 else ""
        yield (f"-{short_track(track)}" if i else ""), title, own


def _quality_by_queries(
    board: Board, standings: Sequence[Standing], suffix: str, title: str
) -> Iterator[Drawing]:
    grid, looks = board.overall.grid, looks_of(board)
    lines = {}
    for standing in standings:
        runs = standing.entry.finished
        curves = [
            list(runs[task][seed].curves.get(board.by.key, ()))
            for task in grid.tasks
            for seed in grid.seeds
        ]
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
        xlabel="queries on the scored model (a mask is one, a gradient three)",
        ylabel=f"{board.by.title} of the best ranking so far",
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda q, _: f"{q:,.0f}"))
    legend_beside(axes)
    ends = ", ".join(f"{label} {mean[-1]:.2f}" for label, (_, mean, _, _) in lines.items())
    yield Drawing(
        f"quality-by-queries{suffix}",
        f"Quality against queries{title}: mean over all tasks and seeds"
        + (", band: middle half of the runs" if len(lines) <= MOST_BANDS else "")
        + "; training on the scored model is included",
        f"Line chart of {board.by.title} against queries; final values: {ends}.",
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
    """What a random ranking gets in expectation, mean over the grid's tasks."""
    measure, grid = board.by.on_ranking, board.overall.grid
    if measure is None or not grid.tasks:
        return None
    runs = ranked(board.overall)[0].entry.finished
    firsts = [runs[task][grid.seeds[0]] for task in grid.tasks]
    values = [measure(uninformed(run.n_items, run.n_relevant)) for run in firsts]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def quality_by_difficulty(board: Board) -> Iterator[Drawing]:
    """Quality on each task against how rare the circuit is; needs two tasks."""
    looks = looks_of(board)
    sparsity = {task: _heads_per_true_head(ranking) for task, ranking in board.by_task.items()}
    known = {task: x for task, x in sparsity.items() if x is not None}
    if len(known) < 2:
        return
    figure, axes = new_axes()
    labels = sorted({s.entry.label for task in known for s in ranked(board.by_task[task])})
    for i, label in enumerate(labels):
        points = [
            (x, standing.estimates[board.by.key])
            for task, x in known.items()
            for standing in ranked(board.by_task[task])
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
        ylim=(min(-0.02, axes.get_ylim()[0]), max(1.03, axes.get_ylim()[1])),
        xlabel="heads per head of the circuit (rarer circuit = harder)",
        ylabel=f"{board.by.title}, mean over seeds",
    )
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    legend_beside(axes)
    yield Drawing(
        "quality-by-difficulty",
        "Quality against difficulty: one point per method, task and model",
        f"Scatter plot of {board.by.title} against heads per circuit head for {len(known)} "
        f"task and model pairs and {len(labels)} methods.",
        figure,
    )


def _heads_per_true_head(ranking: Ranking) -> float | None:
    for standing in ranking.standings:
        for run in standing.runs:
            if run.n_relevant > 0:
                return float(run.n_items / run.n_relevant)
    return None


def performance_profiles(board: Board) -> Iterator[Drawing]:
    """Share of runs above each threshold; needs two runs of each entry."""
    standings, grid = ranked(board.overall), board.overall.grid
    if not standings or grid.size < 2:
        return
    figure, axes = new_axes()
    scores = [_on_grid(standing, board) for standing in standings]
    low, high = _range(board.by, scores)
    taus = np.linspace(low, high, 201)
    sign, beyond = board.by.sign, "<" if board.by.better == "lower" else ">"
    for standing, runs in zip(standings, scores, strict=True):
        look = looks_of(board)[standing.entry.label]
        share = performance_profile(list(sign * runs), sign * taus)
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
        xlim=(low, high),
        ylim=(0, 1.03),
        xlabel=f"threshold τ on {board.by.title}",
        ylabel=f"share of runs with {board.by.title} {beyond} τ",
    )
    legend_beside(axes)
    yield Drawing(
        "performance-profiles",
        f"Performance profiles: share of runs {_BEYOND[board.by.better]} each threshold, tasks "
        "weighted equally",
        f"Curves of {len(standings)} methods over {grid.size} runs each.",
        figure,
    )


_BEYOND = {"higher": "above", "lower": "below"}


def _on_grid(standing: Standing, board: Board) -> np.ndarray:
    """What a complete entry has to show, ``[tasks, seeds]``."""
    found = on_grid(standing.entry, value_of(board.by), board.overall.grid)
    assert found is not None, "a ranked entry has all runs of the grid"
    return found


def _range(by: Metric, scores: list[np.ndarray]) -> tuple[float, float]:
    """The axis: 0 to 1 for what is a share, else what the runs span."""
    if by.kind in ("quality", "edges"):
        return 0.0, 1.0
    low, high = float(np.min(scores)), float(np.max(scores))
    return low, high if high > low else low + 1


def mean_ranks(board: Board) -> Iterator[Drawing]:
    """Critical-difference diagrams (Demšar 2006), one per track; need two entries and two tasks."""
    for suffix, title, standings in _by_track(ranked(board.overall)):
        if len(standings) > 1 and len(board.overall.grid.tasks) > 1:
            yield _mean_ranks(board, standings, suffix, title)


def _mean_ranks(board: Board, standings: Sequence[Standing], suffix: str, title: str) -> Drawing:
    near = PLACED_BY.get(board.by.key, board.by.key)
    found = [on_grid(s.entry, value_of(metric(near)), board.overall.grid) for s in standings]
    if any(values is None for values in found):
        found = [_on_grid(s, board) for s in standings]
    means = np.array([values.mean(axis=1) for values in found if values is not None]).T
    result = critical_difference(board.by.sign * means)
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
    return Drawing(
        f"critical-difference{suffix}",
        f"Mean rank{title} over {len(means)} task and model pairs; bars join methods not told "
        f"apart (Nemenyi test, 5 %, critical difference {result.difference:.2f}{wider}; Friedman "
        f"{p_value})",
        "Mean ranks: "
        + ", ".join(f"{standings[i].entry.label} {result.mean_ranks[i]:.2f}" for i in order),
        figure,
    )


def role_recall(board: Board) -> Iterator[Drawing]:
    """Heat map of the recall of each role by each entry."""
    columns: list[tuple[TaskOnModel, str]] = []
    values: dict[str, dict[tuple[TaskOnModel, str], float]] = {}
    for task, ranking in board.by_task.items():
        for name, found in role_recalls(ranking).items():
            columns.append((task, name))
            for standing, estimate in zip(ranking.standings, found, strict=True):
                if estimate is not None:
                    values.setdefault(standing.entry.label, {})[task, name] = estimate.mean
    labels = [s.entry.label for s in board.overall.standings if s.entry.label in values]
    if not labels:
        return
    table = np.array([[values[label].get(c, np.nan) for c in columns] for label in labels])
    several = len({task.model for task, _ in columns}) > 1
    names = [f"{role}  ({task if several else task.task})" for task, role in columns]
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
