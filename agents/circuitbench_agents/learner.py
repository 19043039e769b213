"""What every learning agent shares: learn on training oracles, then act within a budget."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import InvalidSpec
from circuitbench_agents.environments.batch import EpisodeBatch, Place
from circuitbench_agents.learning import checkpoint
from circuitbench_agents.learning.rollouts import Acting, Policy, check_candidates, play_episode
from circuitbench_agents.learning.training import CurvePoint, Progress
from circuitbench_baselines.episodes.evidence import Evidence
from circuitbench_baselines.episodes.rules import Observation, Rules, SearchRules

if TYPE_CHECKING:
    from circuitbench.oracle import Oracle


class Training(Protocol):
    """A training run: how it went, and the policy it left."""

    batch: EpisodeBatch
    curve: list[CurvePoint]
    queries: int
    stopped_early: bool

    def learn(
        self,
        progress: Progress | None = None,
        folder: Path | None = None,
        checkpoint_every: int = 25,
        tensorboard: Path | None = None,
    ) -> None:
        """Run what is left of it."""
        ...

    def probabilities(self, observations: np.ndarray, legal: np.ndarray) -> np.ndarray:
        """The policy ``[n, n_actions]`` for observations ``[n, ...]``; 0 where not legal."""
        ...


@dataclass
class LearningAgent:
    """A method with ``train`` and ``discover``; subclasses say what training is.

    ``discover`` plays episodes of the learnt policy on the oracle it is given, each on fresh
    prompts, and scores the heads as :mod:`circuitbench_baselines.episodes.evidence` says. A task
    it was not trained on is shown to it as unknown.

    Args:
        episodes: episodes played by ``discover`` (fewer if the budget is smaller).
        steps: length of an episode, at most the number of heads.
        candidates: K of best-of-K planning in ``discover``; every candidate is a query.
        greedy: act by the likeliest head instead of sampling.
        threshold: commits to heads above this fraction of the clean metric.
        train_tasks: tasks to learn on; none means the one that is to be discovered.
        train_pool: prompts in the pool the training episodes draw from (never less than a batch).
    """

    episodes: int = 3
    steps: int = 50
    candidates: int = 1
    greedy: bool = False
    threshold: float = 0.02
    train_tasks: tuple[str, ...] = ()
    train_pool: int = 64

    # Set from outside where wanted; none of them can change a number.
    progress: Progress | None = field(default=None, init=False, repr=False, compare=False)
    checkpoints: Path | None = field(default=None, init=False, repr=False, compare=False)
    tensorboard: Path | None = field(default=None, init=False, repr=False, compare=False)

    # What training leaves behind.
    training: Training | None = field(default=None, init=False, repr=False, compare=False)
    tasks: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)

    name: ClassVar[str]
    observation: ClassVar[Observation] = "flat"

    def train(self, oracles: Sequence[Oracle], rng: np.random.Generator) -> None:
        """Learn on one oracle per training task; takes up a checkpoint if there is one.

        Oracles of one task on several models count as one task.

        Raises:
            InvalidSpec: bad hyperparameters, or oracles on different grids of heads.
            RunFailed: training diverged.
        """
        if not oracles:
            raise InvalidSpec(f"{self.name} needs at least one training oracle")
        self.tasks = tuple(dict.fromkeys(oracle.task_name for oracle in oracles))
        seed = int(rng.integers(2**31))
        batch = EpisodeBatch(
            oracles,
            self.rules(oracles[0].shape),
            self.side_by_side(),
            np.random.default_rng(rng.integers(2**63)),
            observation=self.observation,
            task_ids=[self.tasks.index(oracle.task_name) for oracle in oracles],
            n_tasks=len(self.tasks),
        )
        check_candidates(self.candidates, int(batch.action_space.n))
        self.training = self.start(batch, seed)
        if self.checkpoints is None or not checkpoint.exists(self.checkpoints):
            before = batch.queries
            self.prepare(oracles, rng)
            self.training.queries += batch.queries - before
        self.training.learn(self.progress, self.checkpoints, tensorboard=self.tensorboard)

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """Play ``episodes`` episodes, one query per step (K with planning).

        Raises:
            InvalidSpec: not trained, or trained on another grid of heads.
        """
        training = self._trained()
        batch = self.seat(oracle, rng)
        evidence = self.evidence(oracle, self.preference(batch))
        episodes = 0
        while episodes < self.episodes and (oracle.remaining is None or oracle.remaining > 0):
            place = Place(0, int(rng.integers(2**31)))
            self.play(batch, place, evidence, rng)
            episodes += 1
        info: dict[str, object] = {
            "episodes": episodes,
            "trained_on": list(self.tasks),
            "shown_as": oracle.task_name if oracle.task_name in self.tasks else "unknown",
            "learning_curve": [asdict(point) for point in training.curve],
            "stopped_early": training.stopped_early,
        }
        return evidence.discovery(self.cutoff(oracle), info)

    @abstractmethod
    def start(self, batch: EpisodeBatch, seed: int) -> Training:
        """A training run that has not begun."""

    def prepare(self, oracles: Sequence[Oracle], rng: np.random.Generator) -> None:
        """What happens before a training that is not taken up from a checkpoint."""
        return

    @abstractmethod
    def side_by_side(self) -> int:
        """Episodes that training plays at once."""

    def rules(self, shape: tuple[int, int]) -> Rules:
        """The environment's constants on a grid of heads."""
        return SearchRules(steps=min(self.steps, shape[0] * shape[1]))

    def evidence(self, oracle: Oracle, preference: np.ndarray) -> Evidence:
        """Where the answers of ``discover`` are gathered."""
        return Evidence(oracle.shape, preference)

    def cutoff(self, oracle: Oracle) -> float:
        """The score above which a head is committed to."""
        return self.threshold * abs(oracle.clean_metric)

    def play(
        self,
        batch: EpisodeBatch,
        place: Place,
        evidence: Evidence | None,
        rng: np.random.Generator,
    ) -> list[list[tuple[int, float]]]:
        """One episode with the learnt policy (see :func:`play_episode`)."""
        policy = self.policy()
        acting = Acting(self.greedy, self.candidates)
        return play_episode(batch, place, policy, acting, rng, evidence)

    def seat(
        self, oracle: Oracle, rng: np.random.Generator, shown_as: str | None = None
    ) -> EpisodeBatch:
        """A single episode on an oracle as the trained policy is to see it.

        Args:
            oracle: where it happens.
            rng: draws fresh batches where none is given.
            shown_as: the training task to pretend; by default its own, or unknown.

        Raises:
            InvalidSpec: another grid of heads than the policy can act on, or no such task.
        """
        training = self._trained()
        if shown_as is not None and shown_as not in self.tasks:
            raise InvalidSpec(f"cannot pretend {shown_as!r}; trained on {', '.join(self.tasks)}")
        task = shown_as or oracle.task_name
        batch = EpisodeBatch(
            [oracle],
            self.rules(oracle.shape),
            1,
            rng,
            observation=self.observation,
            task_ids=[self.tasks.index(task) if task in self.tasks else None],
            n_tasks=len(self.tasks),
        )
        grid = training.batch.shape
        if self.observation == "flat" and batch.shape != grid:
            raise InvalidSpec(
                f"{self.name} was trained on {grid[0]} x {grid[1]} heads "
                f"and cannot act on {oracle.n_layers} x {oracle.n_heads}"
            )
        return batch

    def _trained(self) -> Training:
        if self.training is None:
            raise InvalidSpec(
                f"{self.name} has not been trained; call train() with oracles of the training tasks"
            )
        return self.training

    def policy(self) -> Policy:
        """The learnt policy."""
        return self._trained().probabilities

    def preference(self, batch: EpisodeBatch) -> np.ndarray:
        """The policy at the start of an episode, ``[n_layers * n_heads]``."""
        episode = batch.episodes[0]
        episode.begin(batch.task_ids[0], 1.0)
        observation, legal = episode.observe(batch.observation), episode.legal()
        return self.policy()(observation[None], legal[None])[0, : episode.n]
