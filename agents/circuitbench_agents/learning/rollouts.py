"""Plays episodes with a policy on an oracle, within its budget, with or without planning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from circuitbench import InvalidSpec
from circuitbench_agents.environments.episode_batch import EpisodeBatch, Place
from circuitbench_baselines.episodes.evidence import Evidence

# A policy: observations [n, ...] and legal actions [n, n_actions] to probabilities.
Policy = Callable[[np.ndarray, np.ndarray], np.ndarray]


def uniform(observations: np.ndarray, legal: np.ndarray) -> np.ndarray:
    """The policy that takes any legal action alike."""
    return np.asarray(legal / legal.sum(1, keepdims=True))


@dataclass(frozen=True)
class Acting:
    """How to choose from a policy.

    Args:
        greedy: take the likeliest action instead of sampling.
        candidates: K of best-of-K planning (Khadka 2026, arXiv 2605.26343): sample K actions
            without replacement, ask the oracle about each, take the best. 1 is no planning.
            Every candidate costs a query.
    """

    greedy: bool = False
    candidates: int = 1

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise InvalidSpec(f"candidates must be 1 or more, not {self.candidates}")

    def propose(self, probabilities: np.ndarray, rng: np.random.Generator) -> list[int]:
        """Up to ``candidates`` different legal actions for one episode, ``[n_actions]``."""
        legal = int((probabilities > 0).sum())
        k = min(self.candidates, legal)
        if self.greedy:
            return [int(a) for a in np.argsort(-probabilities, kind="stable")[:k]]
        # The Gumbel top-k trick samples without replacement (Kool et al. 2019).
        with np.errstate(divide="ignore"):
            keys = np.log(probabilities) + rng.gumbel(size=len(probabilities))
        return [int(a) for a in np.argsort(-keys, kind="stable")[:k]]


def check_candidates(candidates: int, n_actions: int) -> None:
    """Refuse more candidates than there are actions."""
    if candidates > n_actions:
        raise InvalidSpec(
            f"candidates (K) must be at most the {n_actions} actions, not {candidates}"
        )


def play_episode(
    batch: EpisodeBatch,
    place: Place,
    policy: Policy,
    acting: Acting,
    rng: np.random.Generator,
    evidence: Evidence | None = None,
) -> list[list[tuple[int, float]]]:
    """One episode of ``batch``'s first seat; ends early where the oracle's budget does.

    Returns:
        For every step the actions asked about with what they earn, the one taken first.
    """
    check_candidates(acting.candidates, batch.episodes[0].n_actions)
    oracle, before = batch.oracles[place.oracle], batch.queries
    batch.begin([0], [place])
    episode = batch.episodes[0]
    steps: list[list[tuple[int, float]]] = []
    while not episode.over and oracle.remaining != 0:
        legal = episode.legal()[None]
        observation = episode.observe(batch.observation)[None]
        options = acting.propose(policy(observation, legal)[0], rng)[: oracle.remaining]
        if len(options) == 1:
            asked = [(options[0], batch.advance({0: options[0]})[0].reward)]
        else:
            asked = batch.choose(0, options)
        steps.append(asked)
        if evidence is not None:
            evidence.step(asked, episode, batch.queries - before)
            before = batch.queries
    return steps
