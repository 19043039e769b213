"""Warm start: a policy first imitates a baseline's ranking, then learns on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitbench.agents.training import PolicyTraining
from circuitbench.agents.vector_env import EpisodeBatch, Place
from circuitbench.registry import method_class

if TYPE_CHECKING:
    from circuitbench.oracle import AblationOracle

EPOCHS = 20
MINIBATCH = 50


def baseline_rankings(
    name: str, oracles: Sequence[AblationOracle], rng: np.random.Generator
) -> list[np.ndarray]:
    """What a registered method says of each training oracle, ``[n_heads of the grid]`` each.

    Its queries are the training's.

    Raises:
        UnknownName: there is no such method.
    """
    baseline = method_class(name)
    return [np.ravel(baseline().discover(oracle, rng).scores) for oracle in oracles]


def imitate(
    training: PolicyTraining,
    rankings: Sequence[np.ndarray],
    rng: np.random.Generator,
    share: float = 1.0,
) -> float:
    """Behaviour cloning (Pomerleau 1991) of episodes that follow the rankings from the top.

    One episode per training oracle is played on a fresh batch (its queries are the training's),
    then the policy's log-likelihood of what was done is raised for some epochs. Episodes end
    after ``share`` of the heads where they would not end before.

    Returns:
        The mean probability of the imitated actions afterwards.
    """
    batch, policy = training.batch, training.model.policy
    observations, legal, actions = _demonstrate(batch, rankings, rng, share)
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
    batch: EpisodeBatch, rankings: Sequence[np.ndarray], rng: np.random.Generator, share: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Observations, legal actions and actions of one episode per oracle."""
    seen: list[tuple[np.ndarray, np.ndarray, int]] = []
    for index, ranking in enumerate(rankings):
        batch.begin([0], [Place(index, int(rng.integers(2**31)))])
        episode = batch.episodes[0]
        while not episode.over and episode.steps < share * episode.n:
            legal = episode.legal()
            action = int(np.where(legal[: episode.n], ranking, -np.inf).argmax())
            seen.append((episode.observe(batch.observation), legal, action))
            batch.advance({0: action})
    observations, masks, actions = zip(*seen, strict=True)
    return (
        torch.from_numpy(np.stack(observations)),
        torch.from_numpy(np.stack(masks)),
        torch.tensor(actions),
    )
