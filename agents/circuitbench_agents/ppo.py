"""``rl-ppo``: the seed's agent, masked PPO on HeadDiscovery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from circuitbench.core.info import Info
from circuitbench_agents.environments.batch import EpisodeBatch
from circuitbench_agents.learner import LearningAgent
from circuitbench_agents.learning.training import PolicySettings, PolicyTraining
from circuitbench_agents.learning.warm_start import baseline_rankings, imitate

if TYPE_CHECKING:
    from circuitbench.oracle import Oracle


@Info(
    title="PPO (MechRL)",
    family="Reinforcement learning",
    paper="Khadka 2026",
    link="https://arxiv.org/abs/2605.26343",
    needs=("training",),
)
@dataclass
class PPOHeadDiscovery(LearningAgent):
    """Masked PPO that learns which heads to ablate (Khadka 2026, arXiv 2605.26343).

    Schulman et al. 2017 (arXiv 1707.06347) with invalid actions masked (Huang & Ontañón 2022,
    arXiv 2006.14171), by sb3-contrib.

    Args:
        episodes ... train_pool: see :class:`circuitbench_agents.learner.LearningAgent`.
        warm_start: a registered method whose ranking the policy first learns to imitate; none
            by default.
        total_steps ... patience: see :class:`circuitbench_agents.learning.training.PolicySettings`.
            The seed trained for 200,000 steps on two tasks; the default is enough for one task
            of the embedded model.
    """

    warm_start: str = ""
    total_steps: int = 40_000
    n_envs: int = 8
    n_steps: int = 50
    learning_rate: float = 2.5e-4
    final_rate: float = 0.2
    gamma: float = 0.99
    gae_lambda: float = 0.95
    minibatch: int = 50
    epochs: int = 4
    clip: float = 0.2
    entropy: float = 0.1
    value: float = 0.5
    grad_norm: float = 0.5
    width: int = 256
    patience: int = 0

    name: ClassVar[str] = "rl-ppo"
    fixed: ClassVar[dict[str, Any]] = {}

    def start(self, batch: EpisodeBatch, seed: int) -> PolicyTraining:
        """A PPO run."""
        return PolicyTraining(batch, self.settings(), seed, self.name)

    def prepare(self, oracles: Sequence[Oracle], rng: np.random.Generator) -> None:
        """Imitate a baseline, if one is named."""
        if self.warm_start and isinstance(self.training, PolicyTraining):
            imitate(self.training, baseline_rankings(self.warm_start, oracles, rng), rng)

    def side_by_side(self) -> int:
        """Episodes that training plays at once."""
        return self.settings().n_envs

    def settings(self) -> PolicySettings:
        """The hyperparameters of the training run."""
        known = PolicySettings.__dataclass_fields__
        values = {name: value for name, value in vars(self).items() if name in known}
        return PolicySettings(**(values | self.fixed))
