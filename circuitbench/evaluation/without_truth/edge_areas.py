"""Faithfulness, CPR and CMD of circuits of edges: as MIB computes them, and exactly.

A circuit is a bool array ``[n_edges]`` in the order of the model's graph; every other edge hears
the ablated sender (embeddings too, unlike with heads). ``m(0)`` is with all edges ablated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitbench.core.circuit import Edge
from circuitbench.core.discovery import Discovery
from circuitbench.core.edges import Graph
from circuitbench.evaluation.without_truth.edge_cuts import (
    best_first,
    first,
    greedy_first,
    mib_places,
    pruned,
)
from circuitbench.evaluation.without_truth.faithfulness import (
    MIB_SIZES,
    Probe,
    curve_areas,
    faithfulness,
)

if TYPE_CHECKING:
    from circuitbench.oracle import Batch, Oracle


class EdgeProbe(Probe):
    """A :class:`Probe` of circuits of edges, ``[n, n_edges]`` bool.

    Raises :class:`InvalidSpec` for a model that is run by hooks.
    """

    unit = "edges"

    def __init__(self, oracle: Oracle, batches: Sequence[Batch], ablation: str) -> None:
        super().__init__(oracle, batches, ablation)
        self.graph = oracle.edges.graph
        self.shape = (len(self.graph.edges),)
        self._query = oracle.edges.query

    def name(self, place: Sequence[int]) -> str:
        """The edge at a place of the graph."""
        return str(self.graph.edges[place[0]])

    def distinct_means(self, circuits: np.ndarray) -> np.ndarray:
        """:meth:`mean` of circuits of which many may be the same, each asked about once.

        The whole model costs no query. Under resampling, nor does a circuit that differs from
        another in dangling edges only: a head that hears the counterfactual alone says what
        stands for it anyway.
        """
        if self.ablation == "resample":
            circuits = np.array([pruned(self.graph, circuit) for circuit in circuits])
        packed = np.packbits(circuits, axis=1)
        _, where, back = np.unique(packed, axis=0, return_index=True, return_inverse=True)
        distinct = circuits[where]
        values = np.full(len(distinct), float(self.clean.mean()))
        partial = ~distinct.all(axis=1)
        values[partial] = self.mean(distinct[partial])
        return np.asarray(values[back.ravel()])


@dataclass(frozen=True)
class EdgeScores:
    """What a discovery says of every edge of a model, each ``[n_edges]``.

    Args:
        belief: its ``edges``, an edge not listed below all others.
        signed: its ``signed_edges`` if it gives them, else the same as ``belief``.
        raw: the signed ones as a file for MIB holds them: an edge not listed scores 0.
    """

    belief: np.ndarray
    signed: np.ndarray
    raw: np.ndarray

    @classmethod
    def of(cls, discovery: Discovery, graph: Graph) -> EdgeScores:
        """Spread the listed scores over a graph; edges that it lacks are left out."""

        def spread(scores: Mapping[Edge, float], otherwise: float) -> np.ndarray:
            return np.array([scores.get(edge, otherwise) for edge in graph.edges], dtype=float)

        belief = discovery.edges or {}
        signed = belief if discovery.signed_edges is None else discovery.signed_edges
        return cls(spread(belief, -np.inf), spread(signed, -np.inf), spread(signed, 0.0))


def edge_areas(
    probe: EdgeProbe, scores: EdgeScores, rng: np.random.Generator, greedy: bool
) -> dict[str, Any]:
    """CPR and CMD of a ranking of edges, by up to three rules over the same sizes p.

    - ``mib``: the ``int(p * n_edges)`` best edges less those that dangle, at p of ``MIB_SIZES``
      whatever is left; by raw score for CPR, by its magnitude for CMD; ties in the order of
      MIB's matrix; trapezoids from the smallest p.
    - ``mib_greedy``: the same with the edges that :func:`greedy_first` takes.
    - ``exact``: the best edges by ``signed`` for CPR and by ``belief`` for CMD, ties at random,
      none removed; at the share of edges that is kept, from 0 (where f is 0) to 1.

    Returns:
        By rule: ``sizes``, ``edges`` cut at each, ``left`` after pruning (MIB's rules), ``signed``
        and ``absolute`` faithfulness, ``cpr`` and ``cmd``; the last four None (with
        ``undefined``) where faithfulness is.
    """
    graph, n = probe.graph, scores.raw.size
    place, tiebreak = mib_places(graph), rng.random(n)
    counts = [int(p * n) for p in MIB_SIZES]
    orders = {"mib": (best_first(scores.raw, place), best_first(np.abs(scores.raw), place))}
    if greedy:
        orders["mib_greedy"] = (
            greedy_first(graph, scores.raw, absolute=False),
            greedy_first(graph, scores.raw, absolute=True),
        )
    circuits = {
        rule: np.array([[pruned(graph, cut) for cut in first(order, counts)] for order in both])
        for rule, both in orders.items()
    }
    exact_counts = [int(p * n + 1e-9) for p in MIB_SIZES]
    ours = (best_first(scores.signed, tiebreak), best_first(scores.belief, tiebreak))
    circuits["exact"] = np.array([first(order, [0, *exact_counts]) for order in ours])
    asked = np.concatenate([np.zeros((1, n), bool), *(c.reshape(-1, n) for c in circuits.values())])
    empty, *means = probe.distinct_means(asked).tolist()
    full = float(probe.clean.mean())
    found: dict[str, Any] = {}
    for rule, cuts in circuits.items():
        values, means = means[: len(cuts[0]) * 2], means[len(cuts[0]) * 2 :]
        result: dict[str, Any] = {"sizes": list(MIB_SIZES), "edges": counts}
        if rule == "exact":
            result["edges"] = [0, *exact_counts]
            result["sizes"] = [count / n for count in result["edges"]]
        else:
            left = cuts.sum(axis=2).tolist()
            result["left"] = {"signed": left[0], "absolute": left[1]}
        faithful = [faithfulness(value, empty, full) for value in values]
        if None in faithful:
            nothing = dict.fromkeys(("signed", "absolute", "cpr", "cmd"))
            why = "ablating every edge does not change the metric"
            found[rule] = {**result, **nothing, "undefined": why}
            continue
        curves = np.array(faithful, dtype=float).reshape(2, -1)
        result |= {"signed": curves[0].tolist(), "absolute": curves[1].tolist()}
        found[rule] = result | curve_areas(np.array(result["sizes"]), curves.T)
    return found
