"""How much of the true circuit an answer holds: its edges, and its heads."""

from __future__ import annotations

from typing import Any

import numpy as np

from circuitbench import Circuit, Discovery, head_grid
from circuitbench.core.edges import Graph
from circuitbench.evaluation.against_truth.edges import edge_overlap, edge_ranking
from circuitbench.evaluation.against_truth.ranking import average_precision, tied_ranking
from circuitbench.evaluation.against_truth.selection import Overlap
from circuitbench_experiments.mechrl_edges.circuits import among


def recovery(
    discovery: Discovery, truth: Circuit | None, graph: Graph | None = None
) -> dict[str, float]:
    """Average precision of the rankings; precision, recall and F1 of the committed sets.

    Keys are ``head_ap``, ``head_precision`` ... ``edge_f1``, of heads alone without a graph. What
    does not exist is left out: of
    an unknown circuit, and the ranking of edges of an answer that ranks heads alone, whose set of
    edges is :func:`.circuits.among` its heads. Nothing committed to has precision 0.
    """
    if truth is None:
        return {}
    shape = np.shape(discovery.scores)
    relevant = head_grid(truth.heads, *shape)
    heads = Overlap.of(head_grid(discovery.selected, *shape), relevant)
    found = {"head_ap": average_precision(tied_ranking(np.asarray(discovery.scores), relevant))}
    found |= _set("head", heads)
    if truth.edges is None or graph is None:
        return {k: v for k, v in found.items() if v is not None}
    chosen = discovery.selected_edges
    if discovery.edges is None:
        mask = among(discovery.selected, graph)
        chosen = frozenset(graph.edges[i] for i in np.flatnonzero(mask))
    ranked = edge_ranking(discovery.edges or {}, truth.edges, *shape)
    if discovery.edges is not None:
        found["edge_ap"] = average_precision(ranked.ranking)
    found |= _set("edge", edge_overlap(ranked, chosen, truth.edges, *shape))
    return {k: v for k, v in found.items() if v is not None}


def _set(what: str, sets: Overlap) -> dict[str, Any]:
    return {
        f"{what}_precision": sets.precision or 0.0,
        f"{what}_recall": sets.recall,
        f"{what}_f1": sets.f1,
    }
