"""Warm start: a policy first imitates a ranking, a baseline's or its own, then learns on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitbench import method_class
from circuitbench_agents.environments.episode_batch import EpisodeBatch, Place
from circuitbench_agents.learning.policy_training import PolicyTraining
from circuitbench_agents.learning.rollouts import Acting, play_episode, uniform
from circuitbench_baselines.episodes.evidence import Evidence
from circuitbench_baselines.episodes.rules import Rules

if TYPE_CHECKING:
    from circuitbench import Oracle

EPOCHS = 20
MINIBATCH = 50


def baseline_rankings(
    name: str, oracles: Sequence[Oracle], rng: np.random.Generator
) -> list[np.ndarray]:
    """What a registered method says of each training oracle, ``[n_heads of the grid]`` each.

    Its queries are the training's.

    Raises:
        UnknownName: there is no such method.
    """
    baseline = method_class(name)
    return [np.ravel(baseline().discover(oracle, rng).scores) for oracle in oracles]


def explore(
    oracles: Sequence[Oracle],
    rules: Rules,
    evidence: Callable[[Oracle], Evidence],
    queries: int,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """What episodes of random actions say of each training oracle, as :func:`baseline_rankings`.

    Whole episodes are played on each oracle until at least ``queries`` queries are spent on it, or
    its budget; imitating what they found is self-imitation (Oh et al. 2018, arXiv 1806.05635).
    """
    rankings = []
    for oracle in oracles:
        batch, seen = EpisodeBatch([oracle], rules, 1, rng), evidence(oracle)
        while seen.queries < queries and oracle.remaining != 0:
            play_episode(batch, Place(0, int(rng.integers(2**31))), uniform, Acting(), rng, seen)
        rankings.append(np.ravel(seen.scores()))
    return rankings


def imitate(
    training: PolicyTraining,
    rankings: Sequence[np.ndarray],
    rng: np.random.Generator,
    floor: float = -np.inf,
) -> float:
    """Behaviour cloning (Pomerleau 1991) of episodes that follow the rankings from the top.

    One episode per training oracle is played on a fresh batch (its queries are the training's),
    then the policy's log-likelihood of what was done is raised for some epochs. Episodes end
    early where no head is left that is ranked above ``floor``.

    Returns:
        The mean probability of the imitated actions afterwards; 0 if there was none.
    """
    batch, policy = training.batch, training.model.policy
    demonstration = _demonstrate(batch, rankings, rng, floor)
    if demonstration is None:
        return 0.0
    observations, legal, actions = demonstration
    policy.set_training_mode(True)
    for _ in range(EPOCHS):
        order = torch.from_numpy(rng.permutation(len(actions)))
        for rows in order.split(MINIBATCH):
            _, logs, _ = policy.evaluate_actions(observations[rows], actions[rows], legal[rows])
            policy.optimizer.zero_grad()
            (-logs.mean()).backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), training.settings.grad_norm)
            policy.optimizer.step()
    with torch.no_grad():
        _, logs, _ = policy.evaluate_actions(observations, actions, legal)
    return float(logs.exp().mean())


def _demonstrate(
    batch: EpisodeBatch,
    rankings: Sequence[np.ndarray],
    rng: np.random.Generator,
    floor: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """Observations, legal actions and actions of one episode per oracle; None if there are none."""
    seen: list[tuple[np.ndarray, np.ndarray, int]] = []
    for index, ranking in enumerate(rankings):
        batch.begin([0], [Place(index, int(rng.integers(2**31)))])
        episode = batch.episodes[0]
        while not episode.over:
            legal = episode.legal()
            action = int(np.where(legal[: episode.n], ranking, -np.inf).argmax())
            if ranking[action] <= floor:
                break
            seen.append((episode.observe(batch.observation), legal, action))
            batch.advance({0: action})
    if not seen:
        return None
    observations, masks, actions = zip(*seen, strict=True)
    return (
        torch.from_numpy(np.stack(observations)),
        torch.from_numpy(np.stack(masks)),
        torch.tensor(actions),
    )
