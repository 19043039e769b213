"""Which methods find copies, stand-ins, backups, negative and shared heads, MLPs, and at what cost.

    python experiments/tables/roles.py             # heads
    python experiments/tables/roles.py --edges     # edges of the methods that score them
    python experiments/tables/roles.py --methods acdc shapley --seeds 100

Every method that learns nothing, on models planted from tuning seeds: ``ioi`` and ``two-hop`` on
``planted`` and ``planted-redundant``, and for edges ``greater-than`` on ``planted-mlp`` too. Every
figure is the mean over seeds; a seed plants another model and draws other prompts, four to a batch.
AP is average precision over all heads (edges). A class counts by recall: the share of it among the
R best, R the size of the truth; ties count by their expectation. An edge belongs to the classes of
the heads (MLPs) at its ends.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from itertools import product

import numpy as np
import torch

from circuitbench import (
    Circuit,
    Discovery,
    Head,
    Model,
    Oracle,
    describe,
    generator,
    head_grid,
    list_plugins,
    load_model,
    load_task,
    method_class,
)
from circuitbench.core.edges import graph_of
from circuitbench.evaluation.against_truth.ranking import average_precision, tied_ranking
from circuitbench.evaluation.against_truth.roles import found_distribution, top_set

TASKS = {
    "planted": ("ioi", "two-hop"),
    "planted-redundant": ("ioi", "two-hop"),
    "planted-mlp": ("greater-than",),
}
CLASSES = {
    "planted": ("copies", "backups", "negative", "shared"),
    "planted-redundant": ("stand-ins", "backups", "negative", "shared"),
    "planted-mlp": ("MLPs",),
}
HEADS_OF = ["planted", "planted-redundant"]
SHARING = ("induction", "ioi", "docstring", "greater-than", "two-hop")
SLOW = (  # half a minute of CPU a run and more: named with --methods
    "exact-edge-patching",
    "edge-pruning",
    "subnetwork-probing-edges",
    "uniform-gradient-sampling",
)
PROMPTS = 4


def methods(edges: bool) -> list[str]:
    """Every baseline that learns nothing (and scores edges), cheap ones only."""
    ours = [p for p in list_plugins("method") if p.target.startswith("circuitbench_baselines")]
    told = {plugin.name: describe("method", plugin.name) for plugin in ours}
    return [
        name
        for name, info in told.items()
        if "training" not in info.needs
        and name not in SLOW
        and (info.granularity == "edges" or not edges)
    ]


@cache
def planted(preset: str, seed: int) -> Model:
    """A model of a tuning seed."""
    return load_model(f"{preset}@{seed}")


@cache
def truth_of(preset: str, seed: int, task: str) -> Circuit:
    """The circuit of a task on it."""
    truth = load_task(task).truth(planted(preset, seed))
    assert truth is not None  # planted models know theirs
    return truth


@cache
def classes_of(preset: str, seed: int, task: str) -> Mapping[str, frozenset[Head]]:
    """The true heads of each class. A head may be in several; one that is alone is in none."""
    truth = truth_of(preset, seed, task)
    found: dict[str, set[Head]] = defaultdict(set)
    for name, role in truth.roles.items():
        if name.startswith("backup"):
            found["backups"].update(role.heads)
        elif role.sign < 0:
            found["negative"].update(role.heads)
        elif len(role.heads) > 1:
            found["stand-ins" if role.needed == 1 else "copies"].update(role.heads)
    others = (truth_of(preset, seed, other).heads for other in SHARING if other != task)
    found["shared"] = set(truth.heads & frozenset().union(*others))
    return {name: frozenset(heads) for name, heads in found.items()}


def recall(scores: np.ndarray, members: np.ndarray, size: int) -> float:
    """Expected share of the members among the ``size`` best; ties are broken at random."""
    chances = found_distribution(members, top_set(scores, size))
    return float(chances @ np.arange(len(chances)) / members.sum())


def of_heads(found: Discovery, preset: str, seed: int, task: str) -> dict[str, float]:
    """AP over heads, and recall by class."""
    truth = truth_of(preset, seed, task)
    true = head_grid(truth.heads, *found.scores.shape)
    values = {"AP": average_precision(tied_ranking(found.scores, true))}
    for name, heads in classes_of(preset, seed, task).items():
        if heads:
            grid = head_grid(heads, *found.scores.shape)
            values[name] = recall(found.scores, grid, len(truth.heads))
    return values


def of_edges(found: Discovery, preset: str, seed: int, task: str) -> dict[str, float]:
    """AP over edges, and recall by class of what is at an edge's ends."""
    truth, model = truth_of(preset, seed, task), planted(preset, seed)
    assert model.transformer is not None
    assert truth.edges is not None
    assert found.edges is not None
    graph = graph_of(model.n_layers, model.n_heads, model.transformer.config.d_mlp > 0)
    floor = min(found.edges.values()) - 1  # what is not listed ranks below, tied
    scores = np.array([found.edges.get(edge, floor) for edge in graph.edges])
    true = np.array([edge in truth.edges for edge in graph.edges])
    nodes = {name: {*map(str, h)} for name, h in classes_of(preset, seed, task).items()}
    nodes["MLPs"] = {f"m{layer}" for layer in truth.mlps}
    values = {"AP": average_precision(tied_ranking(scores, true))}
    for name, among in nodes.items():
        places = [place for place, sender in enumerate(graph.senders) if sender in among]
        members = true & np.isin(graph.ends, places).any(1)
        if members.any():
            values[name] = recall(scores, members, len(truth.edges))
    return values


def row(method: str, seeds: list[int], edges: bool) -> str:
    """A markdown row of one method: figures by preset, then what a run cost."""
    presets = list(TASKS) if edges else HEADS_OF
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    costs = []
    for preset, seed in product(presets, seeds):
        for task in TASKS[preset]:
            oracle = Oracle(
                planted(preset, seed),
                load_task(task),
                task_name=task,
                seed=seed,
                batch_size=PROMPTS,
            )
            began = time.process_time()
            found = method_class(method)().discover(oracle, generator(seed, task, method))
            spent = oracle.meter
            seconds = time.process_time() - began
            costs.append((spent.queries, spent.forwards, spent.backwards, seconds))
            for name, value in (of_edges if edges else of_heads)(found, preset, seed, task).items():
                values[preset, name].append(value)
    queries, forwards, backwards, seconds = np.mean(costs, axis=0)
    names = [(preset, name) for preset in presets for name in ("AP", *CLASSES[preset])]
    cells = [f"`{method}`", *(f"{np.mean(values[name]):.2f}" for name in names)]
    cells += [f"{queries:,.0f}", f"{forwards:,.0f} + {backwards:,.0f}", f"{seconds:.1f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edges", action="store_true", help="edges of edge methods, not heads")
    parser.add_argument("--methods", nargs="+", help="these, not all cheap ones")
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102, 103, 104])
    options = parser.parse_args()
    torch.set_num_threads(1)
    presets = list(TASKS) if options.edges else HEADS_OF
    names = [name for p in presets for name in (f"`{p}` AP", *CLASSES[p])]
    names += ["queries", "forward + backward", "CPU s"]
    print("| method | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names))
    for method in options.methods or methods(options.edges):
        print(row(method, options.seeds, options.edges), flush=True)


if __name__ == "__main__":
    main()
