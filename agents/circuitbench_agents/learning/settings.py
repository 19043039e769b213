"""The settings that all learners share; each of their defaults stands here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from circuitbench import Curriculum, InvalidSpec
from circuitbench_agents.learning.rollouts import Acting


@dataclass(frozen=True)
class DiscoverySettings(Acting):
    """How a learnt policy discovers: how it acts (see :class:`Acting`), and what it commits to.

    Args:
        episodes: episodes played (fewer if the budget is smaller).
        threshold: commits to heads above this fraction of the clean metric.
    """

    episodes: int = 3
    threshold: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least_1(self, "episodes")


@dataclass(frozen=True)
class TrainingSettings:
    """What a policy is trained on (see :class:`Curriculum`), and for how long.

    Args:
        tasks, pool: as in :class:`Curriculum`.
        total_steps: environment steps, over all episodes that run side by side.
        n_envs: episodes side by side.
    """

    tasks: tuple[str, ...] = ()
    pool: int = 64
    total_steps: int = 40_000
    n_envs: int = 8

    def __post_init__(self) -> None:
        require_at_least_1(self, "pool", "total_steps", "n_envs")

    @property
    def curriculum(self) -> Curriculum:
        """What the training oracles are to be."""
        return Curriculum(self.tasks, self.pool)


def require_at_least_1(settings: Any, *names: str) -> None:
    """Refuse settings that must be 1 or more and are not; raises :class:`InvalidSpec`."""
    for name in names:
        if not getattr(settings, name) >= 1:
            raise InvalidSpec(f"{name} must be 1 or more, not {getattr(settings, name)}")


def require_above_0(settings: Any, *names: str) -> None:
    """Refuse settings that must be above 0 and are not; raises :class:`InvalidSpec`."""
    for name in names:
        if not getattr(settings, name) > 0:
            raise InvalidSpec(f"{name} must be above 0, not {getattr(settings, name)}")


def require_share(settings: Any, *names: str) -> None:
    """Refuse settings outside 0 to 1; raises :class:`InvalidSpec`."""
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise InvalidSpec(f"{name} must lie between 0 and 1, not {getattr(settings, name)}")
