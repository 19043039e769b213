"""``rl-ppo``: the seed's agent, masked PPO on HeadDiscovery; and what all learners share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from circuitbench.agents.acting import Acting, check_candidates, play_episode
from circuitbench.agents.episodes import Observation, Rules, SearchRules
from circuitbench.agents.evidence import Evidence
from circuitbench.agents.training import PolicySettings, PolicyTraining, Progress
from circuitbench.agents.vector_env import EpisodeBatch, Place
from circuitbench.errors import InvalidSpec
from circuitbench.method import Discovery

if TYPE_CHECKING:
    from circuitbench.oracle import AblationOracle


@dataclass
class PPOHeadDiscovery:
    """Masked PPO that learns which heads to ablate (Khadka 2026, arXiv 2605.26343).

    Schulman et al. 2017 (arXiv 1707.06347) with invalid actions masked (Huang & Ontañón 2022,
    arXiv 2006.14171), by sb3-contrib. ``train`` learns on the training oracles, whose cost is
    metered apart. ``discover`` plays episodes of the learnt policy on the oracle it is given,
    each on fresh prompts, and scores the heads as :mod:`circuitbench.agents.evidence` says.

    Args:
        episodes: episodes played by ``discover`` (fewer if the budget is smaller).
        steps: length of an episode, at most the number of heads.
        candidates: K of best-of-K planning in ``discover``; every candidate is a query.
        greedy: act by the likeliest head instead of sampling.
        threshold: commits to heads above this fraction of the clean metric.
        train_tasks: tasks to learn on; none means the one that is to be discovered.
        train_pool: prompts in the pool the training episodes draw from.
        total_steps ... patience: see :class:`circuitbench.agents.training.PolicySettings`.
    """

    episodes: int = 3
    steps: int = 50
    candidates: int = 1
    greedy: bool = False
    threshold: float = 0.02
    train_tasks: tuple[str, ...] = ()
    train_pool: int = 64
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

    # Set from outside where wanted; none of them can change a number.
    progress: Progress | None = field(default=None, init=False, repr=False, compare=False)
    checkpoints: Path | None = field(default=None, init=False, repr=False, compare=False)
    tensorboard: Path | None = field(default=None, init=False, repr=False, compare=False)

    name: ClassVar[str] = "rl-ppo"
    observation: ClassVar[Observation] = "flat"
    network: ClassVar[dict[str, Any]] = {"network": "mlp"}

    training: PolicyTraining | None = field(default=None, init=False, repr=False, compare=False)
    tasks: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)

    def train(self, oracles: Sequence[AblationOracle], rng: np.random.Generator) -> None:
        """Learn on one oracle per training task; takes up a checkpoint if there is one.

        Raises:
            InvalidSpec: bad hyperparameters, or oracles on different grids of heads.
            RunFailed: training diverged.
        """
        settings = self.settings()
        seed = int(rng.integers(2**31))
        batch = EpisodeBatch(
            oracles,
            self.rules(oracles[0].shape),
            settings.n_envs,
            np.random.default_rng(rng.integers(2**63)),
            observation=self.observation,
        )
        check_candidates(self.candidates, int(batch.action_space.n))
        self.training = PolicyTraining(batch, settings, seed, self.name)
        self.tasks = tuple(oracle.task_name for oracle in oracles)
        self.training.learn(self.progress, self.checkpoints, tensorboard=self.tensorboard)

    def discover(self, oracle: AblationOracle, rng: np.random.Generator) -> Discovery:
        """Play ``episodes`` episodes, one query per step (K with planning).

        Raises:
            InvalidSpec: not trained, or trained on another grid of heads.
        """
        training = self.training
        if training is None:
            raise InvalidSpec(
                f"{self.name} has not been trained; call train() with oracles of the training tasks"
            )
        task = self.tasks.index(oracle.task_name) if oracle.task_name in self.tasks else None
        batch = EpisodeBatch(
            [oracle],
            self.rules(oracle.shape),
            1,
            rng,
            observation=self.observation,
            task_ids=[task],
            n_tasks=len(self.tasks),
        )
        if batch.observation_space.shape != training.batch.observation_space.shape:
            raise InvalidSpec(
                f"{self.name} was trained on {training.batch.shape[0]} x {training.batch.shape[1]} "
                f"heads and cannot act on {oracle.n_layers} x {oracle.n_heads}"
            )
        evidence = Evidence(oracle.shape, self._preference(batch))
        acting = Acting(self.greedy, self.candidates)
        episodes = 0
        while episodes < self.episodes and (oracle.remaining is None or oracle.remaining > 0):
            place = Place(0, int(rng.integers(2**31)))
            play_episode(
                batch, place, training.probabilities, acting, rng, evidence, oracle.remaining
            )
            episodes += 1
        info: dict[str, object] = {
            "episodes": episodes,
            "trained_on": list(self.tasks),
            "shown_as": "unknown" if task is None else oracle.task_name,
            "learning_curve": [asdict(point) for point in training.curve],
            "stopped_early": training.stopped_early,
        }
        return evidence.discovery(self.threshold * abs(oracle.clean_metric), info)

    def rules(self, shape: tuple[int, int]) -> Rules:
        """The environment's constants on a grid of heads."""
        return SearchRules(steps=min(self.steps, shape[0] * shape[1]))

    def settings(self) -> PolicySettings:
        """The hyperparameters of the training run."""
        known = PolicySettings.__dataclass_fields__
        values = {name: value for name, value in vars(self).items() if name in known}
        return PolicySettings(**(values | self.network))

    def _preference(self, batch: EpisodeBatch) -> np.ndarray:
        """The policy at the start of an episode, ``[n_layers * n_heads]``."""
        if self.training is None:
            return np.zeros(batch.episodes[0].n)
        observation = batch.episodes[0].observe(self.observation)[None]
        legal = batch.episodes[0].legal()[None]
        return self.training.probabilities(observation, legal)[0, : batch.episodes[0].n]
