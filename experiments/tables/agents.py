"""What the tables of docs/agents.md are made by.

``python experiments/tables/agents.py [--steps 8000] [--pool 32]``: where the time of a PPO
training goes (oracle, environment, stable-baselines3). Trains rl-ppo on the embedded model with
one thread and prints CPU seconds. The first updates fill the per-prompt memo; what comes after is
the steady state, from which the cost of 200,000 steps is extrapolated.

``python experiments/tables/agents.py --redundant [--tasks ioi ...] [--seeds 5] [--prompts 4]
[--workers 1]``: average precision of rl-knockout and its controls beside head-ablation at as many
queries as that asks, on batches of a few prompts. A seed draws other prompts, another policy and
other actions. Where both take part, what PPO adds to the imitation before it, seed by seed. Runs
that end are told of on stderr; with workers they are processes side by side, to the same numbers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats

from circuitbench import Meter, Oracle, RunSpec, TrainingTools, load_model, load_task
from circuitbench.plugins.method import TrainableMethod
from circuitbench.runs.prepare import prepare
from circuitbench.runs.progress import silent
from circuitbench.runs.stages import discover, make_oracle, train
from circuitbench_agents.environments.episode_batch import EpisodeBatch
from circuitbench_agents.learning.policies import MLP
from circuitbench_agents.learning.policy_training import PolicyTraining, PPOSettings
from circuitbench_baselines.episodes.rules import SearchRules
from circuitbench_experiments.mechrl_edges.recovery import recovery

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


class Job(NamedTuple):
    """A run: a label of :data:`KNOCKOUT`, or the method the others are compared with."""

    task: str
    label: str
    seed: int


def score(job: Job, model: str, prompts: int, budget: int) -> Score:
    """Run a method once on one thread, with other prompts for training than for discovery.

    Args:
        job: what to run.
        model: on which.
        prompts: per batch, and in the pool of training.
        budget: queries of discovery.
    """
    torch.set_num_threads(1)
    method, settings = job.label, {}
    if job.label in KNOCKOUT and job.label != "cut-search":
        method, settings = "rl-knockout", KNOCKOUT[job.label] | {"training.pool": prompts}
    # The budget of a run would cover its training too.
    spec = RunSpec(
        method=method,
        task=job.task,
        model=model,
        seed=job.seed,
        batch_size=prompts,
        hyperparameters=settings,
    )
    began = time.process_time()
    prepared, training = prepare(spec), Meter()
    if isinstance(prepared.method, TrainableMethod):
        train(prepared, training, silent)
    oracle = make_oracle(prepared, job.task, prepared.task, "discovery", Meter(), budget)
    answer = recovery(discover(prepared, oracle), prepared.task.truth(prepared.model))
    found = Score(
        answer["head_ap"],
        answer.get("head_f1", 0.0),
        training.queries,
        time.process_time() - began,
    )
    told = f"{job.task}, {job.label}, seed {job.seed}: {found.precision:.3f}, {found.seconds:.0f} s"
    print(told, file=sys.stderr, flush=True)
    return found


def redundant(options: argparse.Namespace) -> None:
    """Print a table: a row per task and method, means over seeds."""
    model = load_model(options.model)
    budget = model.n_layers * model.n_heads
    print(f"{options.model}, {budget} queries, {options.seeds} seeds")
    print("| task | method | average precision | lowest | F1 | over head-ablation | "
          "training queries | CPU s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    ask = partial(score, model=options.model, prompts=options.prompts, budget=budget)
    labels = ["head-ablation", *options.agents]
    jobs = [Job(task, x, s) for task in options.tasks for x in labels for s in range(options.seeds)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=spawn) as pool:
        scores = pool.map(ask, jobs) if options.workers > 1 else map(ask, jobs)
        for task in options.tasks:
            found: dict[str, list[Score]] = {}
            for label in labels:
                found[label] = [next(scores) for _ in range(options.seeds)]
                show(task, label, found[label], found["head-ablation"])
            if {"rl-knockout", "imitation alone"} <= found.keys():
                share = gain(found["rl-knockout"], found["imitation alone"])
                print(f"| {task} | *PPO's share* | {share} | | | | | |", flush=True)


def gain(scores: Sequence[Score], others: Sequence[Score]) -> str:
    """Mean and 95 % t interval of the paired differences in average precision."""
    gains = np.array([a.precision - b.precision for a, b in zip(scores, others, strict=True)])
    spread = 0.0
    if len(gains) > 1:
        spread = float(stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains))
    return f"{gains.mean():+.3f} ± {spread:.3f}"


def show(task: str, label: str, scores: Sequence[Score], sweep: Sequence[Score]) -> None:
    """Print a row: means, and the paired differences to the sweep."""
    means = np.mean(scores, axis=0)
    lowest = min(score.precision for score in scores)
    print(
        f"| {task} | {label} | {means[0]:.3f} | {lowest:.3f} | {means[1]:.2f} | "
        f"{gain(scores, sweep)} | {means[2]:.0f} | {means[3]:.0f} |",
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
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.redundant:
        redundant(options)
    else:
        training_cost(options)


if __name__ == "__main__":
    main()
