"""The tables and figures of docs/ground-truth.md.

    python experiments/tables/ground_truth.py methods  # what methods reach on every task
    python experiments/tables/ground_truth.py dials    # what redundancy and superposition do to it
    python experiments/tables/ground_truth.py cards    # health cards and heat maps of the presets
    python experiments/tables/ground_truth.py damaged  # what outsiders do for a broken circuit

``--on GROUP`` makes those of one group of models only.

Tables go to the terminal as markdown, figures to docs/figures. Every figure is the mean over
seeds; a seed plants another model (compiled and trained ones stay as they are) and draws other
prompts, four to a batch: enough for these models, and cheap.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from circuitbench import Model, Oracle, evaluate, generator, load_model, load_task, method_class
from circuitbench.checks.health import figure, groups_while_damaged, render, validate_task
from circuitbench.models.planted.presets import (
    PRESETS,
    REDUNDANT,
    Copies,
    PlantedConfig,
    planted_model,
)

PLANTED_TASKS = ("induction", "ioi", "docstring", "greater-than", "two-hop")
TRAINED_TASKS = ("trained-induction", "siit-induction", "siit-ioi", "siit-two-hop")
COMPILED_TASKS = ("reverse", "sort", "histogram", "frac-prevs", "dyck", "most-frequent")
METHODS = ("random", "head-ablation", "activation-patching", "acdc", "integrated-gradients")
GROUPS = (
    "planted",
    "planted-redundant",
    "planted-easy",
    "planted-hard",
    "planted-mlp",
    "compiled",
    "trained",
)
CARDS = ("planted-easy", "planted", "planted-redundant", "planted-hard", "planted-mlp")
WITH_MLPS = ("greater-than",)  # the task whose circuit has some; the rest is as on ``planted``
FIXED = {"compiled": COMPILED_TASKS, "trained": TRAINED_TASKS}
DAMAGED = (*CARDS, "planted-graded", "planted-diffuse")
DAMAGED_SEEDS = ("0", "100", "101", "102")
DAMAGED_TOO = {"planted-hard": ("10113",)}  # for which .31 was reported
DIAL_TASKS = ("ioi", "two-hop")
DIAL_METHODS = ("head-ablation", "acdc", "integrated-gradients")
PROMPTS = 4
CARDS_PAGE = """# Health cards

What the health gate says of five presets, written by
`python experiments/tables/ground_truth.py cards > docs/health-cards.md`.
[ground-truth.md](ground-truth.md) explains the checks.
"""
FIGURES = Path(__file__).parents[2] / "docs" / "figures"


def score(method: str, model: Model, task: str, seed: int) -> tuple[float, float]:
    """AUROC of a method's ranking and F1 of the set it commits to."""
    loaded = load_task(task)
    oracle = Oracle(model, loaded, task_name=task, seed=seed, batch_size=PROMPTS)
    discovery = method_class(method)().discover(oracle, generator(seed, task, method))
    truth = loaded.truth(model)
    assert truth is not None
    metrics = evaluate(discovery, truth)
    return metrics["ranking"]["auroc"], metrics["selection"]["f1"]


def mean_scores(
    method: str, build: Callable[[int], Model], tasks: Iterable[str], seeds: int
) -> np.ndarray:
    """``[seeds, 2]``: AUROC and F1, averaged over tasks."""
    return np.array(
        [
            np.mean([score(method, build(seed), task, seed) for task in tasks], axis=0)
            for seed in range(seeds)
        ]
    )


def row(label: str, cells: Iterable[np.ndarray]) -> str:
    """A markdown row of ``AUROC / F1`` cells."""
    texts = [f"{a:.2f} / {f:.2f}" for a, f in (cell.mean(0) for cell in cells)]
    return f"| {label} | " + " | ".join(texts) + " |"


def header(first: str, columns: tuple[str, ...]) -> str:
    """The head of a table with a column per method."""
    return f"| {first} | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns)


def methods(seeds: int, group: str) -> None:
    """Every task of a group of models: AUROC / F1 of every method."""
    print(
        f"\n`{group}` (AUROC / F1, mean of {seeds} seeds)\n\n{header('task', METHODS)}", flush=True
    )
    planted_tasks = WITH_MLPS if group == "planted-mlp" else PLANTED_TASKS
    for task in FIXED.get(group, planted_tasks):
        if group in FIXED:
            models = [load_model(load_task(task).default_model)] * seeds
        else:
            models = [planted_model(group, PRESETS[group], str(seed)) for seed in range(seeds)]
        cells = [mean_scores(m, models.__getitem__, [task], seeds) for m in METHODS]
        print(row(task, cells), flush=True)


def with_copies(copies: int) -> PlantedConfig:
    """The redundant preset with this many copies of every role that is an "or"."""
    roles = {
        role: Copies(copies, "or") if mode == "or" else Copies(n, mode)
        for role, (n, mode) in REDUNDANT.roles.items()
    }
    return replace(REDUNDANT, roles=roles)


def with_superposition(features: float) -> PlantedConfig:
    """The default preset with this many features per dimension."""
    return replace(PRESETS["planted"], superposition=features)


DIALS: dict[str, tuple[Callable[..., PlantedConfig], tuple[float, ...]]] = {
    "or-copies": (with_copies, (1, 2, 3)),
    "superposition": (with_superposition, (1.0, 1.03, 1.06, 1.1)),
}


def accuracy(models: Iterable[Model]) -> float:
    """Share of prompts answered correctly, mean over models and the dials' tasks."""
    oracles = [
        Oracle(model, load_task(task), task_name=task, seed=0, batch_size=64)
        for model in models
        for task in DIAL_TASKS
    ]
    return float(np.mean([oracle.batch.accuracy for oracle in oracles]))


def dials(seeds: int) -> None:
    """How methods fare as a dial is turned: a table and a figure per dial."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(drawing)
    panels = drawing.subplots(2, len(DIALS), sharey=True, sharex="col")
    for column, (dial, (config, settings)) in zip(panels.T, DIALS.items(), strict=True):
        print(f"\n{dial}: mean over {' and '.join(DIAL_TASKS)}, {seeds} seeds\n")
        print(header(f"{dial} (accuracy)", DIAL_METHODS))
        curves = []
        for setting in settings:
            models = [planted_model("dial", config(setting), str(seed)) for seed in range(seeds)]
            cells = [mean_scores(m, models.__getitem__, DIAL_TASKS, seeds) for m in DIAL_METHODS]
            curves.append(cells)
            print(row(f"{setting:g} ({accuracy(models):.3f})", cells), flush=True)
        values = np.array(curves)  # [settings, methods, seeds, 2]
        for axes, metric in zip(column, np.moveaxis(values, 3, 0), strict=True):
            for method, curve in zip(DIAL_METHODS, np.moveaxis(metric, 1, 0), strict=True):
                axes.errorbar(settings, curve.mean(1), curve.std(1), marker="o", label=method)
            axes.set(ylim=(0.0, 1.03), xticks=settings)
        column[-1].set(xlabel=dial)
    for axes, name in zip(panels[:, 0], ("AUROC", "F1"), strict=True):
        axes.set(ylabel=f"{name} ({', '.join(DIAL_TASKS)})")
    panels[0, 0].legend(fontsize="small")
    FIGURES.mkdir(parents=True, exist_ok=True)
    drawing.savefig(FIGURES / "planted-dials.png", dpi=110)


def cards(presets: Iterable[str]) -> None:
    """The full gate for presets, and heat maps of the default one: docs/health-cards.md."""
    print(CARDS_PAGE)
    FIGURES.mkdir(parents=True, exist_ok=True)
    for preset in presets:
        model = load_model(preset)
        for task in PLANTED_TASKS:
            card = validate_task(task, model, load_task(task), prompts=16)
            title, _, rest = render(card).partition("\n\n")
            if preset == "planted":
                figure(card).savefig(FIGURES / f"planted-{task}.png", dpi=80)
                title += f"\n\n![{task}: effects beside the truth](figures/planted-{task}.png)"
            print(f"{title}\n\n{rest}", flush=True)


def damaged(presets: Iterable[str], subsets: int = 12, prompts: int = 32) -> None:
    """What groups of outsiders lose beyond the damage: the largest effect of each preset and task,
    the planting it is on, and how many of its plantings and ablations are over the limit.
    """
    print("| preset | task | zero | mean | resample | limit | over it |")
    print("|---|---|---:|---:|---:|---:|---|")
    for preset in presets:
        seeds = (*DAMAGED_SEEDS, *DAMAGED_TOO.get(preset, ()))
        models = {seed: load_model(f"{preset}@{seed}") for seed in seeds}
        limit = models["0"].limits.damaged
        for task in WITH_MLPS if preset == "planted-mlp" else PLANTED_TASKS:
            loaded, over, cells = load_task(task), [], []
            for ablation in ("zero", "mean", "resample"):
                found = {}
                for seed, model in models.items():
                    truth = loaded.truth(model)
                    assert truth is not None
                    oracle = Oracle(
                        model,
                        loaded,
                        task_name=task,
                        seed=0,
                        ablation=ablation,
                        batch_size=prompts,
                    )
                    rng = generator(0, task, "damaged", ablation)
                    effects = groups_while_damaged(oracle, truth, subsets, rng)
                    found[seed] = max(map(abs, effects))
                worst = max(found, key=lambda seed: found[seed])
                cells.append(f"{found[worst]:.3f} (@{worst})")
                over += [f"@{s} {ablation} {x:.2f}" for s, x in found.items() if x > limit]
            told = ", ".join(over) or "none"
            print(f"| {preset} | {task} | {' | '.join(cells)} | {limit:g} | {told} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("methods", "dials", "cards", "damaged"))
    parser.add_argument("--on", choices=sorted({*GROUPS, *DAMAGED}), help="one group, not all")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.what == "methods":
        for chosen in [arguments.on] if arguments.on else GROUPS:
            methods(arguments.seeds, chosen)
    elif arguments.what == "dials":
        dials(arguments.seeds)
    elif arguments.what == "damaged":
        damaged([arguments.on] if arguments.on else DAMAGED)
    else:
        cards([arguments.on] if arguments.on else CARDS)
