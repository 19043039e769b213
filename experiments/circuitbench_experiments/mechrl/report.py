"""Table, verdicts and figures of :mod:`.reproduce`, from what it measured."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from circuitbench import generator

METRICS = {
    "ratio": "best head / oracle's",
    "steps_to_90": "steps to 90 % of oracle",
    "queries_to_90": "queries to 90 %",
    "auroc": "AUROC",
    "average_precision": "AP",
    "recall": "recall@|C|",
    "queries": "queries",
}
ABLATION = "head-ablation"
HELD_OUT = "held-out models"
# What a difference between two contenders is due to, by part (None: the held-out task).
SHARES = (
    ("planning with a learnt policy", None, "rl-ppo (K=5)", "random (K=5)"),
    ("adaptivity", HELD_OUT, "count-prior", "layer-prior"),
    ("learning", HELD_OUT, "rl-transformer (K=1)", "count-prior"),
)


@dataclass(frozen=True)
class Estimate:
    """A mean over runs with a 95 % bootstrap interval over them."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = 1 if abs(self.mean) >= 10 else 3
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


@dataclass(frozen=True)
class Line:
    """One contender in one part: on a task, or on all held-out models."""

    part: str
    contender: str
    estimates: dict[str, Estimate]


def rows_of(results: dict[str, Any]) -> list[dict[str, Any]]:
    """All rows, each with its training seed."""
    return [row | {"seed": run["seed"]} for run in results["seeds"] for row in run["rows"]]


def lines(results: dict[str, Any]) -> list[Line]:
    """The table; held-out models are pooled, and their tasks weigh the same."""
    return [Line(*place, _estimates(rows)) for place, rows in _tables(results).items()]


def _tables(results: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The rows by part and contender."""
    tables: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows_of(results):
        if row["part"] == "models":
            tables.setdefault((HELD_OUT, row["contender"]), []).append(row)
        else:  # a seed has a planting of its own: seeds alone are resampled
            tables.setdefault((row["task"], row["contender"]), []).append(row | {"model": ""})
    return tables


def _estimates(rows: Sequence[dict[str, Any]]) -> dict[str, Estimate]:
    return {
        metric: _estimate(_cube(rows, metric), metric)
        for metric in METRICS
        if all(metric in row for row in rows)
    }


def _estimate(cube: np.ndarray, metric: str) -> Estimate:
    low, high = crossed_interval(cube, generator(0, "mechrl", metric))
    return Estimate(float(cube.mean()), low, high)


def _cube(rows: Sequence[dict[str, Any]], metric: str) -> np.ndarray:
    """A metric ``[task, seed, model]``."""
    names = [sorted({row[key] for row in rows}) for key in ("task", "seed", "model")]
    cube = np.zeros([len(n) for n in names])
    for row in rows:
        place = (names[0].index(row["task"]), names[1].index(row["seed"]))
        cube[(*place, names[2].index(row["model"]))] = row[metric]
    return cube


def crossed_interval(
    values: np.ndarray, rng: np.random.Generator, repetitions: int = 2000
) -> tuple[float, float]:
    """95 % interval of the mean of ``values [task, seed, model]`` over seeds and over models.

    The pigeonhole bootstrap (Owen 2007): training seeds and models are resampled apart, since
    runs share either. With one model it is the plain bootstrap over seeds.
    """
    _, seeds, models = values.shape
    table = values.mean(axis=0)
    drawn_seeds = rng.integers(seeds, size=(repetitions, seeds, 1))
    drawn_models = rng.integers(models, size=(repetitions, 1, models))
    low, high = np.quantile(table[drawn_seeds, drawn_models].mean(axis=(1, 2)), [0.025, 0.975])
    return float(low), float(high)


def markdown(results: dict[str, Any]) -> str:
    """Table, training cost and verdicts."""
    table = lines(results)
    out = io.StringIO()
    for part in dict.fromkeys(line.part for line in table):
        header = " | ".join(title.replace("|", "\\|") for title in METRICS.values())
        print(f"### {part}\n\n| contender | {header} |", file=out)
        print("|---" * (len(METRICS) + 1) + "|", file=out)
        for line in table:
            if line.part == part:
                cells = (str(line.estimates.get(metric, "")) for metric in METRICS)
                print(f"| {line.contender} | {' | '.join(cells)} |", file=out)
        print(file=out)
    seeds = len(results["seeds"])
    print(
        f"Means over {seeds} training seeds, each with prompts of its own and, if there are\n"
        "plantings, a model of its own. 95 % bootstrap intervals: over seeds, and on held-out\n"
        "models over seeds and models. AUROC, AP and recall are of the ranking after 50 queries\n"
        "of one episode.\n",
        file=out,
    )
    print("### Training cost\n", file=out)
    for name, cost in results["seeds"][0]["training"].items():
        print(f"- {name}: {cost['queries']:,} queries per seed ({_amortised(cost)}).", file=out)
    print("\n### Targets\n", file=out)
    for target, reached, figures in verdicts(table):
        print(f"- {'reached' if reached else 'NOT reached'}: {target} ({figures})", file=out)
    print("\n### What the differences are due to\n", file=out)
    for share in shares(results):
        print(f"- {share}", file=out)
    return out.getvalue()


def shares(results: dict[str, Any]) -> list[str]:
    """Differences of contenders on the same episodes, each with what it is due to."""
    tables = _tables(results)
    held_out_task = results["settings"]["held_out_task"]
    found = []
    for due, part, ours, theirs in SHARES:
        where = part or held_out_task
        if (where, ours) not in tables or (where, theirs) not in tables:
            continue
        figures = []
        for metric in ("ratio", "queries_to_90", "average_precision", "recall"):
            if all(metric in row for row in tables[where, ours]):
                cubes = (_cube(tables[where, name], metric) for name in (ours, theirs))
                figures.append(f"{METRICS[metric]} {_estimate(next(cubes) - next(cubes), metric)}")
        found.append(f"{due}: {where}, {ours} minus {theirs}: {', '.join(figures)}")
    return found


def _amortised(cost: dict[str, Any]) -> str:
    queries = cost["queries"]
    return (
        f"{queries / 144:,.0f} sweeps of 144 heads; spread over 10, 100 or 1,000 discoveries "
        f"{queries / 10:,.0f}, {queries / 100:,.0f} or {queries / 1000:,.0f} each"
    )


def verdicts(table: Sequence[Line]) -> list[tuple[str, bool, str]]:
    """Each target with whether it was reached, and the figures that say so."""
    at = {(line.part, line.contender): line.estimates for line in table}
    parts = list(dict.fromkeys(line.part for line in table if line.part != HELD_OUT))
    trained, held_out = parts[:-1], parts[-1]
    found = []
    for task in trained:
        ours, ablation = at[task, "rl-ppo (K=1)"], _ablation(at, task)
        ratio = ours["ratio"]
        found.append((f"{task}: >= 99 % of the oracle's best head", ratio.mean >= 0.99, str(ratio)))
        for metric in ("auroc", "recall") if ablation else ():
            reached = ours[metric].mean >= ablation[metric].mean
            figures = f"{ours[metric]} against {ablation[metric]}"
            text = f"{task}: {METRICS[metric]} at 50 queries >= head-ablation's full sweep"
            found.append((text, reached, figures))
    planned = at.get((held_out, "rl-ppo (K=5)"))
    if planned is not None:
        random = at[held_out, "random"]["steps_to_90"]
        text = f"{held_out}, task unknown, K=5: >= 96 % of the oracle's best head"
        found.append((text, planned["ratio"].mean >= 0.96, str(planned["ratio"])))
        text = f"{held_out}, task unknown, K=5: steps to 90 % at most half of random's"
        reached = planned["steps_to_90"].mean <= random.mean / 2
        found.append((text, reached, f"{planned['steps_to_90']} against {random}"))
        chance = at[held_out, "random (K=5)"]  # as many queries, nothing learnt
        text = f"{held_out}, task unknown, K=5: best head above random planning's"
        reached = planned["ratio"].low > chance["ratio"].high
        found.append((text, reached, f"{planned['ratio']} against {chance['ratio']}"))
        text = f"{held_out}, task unknown, K=5: steps to 90 % below random planning's"
        steps, by_chance = planned["steps_to_90"], chance["steps_to_90"]
        found.append((text, steps.high < by_chance.low, f"{steps} against {by_chance}"))
    tokens = at.get((HELD_OUT, "rl-transformer (K=1)"))
    if tokens is not None:
        for metric in ("average_precision", "recall"):
            for rival in ("random", "layer-prior", "count-prior", "bandit-thompson", "bandit-ucb"):
                theirs = at[HELD_OUT, rival][metric]
                text = (
                    f"held-out models: rl-transformer's {METRICS[metric]} at 50 queries > {rival}"
                )
                figures = f"{tokens[metric]} against {theirs}"
                found.append((text, tokens[metric].low > theirs.high, figures))
    return found


def _ablation(at: dict[tuple[str, str], dict[str, Estimate]], part: str) -> dict[str, Estimate]:
    found = (e for (p, name), e in at.items() if p == part and name.startswith(ABLATION))
    return next(found, {})


def write_report(results: dict[str, Any], out: Path) -> list[Path]:
    """``results.md`` and the figures into ``out``; returns their paths."""
    paths = [out / "results.md"]
    paths[0].write_text(markdown(results), encoding="utf-8")
    figures = {
        "discovery-curves": discovery_curves(results),
        "learning-curves": learning_curves(results),
        "preferences": preferences(results),
    }
    for name, figure in figures.items():
        path = out / f"{name}.png"
        figure.savefig(path, dpi=150, facecolor="white")
        paths.append(path)
    return paths


def discovery_curves(results: dict[str, Any]) -> Figure:
    """Best head so far as a share of the episode's best, by step; bands over seeds.

    Agents are solid (dashed with planning), controls dotted; the oracle is the line at 1.
    """
    rows = [r for r in rows_of(results) if "curve" in r and r["contender"] != "oracle"]
    panels = list(dict.fromkeys((row["part"], row["task"]) for row in rows))
    columns = min(3, len(panels))
    n_rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.3 * n_rows + 0.7), layout="constrained")
    grid = figure.subplots(n_rows, columns, sharey=True, squeeze=False)
    axes = grid.ravel()[: len(panels)]
    for spare in grid.ravel()[len(panels) :]:
        spare.set_axis_off()
    names = list(dict.fromkeys(row["contender"].partition(" (")[0] for row in rows))
    colours = dict(zip(names, sns.color_palette("bright", len(names)), strict=True))
    for axis, (part, task) in zip(axes, panels, strict=True):
        here = [row for row in rows if (row["part"], row["task"]) == (part, task)]
        for name in dict.fromkeys(row["contender"] for row in here):
            curves = _by_seed([row for row in here if row["contender"] == name])
            steps = np.arange(1, curves.shape[1] + 1)
            low, high = np.quantile(curves, [0.025, 0.975], axis=0)
            agent, _, candidates = name.partition(" (")
            style = ":" if not candidates else "-" if candidates == "K=1)" else "--"
            axis.plot(steps, curves.mean(0), style, color=colours[agent], label=name, linewidth=1.4)
            axis.fill_between(steps, low, high, color=colours[agent], alpha=0.1, linewidth=0)
        axis.axhline(1.0, color="0.4", linewidth=0.6)
        axis.set_title(f"{task} (held-out models)" if part == "models" else task)
        axis.set_xlabel("step")
    for axis in grid[:, 0]:
        axis.set_ylabel("best head so far / oracle's best")
    handles = {h.get_label(): h for a in axes for h in a.get_lines() if h.get_label()[0] != "_"}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=8)
    return figure


def _by_seed(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """Curves ``[seed, step]``, each the mean over a seed's models."""
    width = max(len(row["curve"]) for row in rows)
    padded: dict[int, list[np.ndarray]] = {}
    for row in rows:
        curve = np.pad(row["curve"], (0, width - len(row["curve"])), mode="edge")
        padded.setdefault(row["seed"], []).append(curve)
    return np.array([np.mean(curves, axis=0) for curves in padded.values()])


def learning_curves(results: dict[str, Any]) -> Figure:
    """Mean return of training episodes by environment step, one line per seed."""
    agents = list(results["seeds"][0]["training"])
    figure = Figure(figsize=(4.2 * len(agents), 3.2), layout="constrained")
    axes = figure.subplots(1, len(agents), squeeze=False)[0]
    for axis, agent in zip(axes, agents, strict=True):
        for seed in results["seeds"]:
            curve = [p for p in seed["training"][agent]["curve"] if p["episode_return"] is not None]
            axis.plot(
                [p["steps"] for p in curve], [p["episode_return"] for p in curve], linewidth=0.8
            )
        axis.set_title(agent)
        axis.set_xlabel("environment steps")
    axes[0].set_ylabel("mean return of an episode")
    return figure


def preferences(results: dict[str, Any]) -> Figure:
    """The first seed's policy before it has asked anything, beside the true heads (outlined)."""
    grids = results["seeds"][0]["preference"]
    figure = Figure(figsize=(3.8 * len(grids), 3.8), layout="constrained")
    axes = figure.subplots(1, len(grids), squeeze=False)[0]
    for axis, (task, grid) in zip(axes, grids.items(), strict=True):
        policy, truth = np.array(grid["policy"]), np.array(grid["truth"])
        image = axis.imshow(policy, norm=LogNorm(1e-6, 1.0, clip=True), cmap="magma")
        for layer, head in np.argwhere(truth):
            axis.add_patch(_outline(layer, head))
        axis.set_title(f"{task}: first choice")
        axis.set_xlabel("head")
    axes[0].set_ylabel("layer")
    figure.colorbar(image, ax=axes, label="probability", shrink=0.9)
    return figure


def _outline(layer: int, head: int) -> Rectangle:
    return Rectangle((head - 0.5, layer - 0.5), 1, 1, fill=False, edgecolor="cyan", linewidth=1.2)
