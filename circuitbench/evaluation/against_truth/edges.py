"""Scoring found edges against the true ones, over all edges the model could have.

The items are every edge of the residual graph, so that a method that lists few edges is not
ranked among few. A true edge the method does not list counts as ranked last, not as found (the
code of MIB, Mueller et al. 2025, counts it as found).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from circuitbench.core.circuit import Edge
from circuitbench.core.edges import graph_of
from circuitbench.core.errors import RunFailed
from circuitbench.evaluation.against_truth.ranking import (
    TiedRanking,
    ranking_metrics,
    tied_ranking,
)


def _touches_mlp(edge: Edge) -> bool:
    return any(re.fullmatch(r"m\d+", end) for end in edge)


class EdgeRanking(NamedTuple):
    """All edges of a model by score: ``values [edges]`` and whether each is true, ``relevant``.

    ``n_listed`` edges came with a score, ``n_left_out`` of them are none of the items.
    """

    values: np.ndarray
    relevant: np.ndarray
    n_listed: int
    n_left_out: int

    @property
    def ranking(self) -> TiedRanking:
        """The same as groups of equally scored edges."""
        return tied_ranking(self.values, self.relevant)


def edge_ranking(
    scores: Mapping[Edge, float], truth: frozenset[Edge], n_layers: int, n_heads: int
) -> EdgeRanking:
    """Rank every edge the model could have.

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
    possible = graph_of(n_layers, n_heads, mlps).edges
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
    relevant = np.array([edge in truth for edge in items])
    return EdgeRanking(values, relevant, len(listed), len(outside))


def edge_metrics(
    scores: Mapping[Edge, float], truth: frozenset[Edge], n_layers: int, n_heads: int
) -> dict[str, Any]:
    """Ranking metrics over all edges (see :func:`ranking_metrics`), and how many were listed.

    Arguments and errors are those of :func:`edge_ranking`.
    """
    ranked = edge_ranking(scores, truth, n_layers, n_heads)
    return {
        "n_listed": ranked.n_listed,
        "n_left_out": ranked.n_left_out,
        "n_truth_listed": len(truth & scores.keys()),
        **ranking_metrics(ranked.values, ranked.relevant),
    }
