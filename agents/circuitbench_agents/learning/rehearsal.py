"""Rehearsal: a policy learns from a baseline's ranking in simulated episodes that ask nothing.

In HeadDiscovery an answer depends on the head alone, so one sweep over a training oracle tells
what every later episode on those prompts would. Episodes can then be played for free, which is
what a policy over head tokens needs: it has to learn from many models what a hit says about the
heads nobody has tried.

The student plays, the demonstrator says at every state which untried heads it would pick, and
the student is moved towards that (DAgger, Ross et al. 2011, arXiv 1011.0686). The demonstrator
picks in proportion to the ranking's scores, which the student cannot see. Matching its picks over
many models is matching their mean given what was seen, so a head's probability becomes its
expected score under the student's own evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from circuitbench_agents.learning.policy_training import PolicyTraining
from circuitbench_agents.learning.settings import require_above_0
from circuitbench_baselines.episodes.rules import Answer, Episode

if TYPE_CHECKING:
    from circuitbench import Oracle

FLOOR = 0.02  # scores below this share of the largest count as nothing


@dataclass(frozen=True)
class RehearsalSettings:
    """How a policy rehearses after a warm start (DAgger, Ross et al. 2011, arXiv 1011.0686).

    Args:
        rounds: times that episodes are played and learnt from.
        episodes: played side by side per round.
        share: of the states met, those learnt from; neighbours in an episode are much alike.
        minibatch, learning_rate: of Adam, whose rate falls linearly to nothing.
        jitter: standard deviation of the factor, on a log scale, by which an episode's and a
            head's answers are changed, lest the student tells a training model by its numbers.
    """

    rounds: int = 100
    episodes: int = 32
    share: float = 0.5
    minibatch: int = 50
    learning_rate: float = 1e-3
    jitter: float = 0.2

    def __post_init__(self) -> None:
        require_above_0(self, "rounds", "episodes", "share", "minibatch", "learning_rate")


class Lesson(NamedTuple):
    """One training oracle: what every head earns, and how much the demonstrator wants it."""

    task: int | None
    rewards: np.ndarray
    worth: np.ndarray


class States(NamedTuple):
    """Observations, legal actions, and what the demonstrator would do, one row per state."""

    observations: torch.Tensor
    legal: torch.Tensor
    targets: torch.Tensor


def lessons(
    training: PolicyTraining,
    oracles: Sequence[Oracle],
    rankings: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> list[Lesson]:
    """Sweep every oracle once, on a fresh batch; the queries are the training's."""
    found = []
    for oracle, ranking, task in zip(oracles, rankings, training.batch.task_ids, strict=True):
        batch = oracle.draw(int(rng.integers(2**31)))
        rewards = oracle.query(oracle.head_masks(), batch=batch).reward.double().numpy()
        worth = np.where(ranking > FLOOR * ranking.max(), ranking, 0.0)
        if ranking.max() > 0:  # else it prefers nothing
            found.append(Lesson(task, rewards, worth / worth.sum()))
    return found


def rehearse(
    training: PolicyTraining,
    taught: Sequence[Lesson],
    settings: RehearsalSettings,
    rng: np.random.Generator,
) -> list[float]:
    """Train the policy of a run that has not begun.

    Returns:
        The mean cross-entropy to the demonstrator by round, nats.
    """
    if not taught:
        return []
    policy = training.model.policy
    optimizer = torch.optim.Adam(policy.parameters(), lr=settings.learning_rate)
    losses = []
    for round_ in range(settings.rounds):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 - round_ / settings.rounds)
        states = _play(training, taught, settings, rng)
        policy.set_training_mode(True)
        total = 0.0
        order = torch.from_numpy(rng.permutation(len(states.targets)))
        for rows in order.split(settings.minibatch):
            logits = policy.get_distribution(
                states.observations[rows], action_masks=states.legal[rows].numpy()
            ).distribution.logits
            loss = -(states.targets[rows] * logits).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), training.settings.grad_norm)
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        losses.append(total / len(states.targets))
    return losses


def _play(
    training: PolicyTraining,
    taught: Sequence[Lesson],
    settings: RehearsalSettings,
    rng: np.random.Generator,
) -> States:
    """The states that the student meets, half of its episodes greedy and half sampled."""
    batch = training.batch
    chosen = [taught[i] for i in rng.integers(len(taught), size=settings.episodes)]
    episodes = [batch.rules.episode(batch.shape, batch.n_tasks) for _ in chosen]
    answers = [_jittered(lesson.rewards, settings.jitter, rng) for lesson in chosen]
    for episode, lesson in zip(episodes, chosen, strict=True):
        episode.begin(lesson.task, 1.0)
    sampled = rng.random(settings.episodes) < 0.5
    seen: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    while not episodes[0].over:
        observations = np.stack([episode.observe(batch.observation) for episode in episodes])
        legal = np.stack([episode.legal() for episode in episodes])
        wanted = np.stack([lesson.worth for lesson in chosen]) * legal
        kept = (rng.random(len(episodes)) < settings.share) | (episodes[0].steps == 0)
        kept &= wanted.sum(1) > 0
        targets = wanted[kept] / wanted[kept].sum(1, keepdims=True)
        seen += zip(observations[kept], legal[kept], targets, strict=True)
        with np.errstate(divide="ignore"):
            keys = np.log(training.probabilities(observations, legal))
        keys += sampled[:, None] * rng.gumbel(size=keys.shape)
        for episode, action, answer in zip(episodes, keys.argmax(1), answers, strict=True):
            _settle(episode, int(action), float(answer[action]))
    columns = (torch.from_numpy(np.stack(column)) for column in zip(*seen, strict=True))
    observations_, legal_, targets_ = columns
    return States(observations_, legal_, targets_.float())


def _settle(episode: Episode, action: int, answer: float) -> None:
    episode.settle(action, Answer(answer, answer))


def _jittered(rewards: np.ndarray, jitter: float, rng: np.random.Generator) -> np.ndarray:
    factors = np.exp(jitter * (rng.normal() + rng.normal(size=len(rewards))))
    return np.asarray(rewards * factors)
