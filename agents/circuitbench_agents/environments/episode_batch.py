"""Many episodes at once, answered by one batched oracle call per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium
import numpy as np
import torch

from circuitbench import InvalidSpec, query_together
from circuitbench_baselines.episodes.rules import Answer, Episode, Observation, Outcome, Rules

if TYPE_CHECKING:
    from circuitbench import Batch, Meter, Oracle


class Place(NamedTuple):
    """Where an episode happens: which oracle, and the seed of its fresh batch."""

    oracle: int
    seed: int


class Last(NamedTuple):
    """How an episode stands: its observation, steps taken, and those that showed something."""

    seen: Any
    steps: int
    hits: int


class EpisodeBatch:
    """``n`` episodes side by side, each on a task and a fresh batch of its own.

    Args:
        oracles: one per training task; all on grids of one shape.
        rules: constants of the environment.
        n: number of episodes.
        rng: draws the task and the batch of every new episode.
        observation: ``flat`` or ``tokens``.
        task_ids: which task each oracle is shown to the agent as; None for "unknown". By
            default the oracles are the agent's own training tasks, in order.
        n_tasks: length of the task one-hot; by default the number of oracles.

    Raises:
        InvalidSpec: no oracle, different grids, or a task id out of range.
    """

    def __init__(
        self,
        oracles: Sequence[Oracle],
        rules: Rules,
        n: int,
        rng: np.random.Generator,
        *,
        observation: Observation = "flat",
        task_ids: Sequence[int | None] | None = None,
        n_tasks: int | None = None,
    ) -> None:
        if not oracles:
            raise InvalidSpec("an environment needs at least one oracle")
        if n < 1:
            raise InvalidSpec(f"an environment needs at least one episode, not {n}")
        shapes = {oracle.shape for oracle in oracles}
        if len(shapes) > 1:
            grids = ", ".join(f"{layers} x {heads}" for layers, heads in sorted(shapes))
            raise InvalidSpec(f"one environment needs one grid of heads; these models have {grids}")
        if observation not in ("flat", "tokens"):
            raise InvalidSpec(f"observation must be flat or tokens, not {observation!r}")
        self.oracles, self.rules, self.rng = list(oracles), rules, rng
        self.observation: Observation = observation
        self.task_ids = list(range(len(oracles))) if task_ids is None else list(task_ids)
        self.n_tasks = len(oracles) if n_tasks is None else n_tasks
        if len(self.task_ids) != len(oracles):
            raise InvalidSpec(
                f"{len(oracles)} oracles need as many task ids, not {len(self.task_ids)}"
            )
        if any(task is not None and not 0 <= task < self.n_tasks for task in self.task_ids):
            raise InvalidSpec(f"task ids must be below {self.n_tasks}, not {self.task_ids}")
        self.shape: tuple[int, int] = shapes.pop()
        self.episodes: list[Episode] = [rules.episode(self.shape, self.n_tasks) for _ in range(n)]
        self.places = [Place(0, 0)] * n
        self.batches: list[Batch | None] = [None] * n
        self.opened = [meter.copy() for meter in self.meters]

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Of one episode."""
        bound, shape = self.rules.bound, self.episodes[0].observation_shape(self.observation)
        return gymnasium.spaces.Box(-bound, bound, shape, np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """Of one episode."""
        return gymnasium.spaces.Discrete(self.episodes[0].n_actions)

    @property
    def meters(self) -> list[Meter]:
        """The oracles' meters, each once (they may share them)."""
        return list({id(oracle.meter): oracle.meter for oracle in self.oracles}.values())

    @property
    def queries(self) -> int:
        """Queries counted by the meters."""
        return sum(meter.queries for meter in self.meters)

    def begin(self, index: Sequence[int], places: Sequence[Place] | None = None) -> None:
        """Start the episodes ``index`` anew, at given places or at freshly drawn ones."""
        if places is None:
            places = [
                Place(int(self.rng.integers(len(self.oracles))), int(self.rng.integers(2**31)))
                for _ in index
            ]
        for i, place in zip(index, places, strict=True):
            self._place(i, place)
            batch = self.batches[i]
            clean = float(batch.metric) if batch is not None else 1.0
            self.episodes[i].begin(self.task_ids[place.oracle], clean)
        openings = {i: self.episodes[i].opening() for i in index}
        for i, answer in self._ask(openings).items():
            self.episodes[i].opened(answer)

    def advance(self, actions: Mapping[int, int]) -> dict[int, Outcome]:
        """Take one action in each of some episodes; one oracle call answers them all.

        Raises:
            InvalidSpec: an action outside the action space, or an episode that is over.
        """
        for i, action in actions.items():
            if self.batches[i] is None:
                raise InvalidSpec("step() before the first reset(); call reset() first")
            if self.episodes[i].over:
                raise InvalidSpec("step() after the end of the episode; call reset() first")
            if not 0 <= action < self.episodes[i].n_actions:
                raise InvalidSpec(
                    f"actions are 0 to {self.episodes[i].n_actions - 1}, not {action}"
                )
        answers = self._ask({i: self.episodes[i].question(a) for i, a in actions.items()})
        return {i: self.episodes[i].settle(a, answers.get(i)) for i, a in actions.items()}

    def choose(self, index: int, actions: Sequence[int]) -> list[tuple[int, float]]:
        """Ask about several actions in one episode and take the best of them.

        Best-of-K planning: one query per candidate, the one taken included.

        Returns:
            Every action with what it earns, the one taken first.
        """
        episode = self.episodes[index]
        questions = [(action, episode.question(action)) for action in actions]
        answers = iter(self._query([(index, mask) for _, mask in questions if mask is not None]))
        replies = {a: None if mask is None else next(answers) for a, mask in questions}
        before, earned = episode.state(), {}
        for action in actions:
            earned[action] = episode.settle(action, replies[action]).reward
            episode.restore(before)
        best = max(actions, key=earned.__getitem__)
        episode.settle(best, replies[best])
        return sorted(earned.items(), key=lambda item: item[0] != best)

    def observe(self) -> np.ndarray:
        """Observations ``[n, ...]``, fresh."""
        return np.stack([episode.observe(self.observation) for episode in self.episodes])

    def last(self, i: int) -> Last:
        """How one episode stands."""
        episode = self.episodes[i]
        return Last(episode.observe(self.observation), episode.steps, episode.hits())

    def legal(self) -> np.ndarray:
        """Legal actions ``[n, n_actions]``."""
        return np.stack([episode.legal() for episode in self.episodes])

    def state(self) -> dict[str, Any]:
        """Everything needed to go on exactly from here, JSON-able."""
        return {
            "rng": self.rng.bit_generator.state,
            "places": [list(place) for place in self.places],
            "episodes": [episode.state() for episode in self.episodes],
            "spent": [
                vars(meter.since(opened))
                for meter, opened in zip(self.meters, self.opened, strict=True)
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a :meth:`state`; batches are drawn again from their seeds.

        The meters then show at least what was spent up to there, as if it had been spent here.
        """
        self.rng.bit_generator.state = state["rng"]
        for i, (place, episode) in enumerate(zip(state["places"], state["episodes"], strict=True)):
            self._place(i, Place(*place))
            self.episodes[i].restore(episode)
        for meter, opened, spent in zip(self.meters, self.opened, state["spent"], strict=True):
            meter.at_least({name: getattr(opened, name) + count for name, count in spent.items()})

    def _place(self, i: int, place: Place) -> None:
        self.places[i] = place
        self.batches[i] = self.oracles[place.oracle].draw(place.seed)

    def _ask(self, masks: Mapping[int, np.ndarray | None]) -> dict[int, Answer]:
        asked = [(i, mask) for i, mask in masks.items() if mask is not None]
        return dict(zip((i for i, _ in asked), self._query(asked), strict=True))

    def _query(self, asked: Sequence[tuple[int, np.ndarray]]) -> list[Answer]:
        if not asked:
            return []
        # One call per model; there is only one unless episodes range over several models.
        seats: dict[int, list[int]] = {}
        for k, (i, _) in enumerate(asked):
            engine = self.oracles[self.places[i].oracle].engine
            seats.setdefault(id(engine), []).append(k)
        answers: dict[int, Answer] = {}
        for group in seats.values():
            requests = [self._request(*asked[k]) for k in group]
            control = self.episodes[0].asks_control
            for k, damages in zip(group, query_together(requests, control=control), strict=True):
                reward = damages.reward if control else damages.task
                answers[k] = Answer(float(damages.task[0]), float(reward[0]))
        return [answers[k] for k in range(len(asked))]

    def _request(self, i: int, mask: np.ndarray) -> tuple[Oracle, torch.Tensor, Batch]:
        batch = self.batches[i]
        if batch is None:
            raise InvalidSpec("no batch yet; call reset() first")
        return self.oracles[self.places[i].oracle], torch.from_numpy(mask), batch
