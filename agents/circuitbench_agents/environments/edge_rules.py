"""EdgePruning's rules: what an action cuts, what it earns, when an episode ends.

After MechRL's second version (Khadka 2026, arXiv 2605.26343): from candidate edges to a small
faithful graph. An episode is bookkeeping; the oracle is asked by
:class:`circuitbench_agents.environments.edge_episodes.EdgeEpisodes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from circuitbench import AblationName, InvalidSpec
from circuitbench_agents.environments.edge_candidates import (
    Attribution,
    Candidates,
    Probe,
    edge_features,
    node_features,
)
from circuitbench_baselines.episodes.rules import Outcome, require_positive

LOWEST_TAU, HIGHEST_TAU = 0.5, 0.98
STATE = 3  # features of an edge that change as edges are cut, after those of the candidates
STATE_NODE = 6
N_GLOBALS = 7


@dataclass(frozen=True)
class EdgePruningRules:
    """The constants of EdgePruning.

    The reward is the change of ``phi = minimality - price * max(0, tau - faithfulness)`` with
    ``minimality = 1 - kept / candidates`` and ``faithfulness = 1 - KL(circuit) / KL(all
    corrupted)``, the divergences from the intact model. So rewards telescope: an episode earns
    its last potential less its first. Edges on no path from the embedding to the logits are dead;
    they go at once and unasked, at the start and after every cut, and count as cut.

    Args:
        candidates: the edges an episode starts from, the strongest by the first of
            ``attributions``; 3,000 of GPT-2's 32,491 there.
        attributions: what is known of every edge at the start; the first chooses.
        probes: what else is known of every head.
        batches: sizes of a cut. One edge is an action of its own for every edge; a larger cut
            takes those worth least of what is left, see :class:`Candidates`.
        tau: the faithfulness that is enough; None takes that of all candidates less ``margin``,
            within 0.5 and 0.98, for every episode.
        margin: see ``tau``.
        price: of a unit of faithfulness below ``tau``.
        steps: longest episode; its end truncates.
        penalty: what an action that cuts nothing earns; it costs a step and asks nothing.
        ablation: what a cut edge carries.
        bound: observations are clipped to plus or minus this.
    """

    candidates: int = 300
    attributions: tuple[Attribution, ...] = ("eap-ig", "eap", "eap-ig-kl")
    probes: tuple[Probe, ...] = ()
    batches: tuple[int, ...] = (1, 3, 10, 30, 100)
    tau: float | None = None
    margin: float = 0.05
    price: float = 3.0
    steps: int = 150
    penalty: float = -1.0
    ablation: AblationName = "resample"
    bound: float = 20.0

    def __post_init__(self) -> None:
        require_positive(
            candidates=self.candidates, price=self.price, steps=self.steps, bound=self.bound
        )
        if self.tau is not None:
            require_positive(tau=self.tau)
        if self.margin < 0:
            raise InvalidSpec(f"margin must be 0 or more, not {self.margin}")
        if not self.attributions:
            raise InvalidSpec("name at least one attribution; the first chooses the candidates")
        sizes = self.batches
        if not sizes or min(sizes) < 1 or list(sizes) != sorted(set(sizes)):
            raise InvalidSpec(f"batches must be ascending and at least 1, not {sizes}")

    @property
    def groups(self) -> tuple[int, ...]:
        """Sizes of the cuts that are one action each, all above one edge."""
        return tuple(size for size in self.batches if size > 1)

    def tau_for(self, ceiling: float) -> float:
        """``tau`` of an episode whose candidates all together are so faithful."""
        if self.tau is not None:
            return self.tau
        return float(np.clip(ceiling - self.margin, LOWEST_TAU, HIGHEST_TAU))

    def n_actions(self, n_nodes: int) -> int:
        """Each candidate, each group, each node but the embedding, and stop."""
        return self.candidates + len(self.groups) + n_nodes - 1 + 1


class Levels(NamedTuple):
    """What an episode must know before its first action.

    Args:
        corrupted: KL of the graph without any edge.
        ceiling: faithfulness of all candidates.
    """

    corrupted: float
    ceiling: float


class EdgeEpisode:
    """One episode on some candidates.

    Attributes:
        kept: ``[k]`` bool, the graph.
        faithfulness, tau: of that graph, and what is enough.
        fall: ``[k]`` by how much faithfulness fell when an edge went, shared among all that went
            with it.
        steps, hits, over: how far it is, and how many steps raised the potential.
    """

    def __init__(self, rules: EdgePruningRules, found: Candidates, n_nodes: int) -> None:
        self.rules, self.found, self.n_nodes = rules, found, n_nodes
        self.n_actions = rules.n_actions(n_nodes)
        self.kept = found.alive(np.ones(len(found), bool))
        self.n = max(1, int(self.kept.sum()))
        self.fall = np.zeros(len(found))
        self.faithfulness = self.tau = 1.0
        self.corrupted = 1.0
        self.last = 0.0
        self.steps, self.hits, self.over = 0, 0, False

    def open(self, levels: Levels) -> None:
        """Begin with what the candidates and the empty graph are worth."""
        self.corrupted = levels.corrupted if levels.corrupted > 1e-9 else 1.0
        self.faithfulness = levels.ceiling
        self.tau = self.rules.tau_for(levels.ceiling)
        self.over = not self.kept.any()

    @property
    def minimality(self) -> float:
        """The share of the first graph's edges that is gone."""
        return 1.0 - float(self.kept.sum()) / self.n

    @property
    def potential(self) -> float:
        """Of the graph now kept."""
        return self._potential(self.kept, self.faithfulness)

    def potential_of(self, graph: np.ndarray, kl: float) -> float:
        """Of a graph ``[k]`` whose divergence is known."""
        return self._potential(graph, 1.0 - kl / self.corrupted)

    def _potential(self, graph: np.ndarray, faithfulness: float) -> float:
        short = max(0.0, self.tau - faithfulness)
        return 1.0 - float(graph.sum()) / self.n - self.rules.price * short

    @property
    def stop(self) -> int:
        """The action that ends the episode."""
        return self.n_actions - 1

    def cut(self, action: int) -> np.ndarray:
        """The candidates ``[k]`` that an action cuts, of those that are left."""
        gone = np.zeros(len(self.found), bool)
        groups = self.rules.candidates
        nodes = groups + len(self.rules.groups)
        if action < groups:
            if action < len(gone):
                gone[action] = True
        elif action < nodes:
            left = np.flatnonzero(self.kept)
            size = self.rules.groups[action - groups]
            if size <= len(left):
                worst = np.argsort(self.found.worth[left], kind="stable")
                gone[left[worst[:size]]] = True
        elif action < self.stop:
            gone[self.found.ends[:, 0] == action - nodes + 1] = True
        return np.asarray(gone & self.kept)

    def after(self, cut: np.ndarray) -> np.ndarray:
        """The graph ``[k]`` that a cut leaves, what is dead then removed too."""
        return self.found.alive(self.kept & ~cut)

    def settle(self, graph: np.ndarray | None, kl: float | None) -> Outcome:
        """Go on with a graph ``[k]`` whose divergence is known; None of both stops.

        A graph that is what it was earns the penalty.
        """
        self.steps += 1
        if graph is None:
            self.over = True
            return Outcome(0.0, True, False)
        reward = self.rules.penalty
        gone = self.kept & ~graph
        if gone.any():
            assert kl is not None  # it was asked about
            before = self.potential
            faithfulness = 1.0 - kl / self.corrupted
            self.last = self.faithfulness - faithfulness
            self.fall[gone] = self.last / gone.sum()
            self.kept, self.faithfulness = graph, faithfulness
            reward = self.potential - before
            self.hits += int(reward > 0)
        terminated = not self.kept.any()
        truncated = not terminated and self.steps >= self.rules.steps
        self.over = terminated or truncated
        return Outcome(reward, terminated, truncated)

    def legal(self) -> np.ndarray:
        """Which actions cut something, and stop, ``[n_actions]`` bool."""
        left = int(self.kept.sum())
        legal = np.zeros(self.n_actions, bool)
        legal[: len(self.kept)] = self.kept
        groups = self.rules.candidates
        nodes = groups + len(self.rules.groups)
        legal[groups:nodes] = [size <= left for size in self.rules.groups]
        senders = np.bincount(self.found.ends[self.kept, 0], minlength=self.found.n_nodes)
        legal[nodes : nodes + len(senders) - 1] = senders[1:] > 0
        legal[self.stop] = True
        return legal

    def observe(self) -> dict[str, np.ndarray]:
        """What a player sees, fresh float32 arrays; padding is zero.

        ``edges [candidates, features]``: the candidates' own, what it is worth, what was lost as
        it went, whether it is kept.
        ``nodes [n_nodes, features]``: the nodes' own, what it is worth, the shares of its edges
        out and in that are kept, what was lost as edges out of it went, whether any is left,
        whether it is a node.
        ``ends [candidates, 2]``: each edge's sender and the node that hears, -1 where padded; the
        logits are ``n_nodes``.
        ``globals [7]``: faithfulness, minimality, tau, their difference, the last fall, the share
        of steps and of candidate edges used.
        """
        rules, found = self.rules, self.found
        k, (source, target) = len(found), found.ends.T
        edges = np.zeros((rules.candidates, found.features.shape[1] + STATE), np.float32)
        edges[:k, :-STATE] = found.features
        edges[:k, -3] = found.worth
        edges[:k, -2] = self.fall * self.n / 10
        edges[:k, -1] = self.kept
        width = found.node_features.shape[1]
        nodes = np.zeros((self.n_nodes, width + STATE_NODE), np.float32)
        n = found.n_nodes
        nodes[:n, :width] = found.node_features
        first = np.maximum(np.bincount(source, minlength=n), 1)
        out = np.bincount(source[self.kept], minlength=n)
        into = np.bincount(target[self.kept], minlength=n + 1)[:n]
        hears = np.maximum(np.bincount(target, minlength=n + 1)[:n], 1)
        nodes[:n, width] = found.node_worth
        nodes[:n, width + 1] = out / first
        nodes[:n, width + 2] = into / hears
        nodes[:n, width + 3] = np.bincount(source, self.fall, minlength=n)
        nodes[:n, width + 4] = out > 0
        nodes[:n, width + 5] = 1.0
        ends = np.full((rules.candidates, 2), -1.0, np.float32)
        ends[:k, 0] = source
        ends[:k, 1] = np.where(target == n, self.n_nodes, target)
        above = self.faithfulness - self.tau
        globals_ = np.array(
            [
                self.faithfulness,
                self.minimality,
                self.tau,
                above,
                self.last,
                self.steps / rules.steps,
                k / rules.candidates,
            ],
            np.float32,
        )
        bound = rules.bound
        return {
            "edges": np.clip(edges, -bound, bound),
            "nodes": np.clip(nodes, -bound, bound),
            "ends": ends,
            "globals": np.clip(globals_, -bound, bound),
        }

    def state(self) -> dict[str, Any]:
        """Everything that changes during an episode, JSON-able and exact."""
        return {
            "kept": self.kept.tolist(),
            "fall": self.fall.tolist(),
            "faithfulness": self.faithfulness,
            "tau": self.tau,
            "corrupted": self.corrupted,
            "last": self.last,
            "steps": self.steps,
            "hits": self.hits,
            "over": self.over,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a :meth:`state`."""
        for name, value in state.items():
            setattr(self, name, np.asarray(value) if isinstance(value, list) else value)


def observation_shapes(rules: EdgePruningRules, n_nodes: int) -> dict[str, tuple[int, ...]]:
    """The shapes of :meth:`EdgeEpisode.observe`, for models of up to so many nodes."""
    a = len(rules.attributions)
    return {
        "edges": (rules.candidates, edge_features(a) + STATE),
        "nodes": (n_nodes, node_features(a, rules.probes) + STATE_NODE),
        "ends": (rules.candidates, 2),
        "globals": (N_GLOBALS,),
    }
