"""What the tables of docs/agents.md are made by.

``python experiments/tables/agents.py [--steps 8000] [--pool 32]``: where the time of a PPO
training goes (oracle, environment, stable-baselines3). Trains rl-ppo on the embedded model with
one thread and prints CPU seconds. The first updates fill the per-prompt memo; what comes after is
the steady state, from which the cost of 200,000 steps is extrapolated.

``python experiments/tables/agents.py --redundant [--tasks ioi ...] [--seeds 5] [--prompts 4]``:
average precision of rl-knockout and its controls beside head-ablation at as many queries as that
asks, on batches of a few prompts. A seed draws other prompts, another policy and other actions.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats

from circuitbench import Oracle, RunFailed, RunSpec, TrainingTools, load_model, load_task
from circuitbench.evaluation.metrics import metric
from circuitbench.results.content import outcome_of
from circuitbench.runs.prepare import prepare
from circuitbench.runs.run import run
from circuitbench_agents.environments.episode_batch import EpisodeBatch
from circuitbench_agents.learning.policies import MLP
from circuitbench_agents.learning.policy_training import PolicyTraining, PPOSettings
from circuitbench_baselines.episodes.rules import SearchRules

TASKS = ("induction", "ioi", "docstring", "greater-than", "two-hop")
UNTRAINED = {"training.total_steps": 1, "training.n_envs": 1, "ppo.n_steps": 2}
KNOCKOUT: dict[str, dict[str, Any]] = {
    "cut-search": {},
    "random order": {"explore": 0, "knockout.steps": None, **UNTRAINED},
    "imitation alone": UNTRAINED,
    "rl-knockout": {},
}


class Score(NamedTuple):
    """What one run reached and cost."""

    precision: float
    f1: float
    training: int
    seconds: float


class Clock:
    """Adds up the CPU time of a method wherever it is called."""

    def __init__(self, owner: object, name: str) -> None:
        self.seconds, inner = 0.0, getattr(owner, name)

        def timed(*args: object, **kw: object) -> object:
            start = time.process_time()
            try:
                return inner(*args, **kw)
            finally:
                self.seconds += time.process_time() - start

        setattr(owner, name, timed)


def training_cost(options: argparse.Namespace) -> None:
    """Print where the time of a PPO training goes."""
    model = load_model("planted")
    oracles = [
        Oracle(
            model,
            load_task(task),
            task_name=task,
            seed=0,
            batch_size=options.batch_size,
            pool=options.pool,
        )
        for task in ("induction", "ioi")
    ]
    batch = EpisodeBatch(oracles, SearchRules(), 8, np.random.default_rng(0))
    training = PolicyTraining(batch, PPOSettings(), MLP(), options.steps, 0, "rl-ppo")
    clocks = {
        "oracle": Clock(training.batch, "_query"),
        "environment, oracle included": Clock(training.env, "step_wait"),
        "gradient steps (sb3)": Clock(training.model, "train"),
        "acting (sb3)": Clock(training.model.policy, "forward"),
    }
    marks: list[tuple[float, dict[str, float]]] = []

    def mark(fraction: float, text: str) -> None:
        marks.append((time.process_time(), {k: c.seconds for k, c in clocks.items()}))

    training.learn(TrainingTools(mark))
    half = len(marks) // 2
    (start, first), (end, last) = marks[half], marks[-1]
    steps = (len(marks) - 1 - half) * training.rollout
    print(
        f"filling the memo and the first {half + 1} updates: {marks[half][0] - marks[0][0]:.1f} s"
    )
    print(f"steady state, {steps} steps, CPU seconds per 1,000 steps:")
    total = 1000 * (end - start) / steps
    for name in clocks:
        print(f"  {name:32s}{1000 * (last[name] - first[name]) / steps:8.3f}")
    print(f"  {'all':32s}{total:8.3f}")
    print(f"200,000 steps in the steady state: {200 * total:.0f} s")


def score(
    options: argparse.Namespace,
    task: str,
    seed: int,
    method: str,
    budget: int,
    settings: dict[str, Any],
) -> Score:
    """Run a method once, with other prompts for training than for discovery."""
    spec = RunSpec(
        method=method,
        task=task,
        model=options.model,
        seed=seed,
        budget=budget,
        batch_size=options.prompts,
        functional="none",
        hyperparameters=settings,
    )
    began = time.process_time()
    record = run(prepare(spec))
    if record.status != "done":
        raise RunFailed(f"{method} on {task}, seed {seed}: {record.reason}")
    outcome = outcome_of(record)
    precision, f1 = (metric(key).of(outcome) for key in ("average_precision", "f1"))
    assert precision is not None
    assert f1 is not None
    return Score(
        precision,
        f1,
        record.costs["training"]["queries"],
        time.process_time() - began,
    )


def redundant(options: argparse.Namespace) -> None:
    """Print a table: a row per task and method, means over seeds."""
    model = load_model(options.model)
    budget = model.n_layers * model.n_heads
    print(f"{options.model}, {budget} queries, {options.seeds} seeds")
    print("| task | method | average precision | lowest | F1 | over head-ablation | "
          "training queries | CPU s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for task in options.tasks:
        seeds = range(options.seeds)
        sweep = [score(options, task, seed, "head-ablation", budget, {}) for seed in seeds]
        show(task, "head-ablation", sweep, sweep)
        for label in options.agents:
            method, settings = "rl-knockout", KNOCKOUT[label] | {"training.pool": options.prompts}
            if label == "cut-search":
                method, settings = label, {}
            scores = [score(options, task, seed, method, budget, settings) for seed in seeds]
            show(task, label, scores, sweep)


def show(task: str, label: str, scores: list[Score], sweep: list[Score]) -> None:
    """Print a row: means, and the 95 % t interval of the paired differences to the sweep."""
    means = np.mean(scores, axis=0)
    gains = np.array([a.precision - b.precision for a, b in zip(scores, sweep, strict=True)])
    spread = 0.0
    if len(gains) > 1:
        spread = float(stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains))
    lowest = min(score.precision for score in scores)
    print(
        f"| {task} | {label} | {means[0]:.3f} | {lowest:.3f} | {means[1]:.2f} | "
        f"{gains.mean():+.3f} ± {spread:.3f} | {means[2]:.0f} | {means[3]:.0f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--pool", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--redundant", action="store_true")
    parser.add_argument("--model", default="planted-redundant")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--agents", nargs="*", default=list(KNOCKOUT), choices=list(KNOCKOUT))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.redundant:
        redundant(options)
    else:
        training_cost(options)


if __name__ == "__main__":
    main()
