"""The gymnasium environments, one episode at a time (the rules: baselines' ``episodes``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np

from circuitbench import InvalidSpec
from circuitbench_agents.environments.episode_batch import EpisodeBatch, Place
from circuitbench_baselines.episodes.knockout import KnockoutRules
from circuitbench_baselines.episodes.rules import (
    Observation,
    PruningRules,
    Rules,
    SearchRules,
)

if TYPE_CHECKING:
    from circuitbench import Oracle


class OracleEnv(gymnasium.Env[np.ndarray, np.int64]):
    """One episode after another on the tasks of the given oracles.

    ``reset`` draws a task and a fresh batch; ``options={"task": k, "batch_seed": s}`` fixes
    them, so that two agents can be compared on the same episode.

    Args:
        oracles: one per task, all on models of one grid.
        observation: ``flat`` or ``tokens``.
        task_ids, n_tasks: as in :class:`.episode_batch.EpisodeBatch`.
        constants: fields of the environment's rules.

    Raises:
        InvalidSpec: see :class:`.episode_batch.EpisodeBatch`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    rules: ClassVar[Callable[..., Rules]]

    def __init__(
        self,
        oracles: Sequence[Oracle],
        *,
        observation: Observation = "flat",
        task_ids: Sequence[int | None] | None = None,
        n_tasks: int | None = None,
        **constants: Any,
    ) -> None:
        self.batch = EpisodeBatch(
            oracles,
            type(self).rules(**constants),
            1,
            self.np_random,
            observation=observation,
            task_ids=task_ids,
            n_tasks=n_tasks,
        )
        self.observation_space = self.batch.observation_space
        self.action_space = self.batch.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; returns the observation and ``{"action_mask": ...}``."""
        super().reset(seed=seed)
        self.batch.rng = self.np_random
        places = None
        if options:
            places = [self._place(options)]
        self.batch.begin([0], places)
        return self._observe()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take an action; raises :class:`InvalidSpec` after the end of the episode."""
        reward, terminated, truncated = self.batch.advance({0: int(action)})[0]
        observation, info = self._observe()
        return observation, float(reward), terminated, truncated, info

    def action_masks(self) -> np.ndarray:
        """Legal actions ``[n_actions]``, as sb3-contrib asks for them."""
        return self.batch.episodes[0].legal()

    def _observe(self) -> tuple[np.ndarray, dict[str, Any]]:
        return self.batch.observe()[0], {"action_mask": self.action_masks()}

    def _place(self, options: dict[str, Any]) -> Place:
        unknown = set(options) - {"task", "batch_seed"}
        if unknown:
            raise InvalidSpec(
                f"reset options are task and batch_seed, not {', '.join(sorted(unknown))}"
            )
        task = options.get("task", self.np_random.integers(len(self.batch.oracles)))
        if not 0 <= task < len(self.batch.oracles):
            raise InvalidSpec(f"option task must be below {len(self.batch.oracles)}, not {task}")
        return Place(int(task), int(options.get("batch_seed", self.np_random.integers(2**31))))


class HeadDiscoveryEnv(OracleEnv):
    """``circuitbench/HeadDiscovery-v0``: MechRL's environment (Khadka 2026, arXiv 2605.26343)."""

    rules = SearchRules


class HeadKnockoutEnv(OracleEnv):
    """``circuitbench/HeadKnockout-v0``: ablations accumulate within an episode."""

    rules = KnockoutRules


class CircuitPruningEnv(OracleEnv):
    """``circuitbench/CircuitPruning-v0``: remove heads while the circuit stays faithful."""

    rules = PruningRules
