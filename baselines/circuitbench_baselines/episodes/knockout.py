"""The rules of HeadKnockout: ablations accumulate, and cuts of the circuit are made minimal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuitbench import InvalidSpec
from circuitbench_baselines.episodes.rules import (
    HIT,
    Answer,
    Episode,
    Outcome,
    require_positive,
)


@dataclass(frozen=True)
class KnockoutRules:
    """HeadKnockout: ablations accumulate; an action earns the change of the contrastive reward.

    Once the primary heads are off, their backups show: what a single-head ablation cannot see.
    When ``collapse`` of the clean metric is destroyed, the ablated heads hold a *cut* of the
    circuit. The episode ends there, or with ``cuts`` goes on:

    1. Heads are put back, the first ablated first, as long as it makes no difference: one,
       twice as many at a time after every success, half as many after a failure (group testing,
       Dorfman 1943). What stays ablated is a minimal cut, and every head in it earns what putting
       it back alone would change: all copies of a redundant group are paid alike, not only the
       last one ablated. Meanwhile one action is legal, and it asks one question like any other.
    2. The model is made whole, and the heads of the cut can no longer be ablated: the next cut is
       disjoint, so it lies in another stage of the circuit.

    Args:
        steps: longest episode, in questions; None allows as many as there are heads.
        collapse: the fraction of the clean metric beyond which nothing more can be learned.
        cuts: disjoint minimal cuts to find; 0 ends the episode at the first collapse.
        tolerance: fraction of the clean metric that makes no difference in 1.
        signed: False pays for the size of the change in the task metric beyond the size of the
            change in control loss, so that heads working against the task pay too.
        penalty, scale, bound: as in :class:`circuitbench_baselines.episodes.rules.SearchRules`.
    """

    steps: int | None = 50
    collapse: float = 0.98
    cuts: int = 0
    tolerance: float = 0.05
    signed: bool = True
    penalty: float = -1.0
    scale: float = 5.0
    bound: float = 20.0

    def __post_init__(self) -> None:
        if self.steps is not None:
            require_positive(steps=self.steps)
        require_positive(
            scale=self.scale,
            bound=self.bound,
            collapse=self.collapse,
            tolerance=self.tolerance,
        )
        if self.cuts < 0:
            raise InvalidSpec(f"cuts must be 0 or more, not {self.cuts}")

    def episode(self, shape: tuple[int, int], n_tasks: int) -> Episode:
        """A fresh episode."""
        return KnockoutEpisode(self, shape, n_tasks)


class KnockoutEpisode(Episode):
    """See :class:`KnockoutRules`. Globals: the destroyed fraction, and 1 while heads are put back.

    ``chosen`` marks the heads that cannot be ablated: those that are, and those of earlier cuts.
    """

    n_globals = 2

    def __init__(self, rules: KnockoutRules, shape: tuple[int, int], n_tasks: int) -> None:
        self.rules = rules
        super().__init__(shape, n_tasks, rules.bound)

    def begin(self, task: int | None, clean_metric: float) -> None:
        """Start over with all heads on."""
        super().begin(task, clean_metric)
        self.ablated = np.zeros(self.n, dtype=bool)
        self.doubtful = np.zeros(self.n, dtype=bool)  # ablated heads that may not be needed
        self.since = np.zeros(self.n, dtype=int)  # the step that ablated a head
        self.damage = Answer(0.0, 0.0)  # of the ablated set
        self.spent = np.zeros(self.n, dtype=bool)  # in a cut that was found
        self.cuts, self.group = 0, 1

    @property
    def destroyed(self) -> float:
        """The destroyed fraction of the clean metric."""
        return self.damage.task / self.clean_metric if self.clean_metric else 0.0

    @property
    def collapsed(self) -> bool:
        """Whether the ablated heads hold a cut of the circuit."""
        return self.destroyed >= self.rules.collapse

    def legal(self) -> np.ndarray:
        """Heads that can be ablated; while heads are put back, the one whose turn it is."""
        if not self.doubtful.any():
            return ~self.chosen
        turn = np.zeros(self.n, dtype=bool)
        turn[self._returning()[0]] = True
        return turn

    def question(self, action: int) -> np.ndarray | None:
        """The ablated heads and this one, or without the group that it leads back."""
        if not self.legal()[action]:
            return None
        ablated = self.ablated.copy()
        if self.doubtful.any():
            ablated[self._returning()] = False
        else:
            ablated[action] = True
        return self.without(ablated)

    def settle(self, action: int, answer: Answer | None) -> Outcome:
        """What this head added to the damage, or what putting it back took away."""
        self.steps += 1
        if answer is None:
            reward = self.rules.penalty
        elif self.doubtful.any():
            reward = self._put_back(answer)
        else:
            reward = self._ablate(action, answer)
        done = self.collapsed if self.rules.cuts == 0 else self.cuts == self.rules.cuts
        longest = self.n if self.rules.steps is None else self.rules.steps
        self.over = done or self.steps >= longest or not self.legal().any()
        return Outcome(reward, self.over, False)

    def put_back(self, order: np.ndarray, answer: Answer) -> None:
        """Ablate many heads at once and, where that is a collapse, begin to put them back.

        For searchers, whose step is not one head; ``answer`` is that of all of ``order`` ablated.
        """
        self.damage, self.group = answer, 1
        if not self.collapsed:
            self.damage = Answer(0.0, 0.0)
            return
        self.chosen[order] = self.ablated[order] = self.doubtful[order] = True
        self.since[order] = np.arange(len(order))

    def globals(self) -> np.ndarray:
        """The destroyed fraction, and 1 while heads are put back, ``[2]``."""
        return np.array([self.destroyed, float(self.doubtful.any())])

    def hits(self) -> int:
        """Heads that earned more than :data:`HIT` of the clean metric."""
        return int((self.rules.scale * self.signal > HIT * abs(self.clean_metric)).sum())

    def state(self) -> dict[str, Any]:
        """Everything that changes during an episode, JSON-able and exact."""
        return super().state() | {"damage": list(self.damage)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a :meth:`state`."""
        super().restore({**state, "damage": Answer(*state["damage"])})

    def _returning(self) -> np.ndarray:
        """The doubtful heads whose turn it is, the first ablated first."""
        doubtful = np.flatnonzero(self.doubtful)
        return doubtful[np.argsort(self.since[doubtful])][: self.group]

    def _ablate(self, head: int, answer: Answer) -> float:
        reward = self._worth(self.damage, answer)
        self.damage = answer
        self.chosen[head] = self.ablated[head] = True
        self.since[head], self.signal[head] = self.steps, reward / self.rules.scale
        if self.rules.cuts and self.collapsed:
            self.doubtful, self.group = self.ablated.copy(), 1
            self.doubtful[head] = False  # before it went, the task stood
            self._finish()
        return reward

    def _put_back(self, answer: Answer) -> float:
        heads, reward = self._returning(), 0.0
        change = abs(answer.task - self.damage.task)
        if change <= self.rules.tolerance * abs(self.clean_metric):
            self.ablated[heads] = self.doubtful[heads] = False
            self.group *= 2
            # The task's level stays that of the collapse, so that small changes cannot add up.
            control = answer.task - answer.reward
            self.damage = self.damage._replace(reward=self.damage.task - control)
        elif len(heads) > 1:
            self.group = len(heads) // 2
        else:
            self.doubtful[heads] = False
            reward = self._worth(answer, self.damage)
            self.signal[heads] = reward / self.rules.scale
        self._finish()
        return reward

    def _finish(self) -> None:
        """Count the cut and make the model whole once every head in it is known to matter."""
        if self.doubtful.any():
            return
        self.cuts += 1
        self.chosen &= self.spent | self.ablated
        self.spent |= self.ablated
        self.signal[~self.spent] = 0.0
        self.ablated[:] = False
        self.damage = Answer(0.0, 0.0)

    def _worth(self, before: Answer, after: Answer) -> float:
        """What the heads between two ablated sets, the smaller first, are paid."""
        if self.rules.signed:
            return after.reward - before.reward
        task = after.task - before.task
        control = task - (after.reward - before.reward)  # weighted
        return abs(task) - abs(control)
