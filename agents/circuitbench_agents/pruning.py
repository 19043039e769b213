"""``rl-pruning``: PPO on CircuitPruning, where heads are removed while the rest stays faithful."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from circuitbench import Info
from circuitbench_agents.learning.policy_training import PolicyTraining, PPOSettings
from circuitbench_agents.learning.settings import DiscoverySettings, TrainingSettings
from circuitbench_agents.learning.warm_start import baseline_rankings, imitate
from circuitbench_agents.ppo import PPOAgent
from circuitbench_baselines.episodes.evidence import Evidence, KeptEvidence
from circuitbench_baselines.episodes.rules import PruningRules, Rules

if TYPE_CHECKING:
    from circuitbench import Oracle

KEPT = 0.2  # share of the heads that a warm-started pruning policy is shown to keep


@Info(
    title="PPO on pruning",
    family="Reinforcement learning",
    paper="Schulman et al. 2017",
    link="https://arxiv.org/abs/1707.06347",
    needs=("training",),
)
@dataclass
class PruningDiscovery(PPOAgent):
    """``rl-pruning``: masked PPO (Schulman et al. 2017, arXiv 1707.06347) on CircuitPruning.

    A head's score is the share of episodes at whose end it was kept, plus the mean fall of
    faithfulness when it was removed; it is selected above one half. Of interchangeable heads
    every episode keeps another one, so over episodes all of them rise.

    Args:
        discovery ... warm_start: see :class:`circuitbench_agents.ppo.PPOAgent`.
        pruning: the environment.
    """

    discovery: DiscoverySettings = DiscoverySettings(episodes=2, threshold=0.5)
    training: TrainingSettings = TrainingSettings(total_steps=16_000)
    ppo: PPOSettings = PPOSettings(entropy=0.01)
    pruning: PruningRules = PruningRules()

    name: ClassVar[str] = "rl-pruning"

    def rules(self) -> Rules:
        """CircuitPruning's."""
        return self.pruning

    def prepare(
        self, run: PolicyTraining, oracles: Sequence[Oracle], rng: np.random.Generator
    ) -> None:
        """Imitate a baseline by removing its heads from the bottom up."""
        if self.warm_start:
            rankings = baseline_rankings(self.warm_start, oracles, rng)
            imitate(run, [-ranking for ranking in rankings], rng, share=1 - KEPT)

    def evidence(self, oracle: Oracle, preference: np.ndarray) -> Evidence:
        """Kept shares."""
        return KeptEvidence(oracle.shape, preference)

    def cutoff(self, oracle: Oracle) -> float:
        """A share of episodes, whatever the metric's unit."""
        return self.discovery.threshold
