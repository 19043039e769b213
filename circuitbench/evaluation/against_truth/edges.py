"""Scoring found edges against the true ones, over all edges the model could have.

The items are every edge of the residual graph, so that a method that lists few edges is not
ranked among few. A true edge the method does not list counts as ranked last, not as found (the
code of MIB, Mueller et al. 2025, counts it as found).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from circuitbench.core.circuit import Edge
from circuitbench.core.edges import Graph
from circuitbench.core.errors import RunFailed
from circuitbench.evaluation.against_truth.ranking import ranking_metrics


def _touches_mlp(edge: Edge) -> bool:
    return any(re.fullmatch(r"m\d+", end) for end in edge)


def edge_metrics(
    scores: Mapping[Edge, float], truth: frozenset[Edge], n_layers: int, n_heads: int
) -> dict[str, Any]:
    """Ranking metrics over all edges (see :func:`ranking_metrics`).

    Where no true edge touches an MLP the truth says nothing about MLPs: the graph is then that
    of the heads, and listed edges of MLPs are left out (``n_left_out``).

    Args:
        scores: finite score per edge, higher = more surely true; an edge not listed is ranked
            below every listed one, tied with the others not listed.
        truth: the true edges.

    Raises:
        RunFailed: a score is not finite, or a listed edge cannot exist in the model.
    """
    listed = {Edge(*edge): float(score) for edge, score in scores.items()}
    mlps = any(map(_touches_mlp, truth))
    possible = Graph(n_layers, n_heads, mlps).edges
    items = [*possible, *sorted(truth.difference(possible))]
    known = set(items)
    outside = sorted(edge for edge in listed if edge not in known)
    strange = [edge for edge in outside if mlps or not _touches_mlp(edge)]
    if strange:
        raise RunFailed(
            f"{len(strange)} scored edges cannot exist in a {n_layers} x {n_heads} model, "
            f"e.g. {strange[0]}; valid: embed->0.1.q, 0.1->2.3.k, m0->logits"
        )
    if not all(map(math.isfinite, listed.values())):
        raise RunFailed("an edge's score is not a finite number")
    level = {score: i for i, score in enumerate(sorted(set(listed.values())), start=1)}
    values = np.array([level[listed[edge]] if edge in listed else 0 for edge in items])
    return {
        "n_listed": len(listed),
        "n_left_out": len(outside),
        "n_truth_listed": len(truth & listed.keys()),
        **ranking_metrics(values, np.array([edge in truth for edge in items])),
    }
