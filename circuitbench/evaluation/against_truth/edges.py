"""Scoring found edges against the true ones, over all edges the model could have.

The items are every edge of the residual graph, so that a method that lists few edges is not
ranked among few. A true edge the method does not list counts as ranked last, not as found (the
code of MIB, Mueller et al. 2025, counts it as found).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from circuitbench.core.circuit import Edge
from circuitbench.core.edges import graph_of
from circuitbench.core.errors import RunFailed
from circuitbench.evaluation.against_truth.ranking import (
    TiedRanking,
    hits_at,
    pessimistic_auroc,
    ranking_metrics,
    tied_ranking,
)
from circuitbench.evaluation.against_truth.selection import Overlap


def _touches_mlp(edge: Edge) -> bool:
    return any(re.fullmatch(r"m\d+", end) for end in edge)


class EdgeRanking(NamedTuple):
    """All edges of a model by score: ``values [edges]`` and whether each is true, ``relevant``.

    ``items`` are the edges. ``n_listed`` edges came with a score, ``n_left_out`` of them are none
    of the items.
    """

    items: list[Edge]
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
    items = _items(truth, n_layers, n_heads)
    outside = _outside(listed, items, truth, n_layers, n_heads)
    if not all(map(math.isfinite, listed.values())):
        raise RunFailed("an edge's score is not a finite number")
    level = {score: i for i, score in enumerate(sorted(set(listed.values())), start=1)}
    values = np.array([level[listed[edge]] if edge in listed else 0 for edge in items])
    relevant = np.array([edge in truth for edge in items])
    return EdgeRanking(items, values, relevant, len(listed), len(outside))


def _items(truth: frozenset[Edge], n_layers: int, n_heads: int) -> list[Edge]:
    possible = graph_of(n_layers, n_heads, any(map(_touches_mlp, truth))).edges
    return [*possible, *sorted(truth.difference(possible))]


def _outside(
    found: Iterable[Edge], items: list[Edge], truth: frozenset[Edge], n_layers: int, n_heads: int
) -> list[Edge]:
    """The found edges that are no items, because the truth says nothing about MLPs."""
    outside = sorted(set(found).difference(items))
    mlps = any(map(_touches_mlp, truth))
    strange = [edge for edge in outside if mlps or not _touches_mlp(edge)]
    if strange:
        raise RunFailed(
            f"{len(strange)} edges cannot exist in a {n_layers} x {n_heads} model, "
            f"e.g. {strange[0]}; valid: embed->0.1.q, 0.1->2.3.k, m0->logits"
        )
    return outside


def edge_overlap(
    ranked: EdgeRanking,
    selected: frozenset[Edge] | None,
    truth: frozenset[Edge],
    n_layers: int,
    n_heads: int,
) -> Overlap:
    """The committed edges against the true ones, among the items of :func:`edge_ranking`.

    Who commits to no set is taken at the R best ranked edges, R being how many are true; where a
    tie crosses that cut, ``both`` is its expectation. Then precision, recall and F1 are all
    R-precision.

    Raises:
        RunFailed: a selected edge cannot exist in the model.
    """
    n_true = int(ranked.relevant.sum())
    if selected is None:
        both = hits_at(ranked.ranking, n_true)
        return Overlap(len(ranked.items), n_true, n_true, both)
    outside = _outside(selected, ranked.items, truth, n_layers, n_heads)
    size = len(selected) - len(outside)
    return Overlap(len(ranked.items), size, n_true, len(selected & truth))


def edge_metrics(
    scores: Mapping[Edge, float],
    truth: frozenset[Edge],
    n_layers: int,
    n_heads: int,
    selected: frozenset[Edge] | None = None,
) -> dict[str, Any]:
    """Ranking metrics over all edges (see :func:`ranking_metrics`), and those of a set.

    Arguments and errors are those of :func:`edge_ranking` and :func:`edge_overlap`.

    Returns:
        JSON-able: the ranking's metrics; ``auroc_pessimistic`` (ACDC's, beside scikit-learn's
        ``auroc``); how many edges were listed; ``selection``: ``by`` (``committed`` or
        ``top_r``), ``size``, ``overlap``, ``precision``, ``recall``, ``f1``, ``mcc``, ``chance``.
    """
    ranked = edge_ranking(scores, truth, n_layers, n_heads)
    sets = edge_overlap(ranked, selected, truth, n_layers, n_heads)
    scored = ranking_metrics(ranked.values, ranked.relevant)
    return {
        "n_listed": ranked.n_listed,
        "n_left_out": ranked.n_left_out,
        "n_truth_listed": len(truth & scores.keys()),
        **scored,
        "auroc_pessimistic": None if scored["auroc"] is None else pessimistic_auroc(ranked.ranking),
        "selection": {
            "by": "top_r" if selected is None else "committed",
            "size": sets.selected,
            "overlap": sets.both,
            "precision": sets.precision,
            "recall": sets.recall,
            "f1": sets.f1,
            "mcc": sets.mcc,
            "chance": {
                "precision": sets.chance_precision,
                "recall": sets.chance_recall,
                "f1": sets.chance_f1,
                "mcc": None if sets.mcc is None else 0.0,
            },
        },
    }
