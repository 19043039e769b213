"""The tables of docs/baselines.md: ``python experiments/tables/baselines.py``, ``... --edges``.

Every method on the five planted tasks, on plantings of three presets whose seeds no published
record uses. A run draws its prompts, and all else, from the planting's seed. Methods that learn
on other models are trained once per seed.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch

from circuitbench import Discovery, Meter, Method, Oracle, RunFailed, RunSpec, track_of
from circuitbench.evaluation.metrics import metric
from circuitbench.results.content import outcome_of
from circuitbench.runs.prepare import prepare
from circuitbench.runs.progress import silent
from circuitbench.runs.run import run
from circuitbench.runs.stages import train

METHODS = (
    "head-importance",
    "subnetwork-probing",
    "shapley",
    "greedy-forward",
    "greedy-backward",
    "subset-regression",
    "pairwise-regression",
    "direct-logit-attribution",
    "path-patching",
    "layer-prior",
    "descriptor-forest",
)
PRESETS = ("planted", "planted-redundant", "planted-hard")
TASKS = ("induction", "ioi", "docstring", "greater-than", "two-hop")


@dataclass
class Frozen:
    """A method that has been trained, and is not trained again."""

    method: Method

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """As the method does."""
        return self.method.discover(oracle, rng)


@cache
def frozen(method: str, seed: int) -> Frozen:
    """A method trained on its other models."""
    spec = RunSpec(method=method, task=TASKS[0], seed=seed, batch_size=16)
    prepared, meter = prepare(spec), Meter()
    began = time.process_time()
    train(prepared, meter, silent)
    print(f"{method}, seed {seed}: {meter.queries:,} queries, {time.process_time() - began:.0f} s")
    return Frozen(prepared.method)


EDGE_METHODS = (
    "edge-attribution-patching",
    "bootstrap-stable-edges",
    "edge-integer-programme",
    "edge-ensemble",
    "edge-pruning",
    "subnetwork-probing-edges",
    "uniform-gradient-sampling",
)


def score(
    method: str, task: str, preset: str, seed: int, unit: str = ""
) -> tuple[float, float, int, float]:
    """Average precision, F1, queries and CPU seconds (measuring included) of one run.

    ``unit`` is "" where heads are scored, and "edge_" where edges are.
    """
    spec = RunSpec(
        method=method,
        task=task,
        model=f"{preset}@{seed}",
        seed=seed,
        batch_size=16,
        functional="none",
    )
    prepared = prepare(spec)
    if track_of(prepared.method) == "other-models":
        prepared = replace(prepared, method=frozen(method, seed))
    began = time.process_time()
    record = run(prepared)
    if record.status != "done":
        raise RunFailed(f"{method} on {task}, {preset}@{seed}: {record.reason}")
    seconds = time.process_time() - began
    outcome = outcome_of(record)
    precision, f1 = (metric(unit + key).of(outcome) for key in ("average_precision", "f1"))
    assert precision is not None
    assert f1 is not None
    return precision, f1, record.costs["discovery"]["queries"], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=None)
    parser.add_argument("--edges", action="store_true", help="score edges, not heads")
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(100, 101, 102))
    options = parser.parse_args()
    torch.set_num_threads(1)
    unit = "edge_" if options.edges else ""
    methods = options.methods or (EDGE_METHODS if options.edges else METHODS)
    columns = [f"{preset} AP | F1" for preset in options.presets]
    print("| method |", " | ".join(columns), "| queries | slowest, CPU s |")
    print("|---|" + "---:|" * (2 * len(columns) + 2))
    for method in methods:
        cells, costs = [], []
        for preset in options.presets:
            runs = [score(method, t, preset, s, unit) for s in options.seeds for t in options.tasks]
            precision, f1 = np.mean([one[:2] for one in runs], axis=0)
            cells += [f"{precision:.2f}", f"{f1:.2f}"]
            costs += [one[2:] for one in runs]
        queries = f"{np.mean([cost[0] for cost in costs]):,.0f}"
        slowest = f"{max(cost[1] for cost in costs):.0f}"
        print("|", " | ".join([method, *cells, queries, slowest]), "|", flush=True)


if __name__ == "__main__":
    main()
