"""Where a head that nobody asked about belongs: before or after one that was seen to do nothing.

``python experiments/tables/unasked.py [--models planted@100 ...] [--tasks ioi ...] [--steps 4000]``
plays the same episodes (MechRL's, 50 heads each) with several players and ranks their evidence
twice. *Asked first*: an unasked head is presumed to do nothing and stands just below zero.
*Unasked first*: it stands between 1 and 2 % of the clean metric, above every head that was seen to
do less (see :mod:`circuitbench_baselines.episodes.evidence`). Prints average precision of both,
and with scores rounded to 1e-4 of the largest; means over models, tasks and episodes, with the
95 % t interval of the difference over models.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from scipy import stats

from circuitbench import Oracle, derive_seed, generator, head_grid, load_model, load_task
from circuitbench.evaluation.against_truth.ranking import average_precision, tied_ranking
from circuitbench_agents.environments.episode_batch import EpisodeBatch, Place
from circuitbench_agents.learning.rollouts import Acting, play_episode
from circuitbench_agents.learning.settings import TrainingSettings
from circuitbench_agents.ppo import PPOHeadDiscovery
from circuitbench_baselines.episodes.evidence import Evidence
from circuitbench_baselines.episodes.rules import HIT, SearchRules
from circuitbench_experiments.mechrl.matched_episodes import (
    Contender,
    Stage,
    bandit_control,
    by_value,
    random_control,
)

Pair = tuple[float, ...]  # average precision: asked first, rounded; unasked first, rounded
EPISODES = 5


def both(evidence: Evidence, oracle: Oracle, truth: np.ndarray) -> Pair:
    """Average precision of one evidence under both rules, and of both rounded."""
    found = []
    for presumed in (0.0, HIT * abs(oracle.clean_metric)):
        evidence.presumed = presumed
        scores = evidence.scores()
        rounded = np.round(scores / np.abs(scores).max(), 4)
        found += [average_precision(tied_ranking(s, truth)) for s in (scores, rounded)]
    return tuple(found)


def played(control: Contender, stage: Stage, seed: int) -> Evidence:
    """The evidence of one episode of someone who learns nothing."""
    rng = generator(seed, "unasked", stage.oracle.task_name, control.name)
    batch = EpisodeBatch([stage.oracle], SearchRules(), 1, rng, task_ids=[None], n_tasks=1)
    evidence = Evidence(stage.oracle.shape)
    assert control.values is not None
    policy = by_value(control.values(stage, np.zeros(stage.relevant.size), rng))
    play_episode(batch, Place(0, seed), policy, Acting(greedy=True), rng, evidence)
    return evidence


def measured(model: str, task_name: str, options: argparse.Namespace) -> dict[str, Pair]:
    """Every player on one task of one model, means over episodes."""
    loaded, task = load_model(model), load_task(task_name)

    def oracle(purpose: str, pool: int) -> Oracle:
        made = Oracle(
            loaded,
            task,
            task_name=task_name,
            seed=derive_seed(0, "unasked", model, task_name, purpose),
            batch_size=options.prompts,
            pool=pool,
        )
        for seed in range(2 * pool // options.prompts):  # what is asked later is then remembered
            made.query(made.head_masks(), batch=made.draw(seed))
        return made

    judged = oracle("judging", 2 * options.prompts)
    truth = task.truth(loaded)
    assert truth is not None
    stage, grid = Stage(judged, truth, ()), head_grid(truth.heads, *judged.shape)
    found: dict[str, Pair] = {}
    for control in (random_control(), bandit_control(True), bandit_control(False)):
        pairs = [both(played(control, stage, seed), judged, grid) for seed in range(EPISODES)]
        found[f"{control.name}, 50 queries"] = mean(pairs)
    agent = PPOHeadDiscovery(training=TrainingSettings(total_steps=options.steps))
    agent.train([oracle("training", options.prompts)], generator(0, "unasked", model, task_name))
    for episodes in (1, 3):
        pairs = []
        for seed in range(EPISODES):
            rng = generator(seed, "unasked", model, task_name, "rl-ppo")
            batch = agent.seat(judged, rng)
            evidence = agent.evidence(judged, agent.preference(batch))
            for _ in range(episodes):
                agent.play(batch, Place(0, int(rng.integers(2**31))), evidence, rng)
            pairs.append(both(evidence, judged, grid))
        found[f"rl-ppo, {50 * episodes} queries"] = mean(pairs)
    return found


def mean(pairs: list[Pair]) -> Pair:
    """Over episodes."""
    return tuple(map(float, np.mean(pairs, axis=0)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    seeds = range(100, 104)
    models = [f"{preset}@{seed}" for preset in ("planted", "planted-hard") for seed in seeds]
    parser.add_argument("--models", nargs="+", default=models)
    parser.add_argument("--tasks", nargs="+", default=["induction", "ioi", "two-hop"])
    parser.add_argument("--steps", type=int, default=4000, help="of rl-ppo's training")
    parser.add_argument("--prompts", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[tuple[str, str], list[Pair]] = {}
    for model in options.models:
        by_task = [measured(model, task, options) for task in options.tasks]
        for player in by_task[0]:
            pair = mean([pairs[player] for pairs in by_task])
            rows.setdefault((model.partition("@")[0], player), []).append(pair)
        print(f"done: {model}", flush=True)
    print("| models | player | asked first | rounded | unasked first | rounded | difference |")
    print("|---|---|---|---|---|---|---|")
    for (preset, player), pairs in rows.items():
        values = np.array(pairs)
        gain = values[:, 2] - values[:, 0]
        half = stats.sem(gain) * stats.t.ppf(0.975, len(gain) - 1) if len(gain) > 1 else np.nan
        means = " | ".join(f"{value:.3f}" for value in values.mean(0))
        print(f"| {preset} | {player} | {means} | {gain.mean():+.3f} ± {half:.3f} |")


if __name__ == "__main__":
    main()
