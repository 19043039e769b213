"""How scores of edges become a discovery, and what they say about heads; shared by edge methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from circuitbench import Discovery, Head, InvalidSpec, Oracle


def edge_discovery(
    oracle: Oracle,
    scores: np.ndarray,
    selected: np.ndarray,
    *,
    effects: np.ndarray | None = None,
    strength: np.ndarray | None = None,
    listed: int = 1_000,
    info: Mapping[str, Any] | None = None,
) -> Discovery:
    """The discovery of an edge ranking.

    The projection to heads: a head scores what the strongest edge that leaves it scores, and is
    selected if that edge is. All arrays are ``[n_edges]`` in the order of ``oracle.edges.edges``.

    Args:
        oracle: that was asked.
        scores: finite; higher = more surely in the circuit.
        selected: bool, the edges committed to; of them, those among the listed are reported.
        effects: the scores with their sign, where ``scores`` are magnitudes.
        strength: by what an edge is the strongest of its sender; None takes ``scores``.
        listed: edges reported, the best; the rest ranks below them, tied.
        info: of the discovery.

    Raises:
        InvalidSpec: nothing is listed.
    """
    if listed < 1:
        raise InvalidSpec(f"listed must be 1 or more, not {listed}")
    edges = oracle.edges.edges
    size = scores if strength is None else strength
    strongest: dict[str, int] = {}
    for i, edge in enumerate(edges):
        if "." in edge.sender:
            best = strongest.setdefault(edge.sender, i)
            if size[i] > size[best]:
                strongest[edge.sender] = i
    grid, heads = np.zeros(oracle.shape), set()
    for sender, i in strongest.items():
        head = Head.parse(sender)
        grid[head] = scores[i]
        if selected[i]:
            heads.add(head)
    best = np.argsort(-scores, kind="stable")[:listed]
    return Discovery(
        grid,
        frozenset(heads),
        {edges[i]: float(scores[i]) for i in best},
        info=dict(info or {}),
        signed_edges=None if effects is None else {edges[i]: float(effects[i]) for i in best},
        selected_edges=frozenset(edges[i] for i in best if selected[i]),
    )


def ranked_edges(
    oracle: Oracle,
    effects: Tensor,
    of: str,
    signed: bool,
    threshold: float,
    listed: int,
) -> Discovery:
    """The discovery of an attribution: edges by the size of their effect, or by the effect itself.

    Args:
        oracle: that was asked.
        effects: ``[n_edges]``, what ablating an edge takes from the metric by estimate, or minus
            what it adds to the KL divergence.
        of: ``task`` or ``kl``.
        signed: rank by effect instead of magnitude. Where the divergence is attributed, more of
            it means more of the circuit.
        threshold: commits to what exceeds this fraction of the clean metric (of 1 nat for ``kl``).
        listed: see :func:`edge_discovery`.
    """
    given = (-effects if of == "kl" else effects).double().numpy()
    strength = np.abs(given)
    scores = given if signed else strength
    return edge_discovery(
        oracle,
        scores,
        scores > threshold * (1.0 if of == "kl" else abs(oracle.clean_metric)),
        effects=None if signed else given,
        strength=strength,
        listed=listed,
    )
