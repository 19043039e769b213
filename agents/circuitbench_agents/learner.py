"""What every learning agent shares: learn on training oracles, then act within a budget."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np

from circuitbench import Curriculum, Discovery, InvalidSpec, TrainingTools
from circuitbench_agents.environments.episode_batch import EpisodeBatch, Place
from circuitbench_agents.learning import checkpoint
from circuitbench_agents.learning.curve import CurvePoint
from circuitbench_agents.learning.rollouts import Policy, check_candidates, play_episode
from circuitbench_agents.learning.settings import DiscoverySettings, TrainingSettings
from circuitbench_baselines.episodes.evidence import Evidence
from circuitbench_baselines.episodes.rules import Observation, Rules

if TYPE_CHECKING:
    from circuitbench import Oracle


class Training(Protocol):
    """A training run: how it went, and the policy it left."""

    batch: EpisodeBatch
    curve: list[CurvePoint]
    queries: int
    stopped_early: bool

    def learn(self, tools: TrainingTools) -> None:
        """Run what is left of it."""
        ...

    def probabilities(self, observations: np.ndarray, legal: np.ndarray) -> np.ndarray:
        """The policy ``[n, n_actions]`` for observations ``[n, ...]``; 0 where not legal."""
        ...


Run = TypeVar("Run", bound=Training)


@dataclass
class LearningAgent(Generic[Run]):
    """A method with ``train`` and ``discover``; subclasses say what a training ``Run`` is.

    ``discover`` plays episodes of the learnt policy on the oracle it is given, each on fresh
    prompts, and scores the heads as :mod:`circuitbench_baselines.episodes.evidence` says. A task
    it was not trained on is shown to it as unknown.

    Args:
        discovery: how the learnt policy discovers.
        training: what it learns on, and for how long.
    """

    discovery: DiscoverySettings = DiscoverySettings()
    training: TrainingSettings = TrainingSettings()

    # What training leaves behind.
    learnt: Run | None = field(default=None, init=False, repr=False, compare=False)
    tasks: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)

    name: ClassVar[str]

    def curriculum(self) -> Curriculum:
        """What it trains on."""
        return self.training.curriculum

    def train(
        self,
        oracles: Sequence[Oracle],
        rng: np.random.Generator,
        tools: TrainingTools = TrainingTools(),
    ) -> None:
        """Learn on one oracle per training task; takes up a checkpoint if there is one.

        Oracles of one task on several models count as one task.

        Raises:
            InvalidSpec: bad hyperparameters, oracles on different grids of heads, or a
                checkpoint of another training.
            CorruptRecord: a checkpoint that cannot be read.
            RunFailed: training diverged.
        """
        if not oracles:
            raise InvalidSpec(f"{self.name} needs at least one training oracle")
        self.tasks = tuple(dict.fromkeys(oracle.task_name for oracle in oracles))
        seed = int(rng.integers(2**31))
        batch = EpisodeBatch(
            oracles,
            self.rules(),
            self.training.n_envs,
            np.random.default_rng(rng.integers(2**63)),
            observation=self.observation,
            task_ids=[self.tasks.index(oracle.task_name) for oracle in oracles],
            n_tasks=len(self.tasks),
        )
        check_candidates(self.discovery.candidates, int(batch.action_space.n))
        origin = {"seed": seed, "tasks": self.tasks, **tools.run, **self._shaping()}
        self.learnt = run = self.start(batch, seed, origin)
        if tools.checkpoints is None or not checkpoint.exists(tools.checkpoints):
            before = batch.queries
            self.prepare(run, oracles, rng)
            run.queries += batch.queries - before
        run.learn(tools)

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """Play ``episodes`` episodes, one query per step (K with planning).

        Raises:
            InvalidSpec: not trained, or trained on another grid of heads.
        """
        run = self.trained
        batch = self.seat(oracle, rng)
        evidence = self.evidence(oracle, self.preference(batch))
        episodes = 0
        while episodes < self.discovery.episodes and (
            oracle.remaining is None or oracle.remaining > 0
        ):
            place = Place(0, int(rng.integers(2**31)))
            self.play(batch, place, evidence, rng)
            episodes += 1
        info: dict[str, object] = {
            "episodes": episodes,
            "trained_on": list(self.tasks),
            "shown_as": oracle.task_name if oracle.task_name in self.tasks else "unknown",
            "learning_curve": [asdict(point) for point in run.curve],
            "stopped_early": run.stopped_early,
        }
        return evidence.discovery(self.cutoff(oracle), info)

    @property
    @abstractmethod
    def observation(self) -> Observation:
        """The kind of observation the policy sees."""

    @abstractmethod
    def start(self, batch: EpisodeBatch, seed: int, origin: Mapping[str, Any]) -> Run:
        """A training run that has not begun; a checkpoint must agree with it in ``origin``."""

    def prepare(self, run: Run, oracles: Sequence[Oracle], rng: np.random.Generator) -> None:
        """What happens before a training that is not taken up from a checkpoint."""
        return

    @abstractmethod
    def rules(self) -> Rules:
        """The environment's constants."""

    def evidence(self, oracle: Oracle, preference: np.ndarray) -> Evidence:
        """Where the answers of ``discover`` are gathered."""
        return Evidence(oracle.shape, preference, presumed=self.cutoff(oracle))

    def cutoff(self, oracle: Oracle) -> float:
        """The score above which a head is committed to."""
        return self.discovery.threshold * abs(oracle.clean_metric)

    def play(
        self,
        batch: EpisodeBatch,
        place: Place,
        evidence: Evidence | None,
        rng: np.random.Generator,
    ) -> list[list[tuple[int, float]]]:
        """One episode with the learnt policy (see :func:`play_episode`)."""
        return play_episode(batch, place, self.policy(), self.discovery, rng, evidence)

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
        run = self.trained
        if shown_as is not None and shown_as not in self.tasks:
            raise InvalidSpec(f"cannot pretend {shown_as!r}; trained on {', '.join(self.tasks)}")
        task = shown_as or oracle.task_name
        batch = EpisodeBatch(
            [oracle],
            self.rules(),
            1,
            rng,
            observation=self.observation,
            task_ids=[self.tasks.index(task) if task in self.tasks else None],
            n_tasks=len(self.tasks),
        )
        grid = run.batch.shape
        if self.observation == "flat" and batch.shape != grid:
            raise InvalidSpec(
                f"{self.name} was trained on {grid[0]} x {grid[1]} heads "
                f"and cannot act on {oracle.n_layers} x {oracle.n_heads}"
            )
        return batch

    @property
    def trained(self) -> Run:
        """The training run; raises :class:`InvalidSpec` if there was none."""
        if self.learnt is None:
            raise InvalidSpec(
                f"{self.name} has not been trained; call train() with oracles of the training tasks"
            )
        return self.learnt

    def policy(self) -> Policy:
        """The learnt policy."""
        return self.trained.probabilities

    def preference(self, batch: EpisodeBatch) -> np.ndarray:
        """The policy at the start of an episode, ``[n_layers * n_heads]``."""
        episode = batch.episodes[0]
        episode.begin(batch.task_ids[0], 1.0)
        observation, legal = episode.observe(batch.observation), episode.legal()
        return self.policy()(observation[None], legal[None])[0, : episode.n]

    def _shaping(self) -> dict[str, Any]:
        """The settings that shape a training: all but how the learnt policy discovers."""
        names = [f.name for f in fields(self) if f.init and f.compare and f.name != "discovery"]
        groups: dict[str, Any] = {name: getattr(self, name) for name in names}
        return {
            name: asdict(group) if is_dataclass(group) and not isinstance(group, type) else group
            for name, group in groups.items()
        }
