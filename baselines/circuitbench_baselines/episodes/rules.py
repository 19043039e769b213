"""The rules of the three environments: what an action asks of the oracle, what it earns.

An episode is pure bookkeeping. It names the mask it wants evaluated and is told the answer, so
that one environment or a hundred can be served by the same batched oracle call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from circuitbench import InvalidSpec

Observation = Literal["flat", "tokens"]
HIT = 0.02  # share of the clean metric above which a head is said to matter


class Answer(NamedTuple):
    """What the oracle says of one mask: task damage and reward as in ``oracle.Damages``.

    The reward is the task damage alone where control text is not asked about.
    """

    task: float
    reward: float


class Outcome(NamedTuple):
    """What one action led to; ``terminated`` and ``truncated`` as gymnasium means them."""

    reward: float
    terminated: bool
    truncated: bool


class Rules(Protocol):
    """The constants of an environment; makes its episodes."""

    @property
    def bound(self) -> float:
        """Observations stay within plus or minus this."""
        ...

    def episode(self, shape: tuple[int, int], n_tasks: int) -> Episode:
        """A fresh episode on a grid of heads ``(n_layers, n_heads)``."""
        ...


class Episode(ABC):
    """One episode over a grid of heads. Heads are numbered row-major.

    ``chosen [n]`` marks the heads acted on, ``signal [n]`` what was learned of each, in units
    of the observation. ``n_actions`` is ``n`` unless a subclass has more.
    """

    n_globals = 0
    asks_control = True  # whether answers must know the damage on control text

    def __init__(self, shape: tuple[int, int], n_tasks: int, bound: float) -> None:
        self.shape, self.n_tasks, self.bound = shape, n_tasks, bound
        self.n = shape[0] * shape[1]
        self.n_actions = self.n
        self.begin(None, 1.0)

    def begin(self, task: int | None, clean_metric: float) -> None:
        """Start over on a task (None: a task the agent was not trained on)."""
        self.task, self.clean_metric = task, clean_metric
        self.chosen = np.zeros(self.n, dtype=bool)
        self.signal = np.zeros(self.n)
        self.steps, self.over = 0, False

    def opening(self) -> np.ndarray | None:
        """A mask ``[n_layers, n_heads]`` that must be answered before the first action."""
        return None

    def opened(self, answer: Answer) -> None:
        """Take the answer to :meth:`opening`."""
        return

    @abstractmethod
    def question(self, action: int) -> np.ndarray | None:
        """The mask an action needs answered (True = kept), or None where it asks nothing."""

    @abstractmethod
    def settle(self, action: int, answer: Answer | None) -> Outcome:
        """Apply an action with the answer to its question; advances the episode."""

    def legal(self) -> np.ndarray:
        """Which actions may be taken, ``[n_actions]`` bool."""
        return ~self.chosen

    def globals(self) -> np.ndarray:
        """Numbers about the whole episode, ``[n_globals]``."""
        return np.zeros(0)

    def hits(self) -> int:
        """How many heads turned out so far to be what is looked for, to watch a training by."""
        return int((self.signal > 0).sum())

    def observe(self, kind: Observation) -> np.ndarray:
        """The observation, a fresh float32 array.

        ``flat``: task one-hot, chosen, signal, globals, ``[n_tasks + 2 n + n_globals]``; for
        HeadDiscovery this is MechRL's layout. ``tokens``: one row per head, ``[n,
        3 + n_globals + n_tasks]``: chosen, signal, depth in [0, 1], then the
        globals and the task one-hot repeated. A head's number is not in its token.
        """
        one_hot = np.zeros(self.n_tasks)
        if self.task is not None:
            one_hot[self.task] = 1.0
        if kind == "flat":
            parts = (one_hot, self.chosen, self.signal, self.globals())
            values = np.concatenate(parts, dtype=np.float32)
        else:
            depth = np.repeat(np.linspace(0.0, 1.0, self.shape[0]), self.shape[1])
            shared = np.concatenate((self.globals(), one_hot))
            values = np.empty((self.n, 3 + len(shared)), dtype=np.float32)
            values[:, 0], values[:, 1], values[:, 2] = self.chosen, self.signal, depth
            values[:, 3:] = shared
        return np.clip(values, -self.bound, self.bound, out=values)

    def observation_shape(self, kind: Observation) -> tuple[int, ...]:
        """The shape of :meth:`observe`."""
        if kind == "flat":
            return (self.n_tasks + 2 * self.n + self.n_globals,)
        return (self.n, 3 + self.n_globals + self.n_tasks)

    def state(self) -> dict[str, Any]:
        """Everything that changes during an episode, JSON-able and exact."""
        fixed = ("shape", "n_tasks", "bound", "n", "n_actions", "rules", "members")
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
            if name not in fixed
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a :meth:`state`."""
        for name, value in state.items():
            old = getattr(self, name)
            new = np.asarray(value, old.dtype) if isinstance(old, np.ndarray) else value
            setattr(self, name, new)

    def without(self, removed: np.ndarray) -> np.ndarray:
        """The mask ``[n_layers, n_heads]`` that keeps all but ``removed [n]``."""
        return ~removed.reshape(self.shape)


@dataclass(frozen=True)
class SearchRules:
    """HeadDiscovery (Khadka 2026, arXiv 2605.26343): every action ablates one head alone.

    Args:
        steps: length of an episode; no more than there are heads.
        penalty: what picking a head twice earns; it costs a step and asks nothing.
        scale: scores are divided by this in the observation.
        bound: observations are clipped to plus or minus this.
    """

    steps: int = 50
    penalty: float = -1.0
    scale: float = 5.0
    bound: float = 20.0

    def __post_init__(self) -> None:
        require_positive(steps=self.steps, scale=self.scale, bound=self.bound)

    def episode(self, shape: tuple[int, int], n_tasks: int) -> Episode:
        """A fresh episode."""
        return SearchEpisode(self, shape, n_tasks)


class SearchEpisode(Episode):
    """See :class:`SearchRules`. The reward is the head's contrastive reward."""

    def __init__(self, rules: SearchRules, shape: tuple[int, int], n_tasks: int) -> None:
        self.rules = rules
        super().__init__(shape, n_tasks, rules.bound)

    def question(self, action: int) -> np.ndarray | None:
        """The mask without this head, unless it was tried."""
        if self.chosen[action]:
            return None
        alone = np.zeros(self.n, dtype=bool)
        alone[action] = True
        return self.without(alone)

    def settle(self, action: int, answer: Answer | None) -> Outcome:
        """The head's contrastive reward, or the penalty."""
        self.steps += 1
        reward = self.rules.penalty
        if answer is not None:
            reward = answer.reward
            self.chosen[action] = True
            self.signal[action] = reward / self.rules.scale
        # The horizon is part of the task (what is left shows in the tried heads): terminal.
        self.over = self.steps >= self.rules.steps or bool(self.chosen.all())
        return Outcome(reward, self.over, False)

    def hits(self) -> int:
        """Heads that earned more than :data:`HIT` of the clean metric."""
        return int((self.rules.scale * self.signal > HIT * abs(self.clean_metric)).sum())


@dataclass(frozen=True)
class PruningRules:
    """CircuitPruning: start from the whole model, remove heads or groups of heads, or stop.

    The reward is the change of a potential (Ng et al. 1999), so it telescopes and waiting
    earns nothing: ``phi = saving - price * max(0, tau - faithfulness)`` where ``saving`` is
    the removed share of heads and ``faithfulness = (m(kept) - m(none)) / (m(all) - m(none))``
    (Wang et al. 2022, arXiv 2211.00593). The whole model and the empty one cost one query per
    episode. A step limit truncates, it never counts as an end, so it is not a size dial.

    Args:
        tau: the faithfulness that is enough.
        price: cost of a unit of faithfulness below ``tau``.
        groups: ``heads`` removes one head per action; ``layers`` adds one action per layer
            that removes all of it.
        steps: longest episode; None allows as many as there are heads.
        penalty: what an action that removes nothing earns; it costs a step and asks nothing.
        bound: observations are clipped to plus or minus this.
    """

    tau: float = 0.8
    price: float = 3.0
    groups: Literal["heads", "layers"] = "heads"
    steps: int | None = None
    penalty: float = -1.0
    bound: float = 20.0

    def __post_init__(self) -> None:
        require_positive(price=self.price, bound=self.bound, tau=self.tau)
        if self.steps is not None:
            require_positive(steps=self.steps)

    def episode(self, shape: tuple[int, int], n_tasks: int) -> Episode:
        """A fresh episode."""
        return PruningEpisode(self, shape, n_tasks)


class PruningEpisode(Episode):
    """See :class:`PruningRules`. Actions: each head, then each layer (if asked), then stop.

    ``signal`` holds the fall of faithfulness when the head went. Globals: faithfulness and
    the removed share.
    """

    n_globals = 2
    asks_control = False

    def __init__(self, rules: PruningRules, shape: tuple[int, int], n_tasks: int) -> None:
        self.rules = rules
        super().__init__(shape, n_tasks, rules.bound)
        self.members = np.eye(self.n, dtype=bool)
        if rules.groups == "layers":
            rows = np.repeat(np.eye(shape[0], dtype=bool), shape[1], axis=1)
            self.members = np.concatenate((self.members, rows))
        self.n_actions = len(self.members) + 1

    @property
    def stop(self) -> int:
        """The action that ends the episode."""
        return self.n_actions - 1

    def begin(self, task: int | None, clean_metric: float) -> None:
        """Start over from the whole model."""
        super().begin(task, clean_metric)
        self.span, self.faithfulness = 1.0, 1.0

    def opening(self) -> np.ndarray:
        """The empty circuit, which faithfulness is measured from."""
        return self.without(np.ones(self.n, dtype=bool))

    def opened(self, answer: Answer) -> None:
        """Everything removed costs the whole span of faithfulness."""
        self.span = answer.task if abs(answer.task) > 1e-9 else 1.0

    def question(self, action: int) -> np.ndarray | None:
        """What is left after this removal; nothing for stop or an illegal action."""
        if not self.legal()[action] or action == self.stop:
            return None
        return self.without(self.chosen | self.members[action])

    def settle(self, action: int, answer: Answer | None) -> Outcome:
        """The change of the potential."""
        self.steps += 1
        if action == self.stop:
            self.over = True
            return Outcome(0.0, True, False)
        reward = self.rules.penalty
        if answer is not None:
            before = self.potential()
            new = self.members[action] & ~self.chosen
            faithfulness = 1.0 - answer.task / self.span
            self.signal[new] = self.faithfulness - faithfulness
            self.faithfulness = faithfulness
            self.chosen |= new
            reward = self.potential() - before
        terminated = bool(self.chosen.all())
        truncated = not terminated and self.steps >= (self.rules.steps or self.n)
        self.over = terminated or truncated
        return Outcome(reward, terminated, truncated)

    def potential(self) -> float:
        """The potential of the circuit now kept."""
        shortfall = max(0.0, self.rules.tau - self.faithfulness)
        return float(self.chosen.mean()) - self.rules.price * shortfall

    def legal(self) -> np.ndarray:
        """Actions that remove something, and stop."""
        return np.append((self.members & ~self.chosen).any(1), True)

    def globals(self) -> np.ndarray:
        """Faithfulness and removed share, ``[2]``."""
        return np.array([self.faithfulness, self.chosen.mean()])

    def hits(self) -> int:
        """Heads that went without costing more than :data:`HIT` of the faithfulness."""
        return int((self.chosen & (self.signal <= HIT)).sum())


def require_positive(**values: float) -> None:
    """Refuse a constant that is not above zero."""
    for name, value in values.items():
        if not value > 0:
            raise InvalidSpec(f"{name} must be above 0, not {value}")
