"""``rl-knockout``: PPO where ablations accumulate, so that copies of a head show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from circuitbench import Info, InvalidSpec
from circuitbench_agents.learning.policy_training import PolicyTraining, PPOSettings
from circuitbench_agents.learning.settings import DiscoverySettings, TrainingSettings
from circuitbench_agents.learning.warm_start import explore, imitate
from circuitbench_agents.ppo import PPOAgent
from circuitbench_baselines.episodes.evidence import Evidence, LargestEvidence
from circuitbench_baselines.episodes.knockout import KnockoutRules
from circuitbench_baselines.episodes.rules import Rules

if TYPE_CHECKING:
    from circuitbench import Oracle


@Info(
    title="PPO on knockouts",
    family="Reinforcement learning",
    paper="Schulman et al. 2017",
    link="https://arxiv.org/abs/1707.06347",
    needs=("training",),
)
@dataclass
class KnockoutDiscovery(PPOAgent):
    """``rl-knockout``: masked PPO (Schulman et al. 2017, arXiv 1707.06347) on HeadKnockout.

    A head's score is the largest change it caused in any episode, so a backup counts by what it
    did once its partners were off, and a copy that any other can replace by what it did when it
    was the one put back.

    Training begins with episodes of random actions, long enough to chance upon cuts; the policy
    imitates what they found (Oh et al. 2018, arXiv 1806.05635), and PPO goes on from there.
    Making a cut minimal is part of the environment and is not learned.

    Args:
        discovery ... warm_start: see :class:`circuitbench_agents.ppo.PPOAgent`.
        knockout: the environment.
        explore: training queries spent on random actions; 0 leaves everything to PPO.
    """

    discovery: DiscoverySettings = DiscoverySettings(episodes=20)
    training: TrainingSettings = TrainingSettings(pool=32, total_steps=1_200, n_envs=4)
    ppo: PPOSettings = PPOSettings(learning_rate=1e-3, gamma=0.95, entropy=0.01)
    knockout: KnockoutRules = KnockoutRules(steps=48, cuts=4, signed=False)
    explore: int = 1_200

    name: ClassVar[str] = "rl-knockout"

    def __post_init__(self) -> None:
        if self.explore < 0:
            raise InvalidSpec(f"{self.name}: explore must be 0 or more, not {self.explore}")

    def rules(self) -> Rules:
        """HeadKnockout's."""
        return self.knockout

    def prepare(
        self, run: PolicyTraining, oracles: Sequence[Oracle], rng: np.random.Generator
    ) -> None:
        """Explore, and imitate what was found; or imitate a baseline, if one is named."""
        if self.warm_start or self.explore == 0:
            super().prepare(run, oracles, rng)
            return
        nothing = np.zeros(oracles[0].n_layers * oracles[0].n_heads)
        rankings = explore(
            oracles,
            # A random order meets a whole cut only after many of the heads.
            replace(self.knockout, steps=2 * len(nothing)),
            lambda oracle: self.evidence(oracle, nothing),
            self.explore,
            rng,
        )
        floor = min(self.cutoff(oracle) for oracle in oracles)
        imitate(run, rankings, rng, floor=floor)

    def evidence(self, oracle: Oracle, preference: np.ndarray) -> Evidence:
        """Largest changes."""
        return LargestEvidence(oracle.shape, preference)
