"""``rl-knockout`` and ``rl-pruning``: PPO where ablations accumulate, so that copies show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from circuitbench.agents.episodes import KnockoutRules, PruningRules, Rules
from circuitbench.agents.evidence import Evidence, KeptEvidence, LargestEvidence
from circuitbench.agents.ppo import PPOHeadDiscovery
from circuitbench.agents.training import PolicyTraining
from circuitbench.agents.warm_start import baseline_rankings, imitate

if TYPE_CHECKING:
    from circuitbench.oracle import AblationOracle

KEPT = 0.2  # share of the heads that a warm-started pruning policy is shown to keep


@dataclass
class KnockoutDiscovery(PPOHeadDiscovery):
    """``rl-knockout``: masked PPO on HeadKnockout.

    A head's score is the largest fall of the contrastive reward it caused in any episode, so a
    backup counts by what it did once its partners were off. The episode ends when the task
    metric has collapsed, and the next one starts from the whole model.

    Args:
        collapse: see :class:`circuitbench.agents.episodes.KnockoutRules`.
    """

    episodes: int = 20
    total_steps: int = 8_000
    collapse: float = 0.98

    name: ClassVar[str] = "rl-knockout"

    def rules(self, shape: tuple[int, int]) -> Rules:
        """The environment's constants on a grid of heads."""
        return KnockoutRules(steps=min(self.steps, shape[0] * shape[1]), collapse=self.collapse)

    def evidence(self, oracle: AblationOracle, preference: np.ndarray) -> Evidence:
        """Largest falls."""
        return LargestEvidence(oracle.shape, preference)


@dataclass
class PruningDiscovery(PPOHeadDiscovery):
    """``rl-pruning``: masked PPO on CircuitPruning.

    A head's score is the share of episodes at whose end it was kept, plus the mean fall of
    faithfulness when it was removed; it is selected above one half. Of interchangeable heads
    every episode keeps another one, so over episodes all of them rise.

    Args:
        tau, price, groups: see :class:`circuitbench.agents.episodes.PruningRules`.
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

    def prepare(self, oracles: Sequence[AblationOracle], rng: np.random.Generator) -> None:
        """Imitate a baseline by removing its heads from the bottom up."""
        if self.warm_start and isinstance(self.training, PolicyTraining):
            rankings = baseline_rankings(self.warm_start, oracles, rng)
            imitate(self.training, [-ranking for ranking in rankings], rng, share=1 - KEPT)

    def evidence(self, oracle: AblationOracle, preference: np.ndarray) -> Evidence:
        """Kept shares."""
        return KeptEvidence(oracle.shape, preference)

    def cutoff(self, oracle: AblationOracle) -> float:
        """A share of episodes, whatever the metric's unit."""
        return self.threshold
