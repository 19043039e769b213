"""``rl-ppo``: MechRL's agent, masked PPO on HeadDiscovery (Khadka 2026, arXiv 2605.26343)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from circuitbench import Info
from circuitbench_agents.environments.episode_batch import EpisodeBatch
from circuitbench_agents.learner import LearningAgent
from circuitbench_agents.learning.policies import MLP, Network
from circuitbench_agents.learning.policy_training import PolicyTraining, PPOSettings
from circuitbench_agents.learning.warm_start import baseline_rankings, imitate
from circuitbench_baselines.episodes.rules import Observation, Rules, SearchRules

if TYPE_CHECKING:
    from circuitbench import Oracle


@dataclass
class PPOAgent(LearningAgent[PolicyTraining]):
    """Masked PPO in an environment that subclasses choose.

    Schulman et al. 2017 (arXiv 1707.06347) with invalid actions masked (Huang & Ontañón 2022,
    arXiv 2006.14171), by sb3-contrib.

    Args:
        discovery, training: see :class:`circuitbench_agents.learner.LearningAgent`.
        ppo: how it learns.
        network: what it learns with.
        warm_start: a registered method whose ranking the policy first learns to imitate; none
            by default.
    """

    ppo: PPOSettings = PPOSettings()
    network: Network = MLP()
    warm_start: str = ""

    @property
    def observation(self) -> Observation:
        """What the network sees."""
        return self.network.observation

    def start(self, batch: EpisodeBatch, seed: int, origin: Mapping[str, Any]) -> PolicyTraining:
        """A PPO run."""
        steps = self.training.total_steps
        return PolicyTraining(batch, self.ppo, self.network, steps, seed, self.name, origin)

    def prepare(
        self, run: PolicyTraining, oracles: Sequence[Oracle], rng: np.random.Generator
    ) -> None:
        """Imitate a baseline, if one is named."""
        if self.warm_start:
            imitate(run, baseline_rankings(self.warm_start, oracles, rng), rng)


@Info(
    title="PPO (MechRL)",
    family="Reinforcement learning",
    paper="Khadka 2026",
    link="https://arxiv.org/abs/2605.26343",
    needs=("training",),
)
@dataclass
class PPOHeadDiscovery(PPOAgent):
    """``rl-ppo``: learns which heads to ablate (MechRL, Khadka 2026, arXiv 2605.26343).

    MechRL trained for 200,000 steps on two tasks; the default is enough for one task of the
    embedded model.

    Args:
        discovery ... warm_start: see :class:`PPOAgent`.
        search: the environment, HeadDiscovery.
    """

    search: SearchRules = SearchRules()

    name: ClassVar[str] = "rl-ppo"

    def rules(self) -> Rules:
        """HeadDiscovery's."""
        return self.search
