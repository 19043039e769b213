"""EdgePruning for gymnasium, one episode at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np

from circuitbench import InvalidSpec
from circuitbench_agents.environments.edge_episodes import EdgeEpisodes
from circuitbench_agents.environments.edge_rules import EdgePruningRules
from circuitbench_agents.environments.episode_batch import Place

if TYPE_CHECKING:
    from circuitbench import Oracle

Observation = dict[str, np.ndarray]


class EdgePruningEnv(gymnasium.Env[Observation, np.int64]):
    """``circuitbench/EdgePruning-v0``: cut edges while the graph stays faithful.

    After Khadka 2026 (arXiv 2605.26343, second version); see
    :class:`circuitbench_agents.environments.edge_rules.EdgePruningRules` for reward and actions
    and :meth:`circuitbench_agents.environments.edge_rules.EdgeEpisode.observe` for what is seen.
    ``reset`` draws a task and a fresh batch; ``options={"task": k, "batch_seed": s}`` fixes them,
    so that two agents can play the very same episode.

    Args:
        oracles: one per task; their models may differ in size.
        pool: see :class:`EdgeEpisodes`.
        constants: fields of :class:`EdgePruningRules`.

    Raises:
        InvalidSpec: see :class:`EdgeEpisodes` and :class:`EdgePruningRules`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(
        self, oracles: Sequence[Oracle], *, pool: int | None = None, **constants: Any
    ) -> None:
        rules = EdgePruningRules(**constants)
        self.batch = EdgeEpisodes(oracles, rules, 1, self.np_random, pool=pool)
        self.observation_space = self.batch.observation_space
        self.action_space = self.batch.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; see :meth:`step` for the info."""
        super().reset(seed=seed)
        self.batch.rng = self.np_random
        places = [self._place(options)] if options else None
        self.batch.begin([0], places)
        return self._observe()

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take an action; raises :class:`InvalidSpec` after the end of the episode.

        The info has ``action_mask``, ``kept`` (edges left), ``faithfulness`` and ``tau``.
        """
        reward, terminated, truncated = self.batch.advance({0: int(action)})[0]
        observation, info = self._observe()
        return observation, float(reward), terminated, truncated, info

    def action_masks(self) -> np.ndarray:
        """Legal actions ``[n_actions]``, as sb3-contrib asks for them."""
        return self.batch.episode(0).legal()

    def _observe(self) -> tuple[Observation, dict[str, Any]]:
        episode = self.batch.episode(0)
        info = {
            "action_mask": episode.legal(),
            "kept": int(episode.kept.sum()),
            "faithfulness": episode.faithfulness,
            "tau": episode.tau,
        }
        return episode.observe(), info

    def _place(self, options: dict[str, Any]) -> Place:
        unknown = set(options) - {"task", "batch_seed"}
        if unknown:
            raise InvalidSpec(
                f"reset options are task and batch_seed, not {', '.join(sorted(unknown))}"
            )
        n = len(self.batch.oracles)
        task = options.get("task", self.np_random.integers(n))
        if not 0 <= task < n:
            raise InvalidSpec(f"option task must be below {n}, not {task}")
        return Place(int(task), int(options.get("batch_seed", self.np_random.integers(2**31))))
