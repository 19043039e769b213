"""Matched episodes: every contender on the same tasks, prompts and control text.

An episode's prompts are a pure function of the oracle and a seed, so contenders can be compared
on identical episodes, and each with what the best head of that very episode would have earned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from circuitbench import Circuit, head_grid
from circuitbench.evaluation.against_truth.ranking import (
    auroc,
    average_precision,
    recall_at,
    tied_ranking,
)
from circuitbench_agents.environments.episode_batch import EpisodeBatch, Place
from circuitbench_agents.learner import LearningAgent
from circuitbench_agents.learning.rollouts import Acting, Policy, play_episode
from circuitbench_baselines.bandits import HeadBelief
from circuitbench_baselines.episodes.evidence import Evidence
from circuitbench_baselines.episodes.rules import HIT, SearchRules
from circuitbench_experiments.mechrl.count_prior import CountPrior

if TYPE_CHECKING:
    from circuitbench import Oracle

HORIZON = 50  # queries after which recovery is judged: about a third of a 144-head sweep


@dataclass(frozen=True)
class Stage:
    """A task on a model with the episodes to be played there.

    Args:
        oracle: answers; its prompts are none of the training's.
        truth: what recovery is judged by; None where no circuit is known.
        seeds: one per episode.
    """

    oracle: Oracle
    truth: Circuit | None
    seeds: tuple[int, ...]

    def rewards(self, seed: int) -> np.ndarray:
        """What every head earns in an episode, ``[n_heads of the grid]``."""
        masks = self.oracle.head_masks()
        batch = self.oracle.draw(seed)
        return self.oracle.query(masks, batch=batch).reward.double().numpy()

    @property
    def relevant(self) -> np.ndarray:
        """The true heads, ``[n_layers, n_heads]`` bool; none where no circuit is known."""
        if self.truth is None:
            return np.zeros(self.oracle.shape, dtype=bool)
        return head_grid(self.truth.heads, *self.oracle.shape)


class Seen(NamedTuple):
    """What an episode has shown so far: heads tried, and what each earned, ``[n]`` both."""

    tried: np.ndarray
    rewards: np.ndarray

    @classmethod
    def of(cls, observation: np.ndarray) -> Seen:
        """Read off the flat observation of an episode with one task."""
        n = len(observation) // 2
        return cls(observation[1 : 1 + n] > 0, SearchRules().scale * observation[1 + n :])


# What every head is worth trying, ``[n]``, given what an episode has shown.
Values = Callable[[Seen], np.ndarray]


@dataclass(frozen=True)
class Contender:
    """Someone who plays episodes.

    Args:
        name: for tables.
        values: for one episode, from the stage, the rewards of all heads in it (which only the
            ceiling may look at) and a generator; the untried head of highest value is next. None
            for an agent.
        agent: a trained agent, who plays by its own policy.
        candidates: K of best-of-K planning.
        shown_as: the training task an agent pretends; None for its own, or unknown.
    """

    name: str
    values: Callable[[Stage, np.ndarray, np.random.Generator], Values] | None = None
    agent: LearningAgent[Any] | None = None
    candidates: int = 1
    shown_as: str | None = None


@dataclass(frozen=True)
class Score:
    """How one episode went.

    Args:
        best: reward of the best head taken (logit units).
        ratio: the same as a share of the episode's best head.
        curve: the same after every step, ``[steps]``.
        steps_to_90, queries_to_90: until a head of 90 % of the episode's best was taken; one
            more than were played where that never happened.
        auroc, average_precision, recall: of the ranking after :data:`HORIZON` queries; recall
            at the size of the true circuit. None where no circuit is known.
        roles: recall by role at the size of the true circuit.
        queries: spent in the whole episode.
    """

    best: float
    ratio: float
    curve: np.ndarray
    steps_to_90: int
    queries_to_90: int
    auroc: float | None
    average_precision: float | None
    recall: float | None
    queries: int
    roles: dict[str, float] = field(default_factory=dict)


def play(
    contender: Contender, stage: Stage, steps: int, seed: int, rng: np.random.Generator
) -> Score:
    """One episode of one contender."""
    rewards = stage.rewards(seed)
    if contender.agent is not None:
        agent = contender.agent
        batch = agent.seat(stage.oracle, rng, contender.shown_as)
        preference = agent.preference(batch)
        policy: Policy = agent.policy()
        greedy = agent.discovery.greedy
    else:
        if contender.values is None:
            raise ValueError(f"{contender.name} has neither values nor an agent")
        rules = SearchRules(steps)
        batch = EpisodeBatch([stage.oracle], rules, 1, rng, task_ids=[None], n_tasks=1)
        values = contender.values(stage, rewards, rng)
        nothing = np.zeros(len(rewards))
        preference, policy, greedy = values(Seen(nothing > 0, nothing)), by_value(values), True
    acting = Acting(greedy, contender.candidates)
    taken = play_episode(batch, Place(0, seed), policy, acting, rng)
    return score(taken, rewards, stage, preference)


def score(
    taken: Sequence[Sequence[tuple[int, float]]],
    rewards: np.ndarray,
    stage: Stage,
    preference: np.ndarray | None = None,
) -> Score:
    """Judge an episode by what was asked at every step (the head taken first).

    ``preference [n]`` ranks the heads nobody asked about: what the contender would have tried
    first before the episode began.
    """
    ceiling = float(rewards.max())
    best = np.maximum.accumulate([max(0.0, asked[0][1]) for asked in taken])
    spent = np.cumsum([len(asked) for asked in taken])
    near = np.flatnonzero(best >= 0.9 * ceiling)
    presumed = HIT * abs(stage.oracle.clean_metric)
    evidence = Evidence(stage.oracle.shape, preference, presumed)
    flat = [question for asked in taken for question in asked]
    for head, reward in flat[:HORIZON]:
        evidence.add(head, reward)
    truth, grid = stage.truth, stage.oracle.shape
    found: dict[str, Any] = dict.fromkeys(("auroc", "average_precision", "recall"))
    if truth is not None:
        scores = evidence.scores()
        ranking = tied_ranking(scores, stage.relevant)
        size = ranking.n_relevant
        found = {
            "auroc": auroc(ranking),
            "average_precision": average_precision(ranking),
            "recall": recall_at(ranking, size),
            "roles": {
                name: _recall_among(scores, head_grid(role.heads, *grid), size)
                for name, role in truth.roles.items()
            },
        }
    return Score(
        best=float(best[-1]),
        ratio=float(best[-1]) / ceiling,
        curve=best / ceiling,
        steps_to_90=int(near[0]) + 1 if len(near) else len(taken) + 1,
        queries_to_90=int(spent[near[0]]) if len(near) else int(spent[-1]) + 1,
        queries=int(spent[-1]),
        **found,
    )


def random_control(candidates: int = 1) -> Contender:
    """Untried heads, uniformly; with K candidates the best of K, which costs K queries a step."""

    def make(stage: Stage, rewards: np.ndarray, rng: np.random.Generator) -> Values:
        return lambda seen: rng.random(len(rewards))

    name = "random" if candidates == 1 else f"random (K={candidates})"
    return Contender(name, make, candidates=candidates)


def oracle_control() -> Contender:
    """Knows the episode's rewards: the ceiling."""
    return Contender("oracle", lambda stage, rewards, rng: lambda seen: rewards)


def fixed_control(values: dict[str, np.ndarray]) -> Contender:
    """The training prompts' best heads in one order: those of the task, or of all tasks' mean.

    Args:
        values: by training task, what every head earned there on average.
    """
    mean: np.ndarray = np.mean([v / np.abs(v).max() for v in values.values()], axis=0)

    def make(stage: Stage, rewards: np.ndarray, rng: np.random.Generator) -> Values:
        return lambda seen: values.get(stage.oracle.task_name, mean)

    return Contender("fixed-best", make)


def layer_control(values: dict[str, np.ndarray], n_layers: int) -> Contender:
    """Layers by their mean reward in training (as :func:`fixed_control`); any head within."""
    by_layer = {task: v.reshape(n_layers, -1).mean(1) for task, v in values.items()}
    mean: np.ndarray = np.mean([v / max(1e-9, np.abs(v).max()) for v in by_layer.values()], axis=0)

    def make(stage: Stage, rewards: np.ndarray, rng: np.random.Generator) -> Values:
        chosen = by_layer.get(stage.oracle.task_name, mean)
        order = np.argsort(np.argsort(chosen)).astype(float)
        values = np.repeat(order, stage.oracle.n_heads) + rng.random(len(rewards))
        return lambda seen: values

    return Contender("layer-prior", make)


def count_control(hits: dict[str, list[np.ndarray]]) -> Contender:
    """Layers by the chance that their next head is good (see :class:`.count_prior.CountPrior`).

    Args:
        hits: by training task, which heads earn more than :data:`HIT` of the clean metric in
            each training model, ``[n_layers, n_heads]`` bool; another task gets all of them.
    """
    by_task = {task: CountPrior(grids) for task, grids in hits.items()}
    pooled = CountPrior([grid for grids in hits.values() for grid in grids])

    def make(stage: Stage, rewards: np.ndarray, rng: np.random.Generator) -> Values:
        prior = by_task.get(stage.oracle.task_name, pooled)
        unit = HIT * abs(stage.oracle.clean_metric)
        order = 1e-9 * rng.random(len(rewards))  # any head within a layer

        def values(seen: Seen) -> np.ndarray:
            tried = seen.tried.reshape(stage.oracle.shape)
            good = (seen.rewards > unit).reshape(stage.oracle.shape) & tried
            chance = prior.chance(tried.sum(1), good.sum(1))
            return np.repeat(chance, stage.oracle.n_heads) + order

        return values

    return Contender("count-prior", make)


def bandit_control(thompson: bool = True) -> Contender:
    """A Gaussian bandit on the episode's own prompts (see :class:`.bandits.HeadBelief`)."""

    def make(stage: Stage, rewards: np.ndarray, rng: np.random.Generator) -> Values:
        unit = abs(stage.oracle.clean_metric)

        def values(seen: Seen) -> np.ndarray:
            tried = np.flatnonzero(seen.tried)
            belief = HeadBelief(stage.oracle.shape, *(unit * x for x in (0.02, 0.05, 0.2, 0.02)))
            if len(tried):
                belief.update(tried, seen.rewards[tried])
            jitter = 1e-9 * rng.random(len(rewards))
            return belief.sample(rng) if thompson else belief.mean + 2 * belief.deviation + jitter

        return values

    return Contender("bandit-thompson" if thompson else "bandit-ucb", make)


def by_value(values: Values) -> Policy:
    """The policy whose likeliest legal head is that of highest value, the next that of the next."""

    def policy(observations: np.ndarray, legal: np.ndarray) -> np.ndarray:
        ranks = rankdata(values(Seen.of(observations[0])), method="ordinal") * legal[0]
        return np.asarray(ranks / ranks.sum())[None]

    return policy


def _recall_among(scores: np.ndarray, members: np.ndarray, k: int) -> float:
    """Share of ``members`` among the top ``k`` of all heads, ties by expectation."""
    return recall_at(tied_ranking(scores, members), k)
