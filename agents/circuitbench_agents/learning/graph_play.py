"""Plays EdgePruning: by looking ahead, and by a policy; and lets a policy imitate the former."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitbench_agents.environments.edge_episodes import EdgeEpisodes
from circuitbench_agents.environments.edge_rules import EdgeEpisode
from circuitbench_agents.environments.episode_batch import Place
from circuitbench_agents.learning.rollouts import Acting
from circuitbench_agents.learning.settings import require_above_0, require_at_least_1

if TYPE_CHECKING:
    from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy

Seen = dict[str, np.ndarray]
GraphActor = Callable[[Seen, np.ndarray], np.ndarray]
"""Observations, each ``[n, ...]``, and legal actions ``[n, n_actions]`` to chances of actions."""


@dataclass(frozen=True)
class ImitationSettings:
    """How a policy learns from episodes that look ahead, before it learns from reward.

    Args:
        epochs, minibatch, learning_rate: of behaviour cloning; 0 epochs is none.
    """

    epochs: int = 40
    minibatch: int = 64
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        require_at_least_1(self, "minibatch")
        require_above_0(self, "learning_rate")


def ahead(episode: EdgeEpisode) -> list[int]:
    """What is worth a look: each group, the edge and the node that are worth least, and stop."""
    rules, legal = episode.rules, episode.legal()
    groups = rules.candidates
    nodes = groups + len(rules.groups)
    options = [a for a in range(groups, nodes) if legal[a]]
    left = np.flatnonzero(episode.kept)
    options.append(int(left[episode.found.worth[left].argmin()]))
    killable = np.flatnonzero(legal[nodes : nodes + episode.found.n_nodes - 1])
    if len(killable):
        options.append(nodes + int(killable[episode.found.node_worth[killable + 1].argmin()]))
    return [*options, episode.stop]


def merit(episode: EdgeEpisode) -> tuple[bool, float]:
    """What makes one graph better than another: to be faithful enough, then its potential."""
    return episode.faithfulness >= episode.tau, episode.potential


class _Best:
    """The best graph that each of some episodes has met, to return to in the end."""

    def __init__(self, batch: EdgeEpisodes, index: Sequence[int]) -> None:
        self.batch = batch
        self.met = {i: self._now(i) for i in index}

    def note(self, index: Sequence[int]) -> None:
        for i in index:
            if merit(self.batch.episode(i)) > self.met[i][0]:
                self.met[i] = self._now(i)

    def restore(self) -> list[EdgeEpisode]:
        """Put every graph back to its best; steps stay those that were taken."""
        for i, (_, kept, faithfulness) in self.met.items():
            self.batch.episode(i).kept = kept
            self.batch.episode(i).faithfulness = faithfulness
        return [self.batch.episode(i) for i in self.met]

    def _now(self, i: int) -> tuple[tuple[bool, float], np.ndarray, float]:
        episode = self.batch.episode(i)
        return merit(episode), episode.kept.copy(), episode.faithfulness


def demonstrate(
    batch: EdgeEpisodes, places: Sequence[Place]
) -> tuple[Seen, np.ndarray, np.ndarray]:
    """Play an episode at each place, always the best of :func:`ahead`.

    A query for each option of each step: the control for what a policy saves. The episodes that
    were played last are left at the best graphs they met.

    Returns:
        Observations, legal actions and actions of all steps.
    """
    seen: list[Seen] = []
    legal: list[np.ndarray] = []
    actions: list[int] = []
    for start in range(0, len(places), len(batch)):
        some = places[start : start + len(batch)]
        batch.begin(range(len(some)), some)
        playing = [i for i in range(len(some)) if not batch.episode(i).over]
        best = _Best(batch, range(len(some)))
        while playing:
            options = [(i, action) for i in playing for action in ahead(batch.episode(i))]
            seen += [batch.episode(i).observe() for i in playing]
            legal += [batch.episode(i).legal() for i in playing]
            taken = batch.choose(options)
            actions += [taken[i] for i in playing]
            best.note(playing)
            playing = [i for i in playing if not batch.episode(i).over]
        best.restore()
    whole = {name: np.stack([one[name] for one in seen]) for name in seen[0]}
    return whole, np.stack(legal), np.array(actions)


def imitate_graphs(
    policy: MaskableActorCriticPolicy,
    shown: tuple[Seen, np.ndarray, np.ndarray],
    settings: ImitationSettings,
    rng: np.random.Generator,
) -> float:
    """Behaviour cloning (Pomerleau 1991); the share of actions the policy then takes itself."""
    seen, legal, actions = shown
    optimizer = torch.optim.Adam(policy.parameters(), settings.learning_rate)
    policy.set_training_mode(True)
    for _ in range(settings.epochs):
        for rows in np.array_split(
            rng.permutation(len(actions)), -(-len(actions) // settings.minibatch)
        ):
            some = {name: torch.from_numpy(value[rows]) for name, value in seen.items()}
            _, logs, _ = policy.evaluate_actions(
                some, torch.from_numpy(actions[rows]), torch.from_numpy(legal[rows])
            )
            optimizer.zero_grad()
            (-logs.mean()).backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
    chances = chances_of(policy, seen, legal)
    return float((chances.argmax(1) == actions).mean())


def chances_of(policy: MaskableActorCriticPolicy, seen: Seen, legal: np.ndarray) -> np.ndarray:
    """A policy's chances of actions ``[n, n_actions]``, 0 where not legal."""
    policy.set_training_mode(False)
    with torch.no_grad():
        some = {name: torch.from_numpy(value) for name, value in seen.items()}
        found = policy.get_distribution(some, action_masks=legal).distribution.probs
    weights = found.double().numpy() * legal
    return np.asarray(weights / weights.sum(1, keepdims=True))


def play_graphs(
    batch: EdgeEpisodes,
    places: Sequence[Place],
    actor: GraphActor,
    acting: Acting,
    rng: np.random.Generator,
    left: Callable[[], int | None] = lambda: None,
) -> list[EdgeEpisode]:
    """Play an episode at each place side by side, to their ends or to that of the budget.

    Args:
        batch: as many seats as there are places.
        places: where.
        actor: chooses.
        acting: greedily or not, and how many actions are looked at before one is taken.
        rng: draws actions.
        left: queries that are left; None is no limit.

    Returns:
        Each episode at the best graph it met, see :func:`merit`.
    """
    index = list(range(len(places)))
    batch.begin(index, places)
    best = _Best(batch, index)
    while playing := [i for i in index if not batch.episode(i).over]:
        afford = left()
        if afford is not None and afford < len(playing) * acting.candidates:
            break
        seen = [batch.episode(i).observe() for i in playing]
        whole = {name: np.stack([one[name] for one in seen]) for name in seen[0]}
        legal = np.stack([batch.episode(i).legal() for i in playing])
        chances = actor(whole, legal)
        proposed = {i: acting.propose(row, rng) for i, row in zip(playing, chances, strict=True)}
        if acting.candidates > 1:
            batch.choose([(i, action) for i in playing for action in proposed[i]])
        else:
            batch.advance({i: options[0] for i, options in proposed.items()})
        best.note(playing)
    return best.restore()
