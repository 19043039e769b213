"""``rl-knockout`` and ``rl-pruning``: PPO where ablations accumulate, so that copies show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from circuitbench.core.info import Info
from circuitbench_agents.learning.training import PolicyTraining
from circuitbench_agents.learning.warm_start import baseline_rankings, explore, imitate
from circuitbench_agents.ppo import PPOHeadDiscovery
from circuitbench_baselines.episodes.evidence import Evidence, KeptEvidence, LargestEvidence
from circuitbench_baselines.episodes.knockout import KnockoutRules
from circuitbench_baselines.episodes.rules import PruningRules, Rules

if TYPE_CHECKING:
    from circuitbench.oracle import Oracle

KEPT = 0.2  # share of the heads that a warm-started pruning policy is shown to keep


@Info(
    title="PPO on knockouts",
    family="Reinforcement learning",
    paper="Schulman et al. 2017",
    link="https://arxiv.org/abs/1707.06347",
    needs=("training",),
)
@dataclass
class KnockoutDiscovery(PPOHeadDiscovery):
    """``rl-knockout``: masked PPO on HeadKnockout.

    A head's score is the largest change it caused in any episode, so a backup counts by what it
    did once its partners were off, and a copy that any other can replace by what it did when it
    was the one put back.

    Training begins with episodes of random actions, long enough to chance upon cuts; the policy
    imitates what they found, and PPO goes on from there. Making a cut minimal is part of the
    environment and is not learned.

    Args:
        explore: training queries spent on random actions; 0 leaves everything to PPO.
        collapse, cuts, tolerance, signed: see
            :class:`circuitbench_baselines.episodes.knockout.KnockoutRules`.
    """

    episodes: int = 20
    steps: int = 48
    train_pool: int = 32
    total_steps: int = 1_200
    n_envs: int = 4
    learning_rate: float = 1e-3
    gamma: float = 0.95
    entropy: float = 0.01
    explore: int = 1_200
    collapse: float = 0.98
    cuts: int = 4
    tolerance: float = 0.05
    signed: bool = False

    name: ClassVar[str] = "rl-knockout"

    def rules(self, shape: tuple[int, int]) -> KnockoutRules:
        """The environment's constants; 0 steps means as many as there are heads."""
        return KnockoutRules(
            steps=self.steps or shape[0] * shape[1],
            collapse=self.collapse,
            cuts=self.cuts,
            tolerance=self.tolerance,
            signed=self.signed,
        )

    def prepare(self, oracles: Sequence[Oracle], rng: np.random.Generator) -> None:
        """Explore, and imitate what was found; or imitate a baseline, if one is named."""
        if self.warm_start or self.explore == 0:
            super().prepare(oracles, rng)
        elif isinstance(self.training, PolicyTraining):
            shape = oracles[0].shape
            nothing = np.zeros(shape[0] * shape[1])
            rankings = explore(
                oracles,
                # A random order meets a whole cut only after many of the heads.
                replace(self.rules(shape), steps=2 * len(nothing)),
                lambda oracle: self.evidence(oracle, nothing),
                self.explore,
                rng,
            )
            floor = min(self.cutoff(oracle) for oracle in oracles)
            imitate(self.training, rankings, rng, floor=floor)

    def evidence(self, oracle: Oracle, preference: np.ndarray) -> Evidence:
        """Largest changes."""
        return LargestEvidence(oracle.shape, preference)


@Info(
    title="PPO on pruning",
    family="Reinforcement learning",
    paper="Schulman et al. 2017",
    link="https://arxiv.org/abs/1707.06347",
    needs=("training",),
)
@dataclass
class PruningDiscovery(PPOHeadDiscovery):
    """``rl-pruning``: masked PPO on CircuitPruning.

    A head's score is the share of episodes at whose end it was kept, plus the mean fall of
    faithfulness when it was removed; it is selected above one half. Of interchangeable heads
    every episode keeps another one, so over episodes all of them rise.

    Args:
        tau, price, groups: see :class:`circuitbench_baselines.episodes.rules.PruningRules`.
    """

    episodes: int = 2
    steps: int = 0
    threshold: float = 0.5
    total_steps: int = 16_000
    entropy: float = 0.01
    tau: float = 0.8
    price: float = 3.0
    groups: Literal["heads", "layers"] = "heads"

    name: ClassVar[str] = "rl-pruning"

    def rules(self, shape: tuple[int, int]) -> Rules:
        """The environment's constants; 0 steps means as many as there are heads."""
        return PruningRules(self.tau, self.price, self.groups, self.steps or None)

    def prepare(self, oracles: Sequence[Oracle], rng: np.random.Generator) -> None:
        """Imitate a baseline by removing its heads from the bottom up."""
        if self.warm_start and isinstance(self.training, PolicyTraining):
            rankings = baseline_rankings(self.warm_start, oracles, rng)
            imitate(self.training, [-ranking for ranking in rankings], rng, share=1 - KEPT)

    def evidence(self, oracle: Oracle, preference: np.ndarray) -> Evidence:
        """Kept shares."""
        return KeptEvidence(oracle.shape, preference)

    def cutoff(self, oracle: Oracle) -> float:
        """A share of episodes, whatever the metric's unit."""
        return self.threshold
