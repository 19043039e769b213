"""Matched episodes: every contender on the same tasks, prompts and control text.

An episode's prompts are a pure function of the oracle and a seed, so contenders can be compared
on identical episodes, and each with what the best head of that very episode would have earned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitbench import Circuit, head_grid
from circuitbench.evaluation.against_truth.ranking import (
    auroc,
    average_precision,
    recall_at,
    tied_ranking,
)
from circuitbench_agents.environments.episode_batch import EpisodeBatch, Place
from circuitbench_agents.learner import LearningAgent
from circuitbench_agents.learning.rollouts import Acting, Policy, play_episode, uniform
from circuitbench_baselines.bandits import HeadBelief
from circuitbench_baselines.episodes.evidence import Evidence
from circuitbench_baselines.episodes.rules import SearchRules

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


@dataclass(frozen=True)
class Contender:
    """Someone who plays episodes.

    Args:
        name: for tables.
        policy: makes a policy for one episode from the stage, the rewards of all heads in the
            episode (which only the ceiling may look at) and a generator; None for an agent.
        agent: a trained agent, who plays by its own policy.
        candidates: K of best-of-K planning.
        shown_as: the training task an agent pretends; None for its own, or unknown.
    """

    name: str
    policy: Callable[[Stage, np.ndarray, np.random.Generator], Policy] | None = None
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
    preference, greedy = None, False
    if contender.agent is not None:
        agent = contender.agent
        batch = agent.seat(stage.oracle, rng, contender.shown_as)
        preference = agent.preference(batch)
        policy: Policy = agent.policy()
        greedy = agent.discovery.greedy
    else:
        if contender.policy is None:
            raise ValueError(f"{contender.name} has neither a policy nor an agent")
        rules = SearchRules(steps)
        batch = EpisodeBatch([stage.oracle], rules, 1, rng, task_ids=[None], n_tasks=1)
        policy = contender.policy(stage, rewards, rng)
    acting = Acting(greedy, contender.candidates)
    taken = play_episode(batch, Place(0, seed), policy, acting, rng)
    return score(taken, rewards, stage, preference)


def score(
    taken: Sequence[Sequence[tuple[int, float]]],
    rewards: np.ndarray,
    stage: Stage,
    preference: np.ndarray | None = None,
) -> Score:
    """Judge an episode by what was asked at every step (the head taken first)."""
    ceiling = float(rewards.max())
    best = np.maximum.accumulate([max(0.0, asked[0][1]) for asked in taken])
    spent = np.cumsum([len(asked) for asked in taken])
    near = np.flatnonzero(best >= 0.9 * ceiling)
    evidence = Evidence(stage.oracle.shape, preference)
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


def random_control() -> Contender:
    """Untried heads, uniformly."""
    return Contender("random", lambda stage, rewards, rng: uniform)


def oracle_control() -> Contender:
    """Knows the episode's rewards: the ceiling."""
    return Contender("oracle", lambda stage, rewards, rng: ranked(rewards))


def fixed_control(values: dict[str, np.ndarray]) -> Contender:
    """The training prompts' best heads in one order: those of the task, or of all tasks' mean.

    Args:
        values: by training task, what every head earned there on average.
    """
    mean: np.ndarray = np.mean([v / np.abs(v).max() for v in values.values()], axis=0)

    def policy(stage: Stage, rewards: np.ndarray, rng: np.random.Generator) -> Policy:
        return ranked(values.get(stage.oracle.task_name, mean))

    return Contender("fixed-best", policy)


def layer_control(values: dict[str, np.ndarray], n_layers: int) -> Contender:
    """Layers by their mean reward in training (as :func:`fixed_control`); any head within."""
    by_layer = {task: v.reshape(n_layers, -1).mean(1) for task, v in values.items()}
    mean: np.ndarray = np.mean([v / max(1e-9, np.abs(v).max()) for v in by_layer.values()], axis=0)

    def policy(stage: Stage, rewards: np.ndarray, rng: np.random.Generator) -> Policy:
        chosen = by_layer.get(stage.oracle.task_name, mean)
        order = np.argsort(np.argsort(chosen)).astype(float)
        return ranked(np.repeat(order, stage.oracle.n_heads) + rng.random(len(rewards)))

    return Contender("layer-prior", policy)


def bandit_control(thompson: bool = True) -> Contender:
    """A Gaussian bandit on the episode's own prompts (see :class:`.bandits.HeadBelief`)."""

    def make(stage: Stage, rewards: np.ndarray, rng: np.random.Generator) -> Policy:
        unit = abs(stage.oracle.clean_metric)
        n = len(rewards)

        def policy(observations: np.ndarray, legal: np.ndarray) -> np.ndarray:
            # The flat observation holds the whole history: task, tried heads, their scores / 5.
            tried = np.flatnonzero(observations[0, 1 : 1 + n])
            belief = HeadBelief(stage.oracle.shape, *(unit * x for x in (0.02, 0.05, 0.2, 0.02)))
            if len(tried):
                belief.update(tried, SearchRules().scale * observations[0, 1 + n :][tried])
            jitter = 1e-9 * rng.random(n)
            value = belief.sample(rng) if thompson else belief.mean + 2 * belief.deviation + jitter
            return _certain(value, legal[0])

        return policy

    return Contender("bandit-thompson" if thompson else "bandit-ucb", make)


def ranked(values: np.ndarray) -> Policy:
    """Always the legal head of highest value."""

    def policy(observations: np.ndarray, legal: np.ndarray) -> np.ndarray:
        return _certain(values, legal[0])

    return policy


def _certain(values: np.ndarray, legal: np.ndarray) -> np.ndarray:
    choice = np.zeros((1, len(values)))
    choice[0, np.where(legal, values, -np.inf).argmax()] = 1.0
    return choice


def _recall_among(scores: np.ndarray, members: np.ndarray, k: int) -> float:
    """Share of ``members`` among the top ``k`` of all heads, ties by expectation."""
    return recall_at(tied_ranking(scores, members), k)
