"""Many EdgePruning episodes at once, answered by one oracle call per step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from circuitbench import InvalidSpec, query_edges_together
from circuitbench_agents.environments.edge_candidates import Candidates, candidates
from circuitbench_agents.environments.edge_rules import (
    EdgeEpisode,
    EdgePruningRules,
    Levels,
    observation_shapes,
)
from circuitbench_agents.environments.episode_batch import Last, Place
from circuitbench_baselines.episodes.rules import Outcome

if TYPE_CHECKING:
    import torch

    from circuitbench import Batch, Meter, Oracle


Judge = Callable[[Sequence[Candidates]], Sequence[Candidates]]
"""Says of candidates what they are worth: the same with another ``worth`` and ``node_worth``."""


class EdgeEpisodes:
    """``n`` episodes of EdgePruning side by side, each on a task, model and batch of its own.

    What a place says (its candidates, and how faithful all and none of them are) is asked once
    and remembered: episodes that begin again there pay nothing for it.

    Args:
        oracles: one per training task and model; models may differ in size.
        rules: constants of the environment.
        n: number of episodes.
        rng: draws the place of every new episode.
        pool: different batches of each oracle; None draws a fresh one for every episode.
        judge: says of new candidates what they are worth; None leaves them as they are.

    Raises:
        InvalidSpec: no oracle or no episode; a model without edges to ask about.
    """

    observation = "graph"

    def __init__(
        self,
        oracles: Sequence[Oracle],
        rules: EdgePruningRules,
        n: int,
        rng: np.random.Generator,
        *,
        pool: int | None = None,
        judge: Judge | None = None,
    ) -> None:
        if not oracles:
            raise InvalidSpec("an environment needs at least one oracle")
        if n < 1:
            raise InvalidSpec(f"an environment needs at least one episode, not {n}")
        if pool is not None and pool < 1:
            raise InvalidSpec(f"pool must be 1 or more, not {pool}")
        self.oracles, self.rules, self.rng, self.pool = list(oracles), rules, rng, pool
        self.judge = judge
        self.n_nodes = max(len(oracle.edges.graph.senders) for oracle in oracles)
        self.episodes: list[EdgeEpisode | None] = [None] * n
        self.places = [Place(0, 0)] * n
        self._known: dict[Place, tuple[Candidates, Levels]] = {}
        self.opened = [meter.copy() for meter in self.meters]

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def observation_space(self) -> gymnasium.spaces.Dict:
        """Of one episode."""
        shapes, bound = observation_shapes(self.rules, self.n_nodes), self.rules.bound
        box = gymnasium.spaces.Box
        return gymnasium.spaces.Dict(
            {
                name: box(-1, self.n_nodes, shape, np.float32)
                if name == "ends"
                else box(-bound, bound, shape, np.float32)
                for name, shape in shapes.items()
            }
        )

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """Of one episode: cut a candidate, cut a group, kill a node, stop."""
        return gymnasium.spaces.Discrete(self.rules.n_actions(self.n_nodes))

    @property
    def meters(self) -> list[Meter]:
        """The oracles' meters, each once (they may share them)."""
        return list({id(oracle.meter): oracle.meter for oracle in self.oracles}.values())

    @property
    def queries(self) -> int:
        """Queries counted by the meters."""
        return sum(meter.queries for meter in self.meters)

    def episode(self, i: int) -> EdgeEpisode:
        """The ``i``-th; raises :class:`InvalidSpec` before it has begun."""
        episode = self.episodes[i]
        if episode is None:
            raise InvalidSpec("step() before the first reset(); call reset() first")
        return episode

    def begin(self, index: Sequence[int], places: Sequence[Place] | None = None) -> None:
        """Start the episodes ``index`` anew, at given places or at freshly drawn ones."""
        if places is None:
            seeds = 2**31 if self.pool is None else self.pool
            places = [
                Place(int(self.rng.integers(len(self.oracles))), int(self.rng.integers(seeds)))
                for _ in index
            ]
        self.survey(places)
        for i, place in zip(index, places, strict=True):
            found, levels = self._known[place]
            episode = EdgeEpisode(self.rules, found, self.n_nodes)
            episode.open(levels)
            self.episodes[i], self.places[i] = episode, place
        if self.pool is None:  # nobody returns to a fresh batch but who stands on it
            self._known = {
                place: self._known[place]
                for place in {*self.places, *places}
                if place in self._known
            }

    def advance(self, actions: Mapping[int, int]) -> dict[int, Outcome]:
        """Take one action in each of some episodes; one oracle call answers them all.

        Raises:
            InvalidSpec: an action outside the action space, or an episode that is over.
        """
        cuts: dict[int, np.ndarray | None] = {}
        for i, action in actions.items():
            episode = self._running(i)
            if not 0 <= action < episode.n_actions:
                raise InvalidSpec(f"actions are 0 to {episode.n_actions - 1}, not {action}")
            cuts[i] = None if action == episode.stop else episode.cut(action)
        return self.cut(cuts)

    def cut(self, cuts: Mapping[int, np.ndarray | None]) -> dict[int, Outcome]:
        """Cut any candidates ``[k]`` in each of some episodes (None stops); one oracle call.

        Raises :class:`InvalidSpec` for an episode that is over.
        """
        graphs = {
            i: None if cut is None else self._running(i).after(cut) for i, cut in cuts.items()
        }
        asked = [
            (i, graph)
            for i, graph in graphs.items()
            if graph is not None and (graph != self.episode(i).kept).any()
        ]
        answers = self._ask([(self.episode(i).found, graph) for i, graph in asked])
        kl = dict(zip((i for i, _ in asked), answers, strict=True))
        return {i: self.episode(i).settle(graph, kl.get(i)) for i, graph in graphs.items()}

    def potentials(self, options: Sequence[tuple[int, int]]) -> list[float]:
        """What the potential would be after an action ``(episode, action)``, without taking it.

        One query each, in one call; stopping and cutting nothing ask nothing.
        """
        return [
            self._worth(i, *seen) for (i, _), seen in zip(options, self._look(options), strict=True)
        ]

    def choose(self, options: Sequence[tuple[int, int]]) -> dict[int, int]:
        """Look at several actions of each of some episodes, and take the best of each.

        Best-of-K planning (Khadka 2026, arXiv 2605.26343): one query for every option, the one
        taken included; of equals the later action is taken.

        Returns:
            What was taken in each.
        """
        best: dict[int, tuple[float, int]] = {}
        known = dict(zip(options, self._look(options), strict=True))
        for i, action in options:
            worth = self._worth(i, *known[i, action])
            best[i] = max(best.get(i, (-np.inf, 0)), (worth, action))
        for i, (_, action) in best.items():
            stops = action == self.episode(i).stop
            graph, kl = known[i, action]
            self.episode(i).settle(None if stops else graph, kl)
        return {i: action for i, (_, action) in best.items()}

    def _look(self, options: Sequence[tuple[int, int]]) -> list[tuple[np.ndarray, float | None]]:
        """The graph after each action, and its divergence; None where it stays what it was."""
        graphs = []
        for i, action in options:
            episode = self._running(i)
            stays = action == episode.stop
            graphs.append(episode.kept if stays else episode.after(episode.cut(action)))
        asked = [k for k, (i, _) in enumerate(options) if (graphs[k] != self.episode(i).kept).any()]
        answers = self._ask([(self.episode(options[k][0]).found, graphs[k]) for k in asked])
        known = dict(zip(asked, answers, strict=True))
        return [(graph, known.get(k)) for k, graph in enumerate(graphs)]

    def _worth(self, i: int, graph: np.ndarray, kl: float | None) -> float:
        """The potential of what :meth:`_look` saw."""
        episode = self.episode(i)
        return episode.potential if kl is None else episode.potential_of(graph, kl)

    def levels(self, place: Place) -> Levels:
        """How faithful all candidates and none of them are at a place that was surveyed."""
        return self._known[place][1]

    def know(self, place: Place, found: Candidates, levels: Levels) -> None:
        """Take over what was asked about a place before."""
        (judged,) = (found,) if self.judge is None else self.judge([found])
        self._known[place] = judged, levels

    def judge_again(self, judge: Judge) -> None:
        """From the next episodes on, let ``judge`` say what candidates are worth."""
        self.judge = judge
        judged = judge([found for found, _ in self._known.values()])
        levels = [levels for _, levels in self._known.values()]
        self._known = dict(zip(self._known, zip(judged, levels, strict=True), strict=True))

    def observe(self) -> dict[str, np.ndarray]:
        """Observations, each ``[n, ...]``, fresh."""
        seen = [self.episode(i).observe() for i in range(len(self))]
        return {name: np.stack([one[name] for one in seen]) for name in seen[0]}

    def last(self, i: int) -> Last:
        """How one episode stands."""
        return Last(self.episode(i).observe(), self.episode(i).steps, self.episode(i).hits)

    def legal(self) -> np.ndarray:
        """Legal actions ``[n, n_actions]``."""
        return np.stack([self.episode(i).legal() for i in range(len(self))])

    def state(self) -> dict[str, Any]:
        """Everything needed to go on exactly from here, JSON-able."""
        return {
            "rng": self.rng.bit_generator.state,
            "places": [list(place) for place in self.places],
            "episodes": [self.episode(i).state() for i in range(len(self))],
            "spent": [
                vars(meter.since(opened))
                for meter, opened in zip(self.meters, self.opened, strict=True)
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a :meth:`state`; what the places say is asked again.

        The meters then show at least what was spent up to there, as if it had been spent here.
        """
        self.begin(range(len(self)), [Place(*place) for place in state["places"]])
        for i, episode in enumerate(state["episodes"]):
            self.episode(i).restore(episode)
        self.rng.bit_generator.state = state["rng"]
        for meter, opened, spent in zip(self.meters, self.opened, state["spent"], strict=True):
            meter.at_least({name: getattr(opened, name) + count for name, count in spent.items()})

    def _running(self, i: int) -> EdgeEpisode:
        episode = self.episode(i)
        if episode.over:
            raise InvalidSpec("step() after the end of the episode; call reset() first")
        return episode

    def survey(self, places: Sequence[Place]) -> list[Candidates]:
        """The candidates of places; asks what is not known of them yet.

        That is the attributions and probes, and how faithful all candidates and none of them are.
        """
        rules = self.rules
        new = [place for place in dict.fromkeys(places) if place not in self._known]
        found = []
        for place in new:
            oracle = self.oracles[place.oracle]
            batch = oracle.draw(place.seed)
            found.append(
                candidates(
                    oracle,
                    batch,
                    rules.candidates,
                    rules.attributions,
                    rules.ablation,
                    rules.probes,
                )
            )
        if self.judge is not None and found:
            found = list(self.judge(found))
        asked = [(one, graph) for one in found for graph in _all_and_none(one)]
        divergences = iter(self._ask(asked))
        for place, one in zip(new, found, strict=True):
            all_, none = next(divergences), next(divergences)
            span = none if none > 1e-9 else 1.0
            self._known[place] = one, Levels(none, 1.0 - all_ / span)
        return [self._known[place][0] for place in places]

    def _ask(self, asked: Sequence[tuple[Candidates, np.ndarray]]) -> list[float]:
        """KL divergences of graphs, in one call."""
        requests: list[tuple[Any, torch.Tensor, Batch]] = [
            (one.oracle.edges, one.mask(graph), one.batch) for one, graph in asked
        ]
        answers = query_edges_together(requests, ablation=self.rules.ablation, kl=True)
        return [_divergence(answer.kl) for answer in answers]


def _all_and_none(found: Candidates) -> tuple[np.ndarray, np.ndarray]:
    everything = np.ones(len(found), bool)
    return found.alive(everything), ~everything


def _divergence(kl: torch.Tensor | None) -> float:
    if kl is None:  # the oracle answers what it was asked
        raise RuntimeError("the oracle returned no KL divergence")
    return float(kl[0])
