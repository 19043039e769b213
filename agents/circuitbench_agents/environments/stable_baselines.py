"""Episodes side by side as stable-baselines3 wants to see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from circuitbench_agents.environments.episode_batch import Last, Place
from circuitbench_baselines.episodes.rules import Outcome


class Episodes(Protocol):
    """``n`` episodes side by side: of heads :class:`EpisodeBatch`, of edges :class:`EdgeEpisodes`.

    Observations are arrays ``[n, ...]``, or several by name.
    """

    @property
    def observation_space(self) -> gymnasium.Space[Any]:
        """Of one episode."""
        ...

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """Of one episode."""
        ...

    @property
    def queries(self) -> int:
        """Queries counted by the oracles' meters."""
        ...

    def __len__(self) -> int: ...

    def begin(self, index: Sequence[int], places: Sequence[Place] | None = None) -> None:
        """Start some anew."""
        ...

    def advance(self, actions: Mapping[int, int]) -> dict[int, Outcome]:
        """Take one action in each of some."""
        ...

    def observe(self) -> Any:
        """Of all, each ``[n, ...]``."""
        ...

    def last(self, i: int) -> Last:
        """How one stands."""
        ...

    def legal(self) -> np.ndarray:
        """Legal actions ``[n, n_actions]``."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything needed to go on exactly from here, JSON-able."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a :meth:`state`."""
        ...


class OracleVecEnv(VecEnv):
    """:class:`Episodes` for stable-baselines3, with ``action_masks``.

    Finished episodes restart at once; their last observation is in the info dict under
    ``terminal_observation``, and their return, length and hits under ``episode``.
    """

    def __init__(self, batch: Episodes) -> None:
        self.batch = batch
        self.returns = np.zeros(len(batch))
        self.actions: dict[int, int] = {}
        super().__init__(len(batch), batch.observation_space, batch.action_space)

    def reset(self) -> Any:
        """Start all episodes anew."""
        self.returns[:] = 0.0
        self.batch.begin(range(self.num_envs))
        return self.batch.observe()

    def step_async(self, actions: np.ndarray) -> None:
        """Remember what to do."""
        self.actions = {i: int(action) for i, action in enumerate(actions)}

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Do it: observations, rewards, dones, infos."""
        outcomes = self.batch.advance(self.actions)
        rewards = np.array([outcomes[i].reward for i in range(self.num_envs)], dtype=np.float32)
        self.returns += rewards
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        finished = [i for i, outcome in outcomes.items() if outcome.terminated or outcome.truncated]
        for i in finished:
            last = self.batch.last(i)
            infos[i] = {
                "terminal_observation": last.seen,
                "TimeLimit.truncated": outcomes[i].truncated and not outcomes[i].terminated,
                "episode": {"r": float(self.returns[i]), "l": last.steps, "hits": last.hits},
            }
            self.returns[i] = 0.0
        if finished:
            self.batch.begin(finished)
        dones = np.zeros(self.num_envs, dtype=bool)
        dones[finished] = True
        return self.batch.observe(), rewards, dones, infos

    def action_masks(self) -> np.ndarray:
        """Legal actions ``[n, n_actions]``."""
        return self.batch.legal()

    def close(self) -> None:
        """Nothing to close."""

    def has_attr(self, attr_name: str) -> bool:
        """Whether :meth:`get_attr` would answer."""
        return attr_name in ("action_masks", "render_mode")

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Episodes have no attributes of their own but ``render_mode`` (none)."""
        if attr_name != "render_mode":
            raise AttributeError(attr_name)
        return [None] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refused: the rules are fixed at construction."""
        raise AttributeError(f"{attr_name} cannot be set; the rules are fixed at construction")

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Answers ``action_masks`` for each episode."""
        if method_name != "action_masks":
            raise AttributeError(method_name)
        legal = self.batch.legal()
        return [legal[i] for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """No episode is wrapped."""
        return [False] * len(list(self._get_indices(indices)))
