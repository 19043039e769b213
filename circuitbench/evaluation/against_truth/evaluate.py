"""Score one discovery against the truth; the only place where the two meet."""

from __future__ import annotations

from typing import Any

import numpy as np

from circuitbench.core.circuit import Circuit, head_grid
from circuitbench.core.discovery import Discovery, TracePoint
from circuitbench.core.errors import InvalidSpec, RunFailed
from circuitbench.evaluation.against_truth.edges import edge_metrics
from circuitbench.evaluation.against_truth.efficiency import efficiency_metrics
from circuitbench.evaluation.against_truth.family import family_metrics
from circuitbench.evaluation.against_truth.ranking import ranking_metrics
from circuitbench.evaluation.against_truth.roles import role_metrics
from circuitbench.evaluation.against_truth.selection import selection_metrics


def checked_scores(scores: Any, n_layers: int, n_heads: int) -> np.ndarray:
    """``scores`` as a float array ``[n_layers, n_heads]``.

    Raises:
        RunFailed: another shape, or a score that is not a finite number.
    """
    try:
        array = np.asarray(scores, dtype=float)
    except (TypeError, ValueError) as error:
        raise RunFailed(f"the method's scores are not numbers: {error}") from error
    if array.shape != (n_layers, n_heads):
        raise RunFailed(
            f"the method's scores have shape {array.shape}; expected ({n_layers}, {n_heads})"
        )
    if not np.isfinite(array).all():
        layer, head = np.argwhere(~np.isfinite(array))[0]
        raise RunFailed(f"the method's score of head {layer}.{head} is {array[layer, head]}")
    return array


def checked_selection(discovery: Discovery, n_layers: int, n_heads: int) -> np.ndarray:
    """The committed set as a bool array ``[n_layers, n_heads]``.

    Raises:
        RunFailed: a selected head is outside the model.
    """
    try:
        return head_grid(discovery.selected, n_layers, n_heads)
    except InvalidSpec as error:
        raise RunFailed(f"the method selected a head that does not exist: {error}") from error


def evaluate(discovery: Discovery, truth: Circuit, queries: int | None = None) -> dict[str, Any]:
    """All truth-based metrics of one discovery.

    Args:
        discovery: the method's answer; it is not changed.
        truth: the circuit to compare with.
        queries: what the discovery cost; closes the curve of quality against queries.

    Returns:
        JSON-able, without NaN; a value that does not exist is None with a reason beside it:

        - ``ranking``: ``auroc``, ``average_precision``, ``r_precision``, ``ndcg``,
          ``recall_at {k: ...}``, ``n_items``, ``n_relevant``, each metric's ``chance``,
          ``p_value {auroc, auroc_by, r_precision}``, ``undefined``.
        - ``selection``: ``size``, ``overlap``, ``precision``, ``recall``, ``f1``, ``jaccard``,
          ``mcc``, ``chance``, ``p_value``, ``undefined``.
        - ``roles``: per role, see :func:`role_metrics`; ``role_groups``: its summary.
        - ``efficiency``: quality against queries, see :func:`efficiency_metrics`.
        - ``family``: best match, union and core of the truth's minimal sets, see
          :func:`family_metrics`; None where the truth has no family.
        - ``edges``: ranking and set metrics over edges, see :func:`edge_metrics`; None where
          truth or method has none.

    Raises:
        RunFailed: scores that are no grid of finite numbers, a selected head or a scored edge
            that does not exist in a model of their shape.
        InvalidSpec: the truth does not fit the model.
    """
    try:
        n_layers, n_heads = np.shape(discovery.scores)
    except ValueError as error:
        raise RunFailed("the method's scores have no shape [n_layers, n_heads]") from error
    scores = checked_scores(discovery.scores, n_layers, n_heads)
    selected = checked_selection(discovery, n_layers, n_heads)
    relevant = head_grid(truth.heads, n_layers, n_heads)
    roles, groups = role_metrics(scores, selected, truth.roles)
    trace = [
        TracePoint(point.queries, checked_scores(point.scores, n_layers, n_heads))
        for point in discovery.trace
    ]
    edges = None
    if truth.edges is not None and discovery.edges is not None:
        edges = edge_metrics(
            discovery.edges, truth.edges, n_layers, n_heads, discovery.selected_edges
        )
    return {
        "ranking": ranking_metrics(scores, relevant),
        "selection": selection_metrics(selected, relevant),
        "roles": roles,
        "role_groups": groups,
        "efficiency": efficiency_metrics(trace, scores, queries, relevant),
        "family": family_metrics(scores, selected, truth) if truth.family else None,
        "edges": edges,
    }
