"""A circuit as files hold it, whatever tool wrote them: one neutral value in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from circuitbench.core.edges import Graph, graph_of
from circuitbench.core.errors import InvalidCircuitFile

Ranking = Literal["absolute", "signed"]
RANKINGS: tuple[Ranking, ...] = get_args(Ranking)

# A model of 8 billion parameters (32 x 32) has 1.6 million edges; beyond this a file is hostile.
MOST_EDGES = 5_000_000
MOST_NEURONS = 50_000_000


@dataclass(frozen=True)
class Config:
    """What a circuit file says of its model.

    Args:
        n_layers, n_heads: of the model; of a grouped-query model the query heads.
        mlps: whether layers have an MLP. Heads come before their layer's MLP.
        d_model: width of the residual stream; None where the file does not say.

    Raises:
        InvalidCircuitFile: a number that is not positive, or a model beyond :data:`MOST_EDGES`
            edges or :data:`MOST_NEURONS` neurons.
    """

    n_layers: int
    n_heads: int
    mlps: bool = True
    d_model: int | None = None

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "d_model"):
            value = getattr(self, name)
            if name == "d_model" and value is None:
                continue
            if type(value) is not int or value < 1:
                raise InvalidCircuitFile(f"{name} must be a positive whole number, not {value!r}")
        if type(self.mlps) is not bool:
            raise InvalidCircuitFile(f"mlps must be true or false, not {self.mlps!r}")
        if self.n_edges > MOST_EDGES:
            raise InvalidCircuitFile(
                f"a {self.n_layers} x {self.n_heads} model has {self.n_edges:,} edges; "
                f"at most {MOST_EDGES:,} are read"
            )
        if self.d_model is not None and self.n_nodes * self.d_model > MOST_NEURONS:
            raise InvalidCircuitFile(
                f"{self.n_nodes:,} nodes of width {self.d_model:,} have more than the "
                f"{MOST_NEURONS:,} neurons that are read"
            )

    @property
    def n_nodes(self) -> int:
        """Senders: the embedding, all heads, all MLPs."""
        return 1 + self.n_layers * (self.n_heads + self.mlps)

    @property
    def n_edges(self) -> int:
        """Edges of the residual graph."""
        layers, heads, mlps = self.n_layers, self.n_heads, int(self.mlps)
        before = layers + (heads + mlps) * layers * (layers - 1) // 2  # senders before each layer
        return 3 * heads * before + mlps * (before + layers * heads) + self.n_nodes

    @property
    def graph(self) -> Graph:
        """Names of all nodes and edges, in the order of a :class:`CircuitFile`'s arrays."""
        return graph_of(self.n_layers, self.n_heads, self.mlps)

    @property
    def head_places(self) -> np.ndarray:
        """Where heads are among the nodes, ``[n_layers, n_heads]`` long."""
        first = 1 + np.arange(self.n_layers) * (self.n_heads + self.mlps)
        return first[:, None] + np.arange(self.n_heads)

    @property
    def edge_ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every edge: where its receiver is among the receivers, its sender among the nodes."""
        receiver, sender = np.array(self.graph.pairs, dtype=np.int64).T
        return receiver, sender

    def __str__(self) -> str:
        return f"{self.n_layers} x {self.n_heads}, {'with' if self.mlps else 'without'} MLPs"


def node_of(receiver: str) -> str:
    """Whose input a receiver is: ``"2.3"`` for ``"2.3.q"``; an MLP and the logits are their own."""
    return receiver.rsplit(".", 1)[0] if receiver[-1] in "qkv" else receiver


# Array of a circuit file -> is it of edges or nodes, truth values or scores, one per neuron?
_ARRAYS: dict[str, tuple[Literal["edges", "nodes"], type, bool]] = {
    "edge_scores": ("edges", float, False),
    "edges_in": ("edges", bool, False),
    "node_scores": ("nodes", float, False),
    "nodes_in": ("nodes", bool, False),
    "neuron_scores": ("nodes", float, True),
    "neurons_in": ("nodes", bool, True),
}
PARTS = tuple(_ARRAYS)


@dataclass(frozen=True, eq=False)
class CircuitFile:
    """Scores and membership of edges and nodes; what a file does not say is None.

    Edges are in the order of ``config.graph.edges``, nodes in that of ``config.graph.senders``
    (the logits, always there, are no node). Arrays are kept as float64 and bool.

    Args:
        config: of the model.
        edge_scores: ``[n_edges]``, finite, signed.
        edges_in: ``[n_edges]`` bool, the edges of the circuit.
        node_scores: ``[n_nodes]``, NaN where a node was not scored (it then stays in for good);
            NaN throughout is the same as None.
        nodes_in: ``[n_nodes]`` bool.
        neuron_scores, neurons_in: the same per neuron of a node's output, ``[n_nodes, d_model]``.
        ranking: what makes a score high: its absolute value, as the tools assume, or its value
            as it is (``signed``), as in our records.

    Raises:
        InvalidCircuitFile: names the array at fault: a wrong shape, a score that is not a
            number, nothing at all.
    """

    config: Config
    edge_scores: np.ndarray | None = None
    edges_in: np.ndarray | None = None
    node_scores: np.ndarray | None = None
    nodes_in: np.ndarray | None = None
    neuron_scores: np.ndarray | None = None
    neurons_in: np.ndarray | None = None
    ranking: Ranking = "absolute"

    def __post_init__(self) -> None:
        if self.ranking not in RANKINGS:
            raise InvalidCircuitFile(f"ranking must be absolute or signed, not {self.ranking!r}")
        for name in ("node_scores", "neuron_scores"):
            scores = getattr(self, name)
            if scores is not None and np.isnan(np.asarray(scores, dtype=float)).all():
                object.__setattr__(self, name, None)
        if not self.parts:
            raise InvalidCircuitFile("holds neither scores nor membership of any edge or node")
        for name in self.parts:
            of, kind, per_neuron = _ARRAYS[name]
            array: np.ndarray = np.asarray(getattr(self, name), dtype=kind)
            shape: tuple[int, ...] = (getattr(self.config, f"n_{of}"),)
            if per_neuron:
                if self.config.d_model is None:
                    raise InvalidCircuitFile(f"{name} needs d_model")
                shape = (*shape, self.config.d_model)
            if array.shape != shape:
                raise InvalidCircuitFile(
                    f"{name} has shape {list(array.shape)}; expected {list(shape)} ({self.config})"
                )
            if kind is float:
                self._check_numbers(name, array)
            object.__setattr__(self, name, array)

    def _check_numbers(self, name: str, scores: np.ndarray) -> None:
        wrong = np.isinf(scores) if name != "edge_scores" else ~np.isfinite(scores)
        if wrong.any():
            place = tuple(np.argwhere(wrong)[0])
            graph = self.config.graph
            who = graph.edges[place[0]] if name == "edge_scores" else graph.senders[place[0]]
            raise InvalidCircuitFile(f"{name} of {who} is {scores[place]}")

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the arrays that are there."""
        return tuple(name for name in PARTS if getattr(self, name) is not None)

    @cached_property
    def edge_rank(self) -> np.ndarray | None:
        """What edges are ranked by, higher first, ``[n_edges]``; None if edges are not told apart.

        Scores by :attr:`ranking`; without scores, or where all are equal, membership as 0 and 1.
        """
        return self._rank(self.edge_scores, self.edges_in)

    @cached_property
    def node_rank(self) -> np.ndarray | None:
        """The same for nodes, ``[n_nodes]``, NaN where a node was not scored."""
        return self._rank(self.node_scores, self.nodes_in)

    def _rank(self, scores: np.ndarray | None, inside: np.ndarray | None) -> np.ndarray | None:
        if inside is not None and (scores is None or (scores == scores[0]).all()):
            return inside.astype(float)
        if scores is None:
            return None
        return np.abs(scores) if self.ranking == "absolute" else scores

    @property
    def shown_edges(self) -> np.ndarray:
        """Membership of edges for a tool that wants it, ``[n_edges]``.

        Where only nodes are in or out, an edge is in if both its ends are; the logits always are.
        Where nothing is said, none is in.
        """
        if self.edges_in is not None:
            return self.edges_in
        if self.nodes_in is None or self.edge_scores is not None:
            return np.zeros(self.config.n_edges, dtype=bool)
        of = dict(zip(self.config.graph.senders, self.nodes_in.tolist(), strict=True))
        hearing = [of.get(node_of(name), True) for name in self.config.graph.receivers]
        receiver, sender = self.config.edge_ends
        return np.asarray(self.nodes_in[sender] & np.array(hearing)[receiver])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CircuitFile):
            return NotImplemented
        return (self.config, self.ranking, self.parts) == (
            other.config,
            other.ranking,
            other.parts,
        ) and all(_same(getattr(self, name), getattr(other, name)) for name in self.parts)

    __hash__ = None  # type: ignore[assignment]  # it holds arrays


def with_mlps(circuit: CircuitFile) -> CircuitFile:
    """The same circuit in a graph that has MLPs: theirs score 0 (nodes: no score), none is in."""
    if circuit.config.mlps:
        return circuit
    config = replace(circuit.config, mlps=True)
    edges, nodes = _without_mlps(config)

    def widen(name: str, array: np.ndarray) -> np.ndarray:
        kept = edges if _ARRAYS[name][0] == "edges" else nodes
        unscored = name in ("node_scores", "neuron_scores")
        wide = np.full((len(kept), *array.shape[1:]), np.nan if unscored else 0, dtype=array.dtype)
        wide[kept] = array
        return wide

    return replace(circuit, config=config, **_mapped(circuit, widen))


def without_mlps(circuit: CircuitFile) -> CircuitFile:
    """The same circuit in a graph that has no MLPs; what it says of them is left out."""
    if not circuit.config.mlps:
        return circuit
    edges, nodes = _without_mlps(circuit.config)

    def narrow(name: str, array: np.ndarray) -> np.ndarray:
        return np.asarray(array[edges if _ARRAYS[name][0] == "edges" else nodes])

    config = replace(circuit.config, mlps=False)
    return replace(circuit, config=config, **_mapped(circuit, narrow))


def _mapped(
    circuit: CircuitFile, change: Callable[[str, np.ndarray], np.ndarray]
) -> dict[str, Any]:
    return {name: change(name, getattr(circuit, name)) for name in circuit.parts}


def _without_mlps(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Which edges and nodes of a graph with MLPs touch none, ``[n_edges]`` and ``[n_nodes]``.

    What is left is in the order of the graph without them.
    """
    nodes = ~np.char.startswith(np.array(config.graph.senders), "m")
    inputs = ~np.char.startswith(np.array(config.graph.receivers), "m")
    receiver, sender = config.edge_ends
    return nodes[sender] & inputs[receiver], nodes


def _same(a: Any, b: Any) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype == float)
