"""Trains what ``rl-edges`` ships, and measures what each part of its training adds.

``python experiments/tables/edge_policy.py train --surveys FOLDER [--out FOLDER]``: asks about every
task of :data:`FAMILY` (kept in the folder, so that it can be broken off), learns what edges and
heads are worth from their circuits, lets the policy imitate episodes that look ahead on
:data:`PLAYED`, and goes on with PPO. Without ``--out`` the package's own weights are replaced.

``python experiments/tables/edge_policy.py compare --surveys FOLDER [--seeds 0 1 2]``: on plantings
that no weight was trained on (:data:`HELD_OUT`): average precision of heads and edges beside what
descriptions say alone; and the potential, the edges kept and the queries of a policy that only
imitates, of the same after PPO, and of the episodes that look ahead. A seed trains another policy.

Four prompts a batch; all plantings are of seeds 100 to 199.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from sklearn.metrics import average_precision_score

from circuitbench import Meter, Oracle, load_model, load_task
from circuitbench_agents.edges import EdgePolicyDiscovery
from circuitbench_agents.environments.edge_candidates import (
    PER_ATTRIBUTION_NODE,
    PLACED_NODE,
    Candidates,
)
from circuitbench_agents.environments.edge_episodes import EdgeEpisodes
from circuitbench_agents.environments.edge_rules import EdgeEpisode, Levels
from circuitbench_agents.environments.episode_batch import Place
from circuitbench_agents.learning.graph_network import GraphPolicy
from circuitbench_agents.learning.graph_play import chances_of, demonstrate, play_graphs
from circuitbench_agents.learning.graph_scorer import LearntJudge, Lesson, lesson_of
from circuitbench_agents.learning.graph_training import GraphTraining
from circuitbench_agents.learning.graph_weights import SHIPPED, Trained, save
from circuitbench_agents.learning.rollouts import Acting
from circuitbench_baselines.other_plantings import TASKS

PRESETS = ("planted-hard", "planted-graded", "planted-diffuse")
FAMILY = tuple(f"{p}@{s}" for s in (*range(120, 127), *range(160, 164)) for p in PRESETS)
PLAYED = tuple(f"{p}@{s}" for s in (120, 121, 122) for p in PRESETS)
HELD_OUT = tuple(f"{p}@{s}" for s in (190, 191) for p in PRESETS)
PROMPTS = 4

METHOD = EdgePolicyDiscovery(frozen=False)
RULES = METHOD.pruning


@dataclass
class Surveyed:
    """A task on a model, what was asked about it, and its circuit."""

    model: str
    task: str
    lesson: Lesson
    levels: Levels
    true_edges: int
    spent: dict[str, float]


def oracle_on(model: str, task: str) -> Oracle:
    """The same batch whenever it is asked for."""
    seed = int(model.partition("@")[2])
    options: dict[str, Any] = {"task_name": task, "seed": seed, "batch_size": PROMPTS}
    return Oracle(load_model(model), load_task(task), meter=Meter(), **options)


def survey(model: str, task: str, folder: Path) -> Surveyed:
    """Ask about a task on a model, or read what was asked before."""
    path = folder / f"{model}-{task}.npz"
    if not path.exists():
        oracle = oracle_on(model, task)
        batch = EdgeEpisodes([oracle], RULES, 1, np.random.default_rng(0), pool=1)
        (found,) = batch.survey([Place(0, 0)])
        levels = batch.levels(Place(0, 0))
        truth = load_task(task).truth(load_model(model))
        assert truth is not None  # planted
        lesson = lesson_of(found, truth)
        folder.mkdir(parents=True, exist_ok=True)
        stored: dict[str, Any] = {name: getattr(found, name) for name in STORED}
        stored |= {"true_edges": lesson.edges, "true_nodes": lesson.nodes}
        stored |= {"n_true": len(truth.edges or ()), "levels": np.array(levels)}
        stored |= {f"spent/{name}": value for name, value in vars(oracle.meter).items()}
        np.savez_compressed(path, **stored)
        print(f"asked {model} {task}", flush=True)
    data = np.load(path)
    kept = {name: data[name] for name in STORED}
    nobody: Any = None  # nothing is asked any more
    found = Candidates(nobody, nobody, n_nodes=len(kept["node_features"]), **kept)
    return Surveyed(
        model,
        task,
        Lesson(found, data["true_edges"], data["true_nodes"]),
        Levels(*map(float, data["levels"])),
        int(data["n_true"]),
        {k.partition("/")[2]: float(data[k]) for k in data.files if k.startswith("spent/")},
    )


STORED = ("edges", "ends", "features", "node_features", "worth", "node_worth")


def surveys(models: Sequence[str], folder: Path) -> list[Surveyed]:
    """Of all tasks on all models."""
    return [survey(model, task, folder) for model in models for task in TASKS]


def seats(known: Sequence[Surveyed], judge: LearntJudge, n: int, seed: int) -> EdgeEpisodes:
    """Episodes on what is known already."""
    oracles = [oracle_on(one.model, one.task) for one in known]
    batch = EdgeEpisodes(oracles, RULES, n, np.random.default_rng(seed), pool=1, judge=judge)
    for i, (one, oracle) in enumerate(zip(known, oracles, strict=True)):
        found = replace(one.lesson.found, oracle=oracle, batch=oracle.batch)
        batch.know(Place(i, 0), found, one.levels)
    return batch


def imitating(known: Sequence[Surveyed], judge: LearntJudge, seed: int) -> GraphTraining:
    """A training that has imitated, and not begun with PPO."""
    batch = seats(known, judge, METHOD.training.n_envs, seed)
    places = [Place(i, 0) for i in range(len(known))]
    return METHOD.imitating(batch, places, seed, np.random.default_rng(seed))


class Played(NamedTuple):
    """What episodes came to; means are over episodes."""

    potential: np.ndarray
    kept: np.ndarray
    faithful: np.ndarray
    f1: np.ndarray
    queries: float


def judged(episodes: Sequence[EdgeEpisode], known: Sequence[Surveyed], queries: int) -> Played:
    """Of each episode its best graph."""
    f1 = []
    for episode, one in zip(episodes, known, strict=True):
        hits = (episode.kept & one.lesson.edges).sum()
        f1.append(2 * hits / max(1, episode.kept.sum() + one.true_edges))
    return Played(
        np.array([e.potential for e in episodes]),
        np.array([e.kept.sum() for e in episodes]),
        np.array([e.faithfulness >= e.tau for e in episodes]),
        np.array(f1),
        queries / len(episodes),
    )


def play(
    policy: GraphPolicy, batch: EdgeEpisodes, known: Sequence[Surveyed], candidates: int
) -> Played:
    """Greedily; the best of so many actions at every step."""
    before = batch.queries
    places = [Place(i, 0) for i in range(len(known))]
    actor = partial(chances_of, policy)
    acting = Acting(greedy=True, candidates=candidates)
    found = play_graphs(batch, places, actor, acting, np.random.default_rng(0))
    return judged(found, known, batch.queries - before)


def train(folder: Path, out: Path) -> None:
    """See the module."""
    started = time.process_time()
    known = surveys(FAMILY, folder)
    scorer = METHOD.learn_worth([one.lesson for one in known], np.random.default_rng(0))
    judge = LearntJudge(scorer)
    played = [one for one in known if one.model in PLAYED]
    run = imitating(played, judge, 0)
    run.learn()
    spent = {name: sum(one.spent[name] for one in known) for name in known[0].spent}
    for meter in run.batch.meters:
        spent = {name: value + getattr(meter, name) for name, value in spent.items()}
    facts = {
        "prompts": PROMPTS,
        "ppo_steps": METHOD.training.total_steps,
        "learning_curve": [vars(point) for point in run.curve],
    }
    found = Trained(scorer, run.model.policy, FAMILY, TASKS, spent, facts)
    save(out, found, RULES, METHOD.network)
    print(
        f"wrote {out}: {spent['queries']:,.0f} queries; {time.process_time() - started:.0f} CPU s"
    )


def compare(folder: Path, seeds: Sequence[int]) -> None:
    """See the module."""
    known, held = surveys(FAMILY, folder), surveys(HELD_OUT, folder)
    played = [one for one in known if one.model in PLAYED]
    described(held)
    rows: dict[str, list[Played]] = {}
    precision: list[tuple[np.ndarray, np.ndarray]] = []
    for seed in seeds:
        scorer = METHOD.learn_worth([one.lesson for one in known], np.random.default_rng(seed))
        judge = LearntJudge(scorer)
        found = judge([one.lesson.found for one in held])
        precision.append((_heads(found, held), _edges(found, held)))
        batch = seats(held, judge, len(held), 0)
        before = batch.queries
        demonstrate(batch, [Place(i, 0) for i in range(len(held))])
        episodes = [batch.episode(i) for i in range(len(held))]
        rows.setdefault("looking ahead", []).append(judged(episodes, held, batch.queries - before))
        run = imitating(played, judge, seed)
        for name in ("imitation alone", "with PPO"):
            for looks in (1, METHOD.discovery.candidates):
                row = rows.setdefault(f"{name}, best of {looks}", [])
                row.append(play(run.model.policy, batch, held, looks))
            if not run.curve:
                run.learn()
        _show(rows, precision, held)


def described(held: Sequence[Surveyed]) -> None:
    """Average precision of heads by each description alone, which methods without training ask.

    Attributions by a head's strongest edge, as their methods rank heads.
    """
    print("| heads by | all | " + " | ".join(TASKS) + " |")
    columns: dict[str, int] = {"atp-star": -1}
    for a, attribution in enumerate(RULES.attributions):
        columns[attribution] = PLACED_NODE + PER_ATTRIBUTION_NODE * a
    for name, column in columns.items():
        found = np.array(
            [
                average_precision_score(
                    one.lesson.nodes[1:], one.lesson.found.node_features[1:, column]
                )
                for one in held
            ]
        )
        by_task = [found[[one.task == task for one in held]].mean() for task in TASKS]
        print(f"| {name} | {found.mean():.3f} | {' | '.join(f'{x:.3f}' for x in by_task)} |")


def _show(
    rows: dict[str, list[Played]],
    precision: list[tuple[np.ndarray, np.ndarray]],
    held: Sequence[Surveyed],
) -> None:
    print(f"\n{len(precision)} training seeds, {len(held)} tasks on held-out plantings")
    print("| policy | potential | edges kept | faithful | F1 of edges | queries |")
    print("|---|---|---|---|---|---|")
    for name, found in rows.items():
        cells = [
            _interval([getattr(one, key).mean() for one in found])
            for key in Played._fields
            if key != "queries"
        ]
        print(f"| {name} | {' | '.join(cells)} | {np.mean([one.queries for one in found]):.0f} |")
    for looks in (1, METHOD.discovery.candidates):
        pairs = rows[f"imitation alone, best of {looks}"], rows[f"with PPO, best of {looks}"]
        for key in ("potential", "kept", "f1"):
            gains = [
                (getattr(after, key) - getattr(before, key)).mean()
                for before, after in zip(*pairs, strict=True)
            ]
            print(f"best of {looks}: PPO adds to {key} {_interval(gains)}")
    print("| average precision | all | " + " | ".join(TASKS) + " |")
    for name, which in (("heads", 0), ("edges", 1)):
        mean = np.mean([pair[which] for pair in precision], axis=0)
        by_task = [mean[[one.task == task for one in held]].mean() for task in TASKS]
        mean_of_all = _interval([pair[which].mean() for pair in precision])
        print(f"| {name} | {mean_of_all} | {' | '.join(f'{x:.3f}' for x in by_task)} |")
    print(flush=True)


def _interval(values: Sequence[float]) -> str:
    """Mean and 95 % t interval over seeds."""
    if len(values) < 2:
        return f"{np.mean(values):.4f}"
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return f"{np.mean(values):.3f} ± {half:.3f}"


def _heads(found: Sequence[Candidates], known: Sequence[Surveyed]) -> np.ndarray:
    return np.array(
        [
            average_precision_score(one.lesson.nodes[1:], f.node_worth[1:])
            for f, one in zip(found, known, strict=True)
        ]
    )


def _edges(found: Sequence[Candidates], known: Sequence[Surveyed]) -> np.ndarray:
    """Of the candidates; true edges that are none of them are never found."""
    return np.array(
        [
            average_precision_score(one.lesson.edges, f.worth)
            * (one.lesson.edges.sum() / one.true_edges)
            for f, one in zip(found, known, strict=True)
        ]
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("train", "compare"))
    parser.add_argument("--surveys", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "train":
        train(asked.surveys, asked.out)
    else:
        compare(asked.surveys, asked.seeds)


if __name__ == "__main__":
    main()
