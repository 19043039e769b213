"""Relatives of ``rl-ppo`` that differ in how they learn, act or see; each a few settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from circuitbench import Info
from circuitbench_agents.learning.policies import Network, TokenAttention
from circuitbench_agents.learning.policy_training import PolicyTraining, PPOSettings
from circuitbench_agents.learning.rehearsal import RehearsalSettings, lessons, rehearse
from circuitbench_agents.learning.settings import DiscoverySettings
from circuitbench_agents.learning.warm_start import baseline_rankings
from circuitbench_agents.ppo import PPOHeadDiscovery

if TYPE_CHECKING:
    from circuitbench import Oracle

WHOLE = 10**6  # a minibatch that is the whole rollout


@Info(
    title="PPO with planning",
    family="Reinforcement learning",
    paper="Khadka 2026",
    link="https://arxiv.org/abs/2605.26343",
    needs=("training",),
)
@dataclass
class PPOPlanning(PPOHeadDiscovery):
    """``rl-ppo-plan``: rl-ppo that acts by best-of-K planning (Khadka 2026, arXiv 2605.26343).

    At every step of an episode K heads are drawn from the policy, the oracle is asked about
    each, and the best is taken. All K queries count, and all K answers are evidence.
    """

    discovery: DiscoverySettings = DiscoverySettings(candidates=5, episodes=1)

    name: ClassVar[str] = "rl-ppo-plan"


@Info(
    title="Advantage actor-critic",
    family="Reinforcement learning",
    paper="Mnih et al. 2016",
    link="https://arxiv.org/abs/1602.01783",
    needs=("training",),
)
@dataclass
class A2CHeadDiscovery(PPOHeadDiscovery):
    """``rl-a2c``: advantage actor-critic (Mnih et al. 2016, arXiv 1602.01783).

    One unclipped update on every short rollout, with RMSprop and raw advantages: PPO with one
    epoch over one batch (Huang et al. 2022, arXiv 2205.09123), so the masked implementation
    of PPO serves.
    """

    ppo: PPOSettings = PPOSettings(
        n_steps=5,
        learning_rate=7e-4,
        gae_lambda=1.0,
        minibatch=WHOLE,
        epochs=1,
        normalize=False,
        optimizer="rmsprop",
    )

    name: ClassVar[str] = "rl-a2c"


@Info(
    title="REINFORCE",
    family="Reinforcement learning",
    paper="Williams 1992",
    link="https://doi.org/10.1007/BF00992696",
    needs=("training",),
)
@dataclass
class ReinforceHeadDiscovery(PPOHeadDiscovery):
    """``rl-reinforce``: REINFORCE with a learnt baseline (Williams 1992).

    One update on whole episodes, with Monte-Carlo returns minus the value network's
    prediction; :class:`A2CHeadDiscovery` with the episode as its horizon.
    """

    ppo: PPOSettings = PPOSettings(learning_rate=1e-3, gae_lambda=1.0, minibatch=WHOLE, epochs=1)

    name: ClassVar[str] = "rl-reinforce"


@Info(
    title="PPO with attention",
    family="Reinforcement learning",
    paper="Vaswani et al. 2017",
    link="https://arxiv.org/abs/1706.03762",
    needs=("training",),
)
@dataclass
class TransformerHeadDiscovery(PPOHeadDiscovery):
    """``rl-transformer``: PPO with an attention policy over head tokens.

    Sees each head as a token (tried, score, depth, task) instead of a place in a vector, so it
    is equivariant over heads, cannot memorise addresses, and its weights fit models with other
    grids (Vaswani et al. 2017, arXiv 1706.03762; Lee et al. 2019, arXiv 1810.00825).

    Heads it has not tried look alike within a layer, so what an episode earns later is mostly
    luck of the draw. A short horizon keeps that noise out of the advantages, and a warm start
    learns from simulated episodes instead (see :mod:`circuitbench_agents.learning.rehearsal`).

    Args:
        discovery ... search: see :class:`circuitbench_agents.ppo.PPOHeadDiscovery`.
        rehearsal: of the ranking of ``warm_start``, where there is one.
    """

    ppo: PPOSettings = PPOSettings(
        learning_rate=3e-3, gamma=0.5, gae_lambda=0.8, epochs=3, entropy=0.03
    )
    network: Network = TokenAttention()
    rehearsal: RehearsalSettings = RehearsalSettings()

    name: ClassVar[str] = "rl-transformer"

    def prepare(
        self, run: PolicyTraining, oracles: Sequence[Oracle], rng: np.random.Generator
    ) -> None:
        """Rehearse a baseline's ranking, if one is named."""
        if self.warm_start:
            rankings = baseline_rankings(self.warm_start, oracles, rng)
            rehearse(run, lessons(run, oracles, rankings, rng), self.rehearsal, rng)
