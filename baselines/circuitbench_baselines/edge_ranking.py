"""How scores of edges become a discovery, and what they say about heads; shared by edge methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from circuitbench import Discovery, Head, InvalidSpec, Oracle, TracePoint


def edge_discovery(
    oracle: Oracle,
    scores: np.ndarray,
    selected: np.ndarray,
    *,
    effects: np.ndarray | None = None,
    strength: np.ndarray | None = None,
    listed: int = 1_000,
    info: Mapping[str, Any] | None = None,
    trace: Sequence[TracePoint] = (),
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
        trace: of the discovery.

    Raises:
        InvalidSpec: nothing is listed.
    """
    if listed < 1:
        raise InvalidSpec(f"listed must be 1 or more, not {listed}")
    edges = oracle.edges.edges
    heads, strongest = _strongest(oracle, scores if strength is None else strength)
    chosen = (Head(int(h[0]), int(h[1])) for h in heads[selected[strongest]])
    best = np.argsort(-scores, kind="stable")[:listed]
    return Discovery(
        heads_by_edges(oracle, scores, strength),
        frozenset(chosen),
        {edges[i]: float(scores[i]) for i in best},
        info=dict(info or {}),
        signed_edges=None if effects is None else {edges[i]: float(effects[i]) for i in best},
        selected_edges=frozenset(edges[i] for i in best if selected[i]),
        trace=trace,
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


def heads_by_edges(
    oracle: Oracle, scores: np.ndarray, strength: np.ndarray | None = None
) -> np.ndarray:
    """Heads' scores ``[n_layers, n_heads]`` by :func:`edge_discovery`'s projection."""
    heads, strongest = _strongest(oracle, scores if strength is None else strength)
    grid = np.zeros(oracle.shape)
    grid[heads[:, 0], heads[:, 1]] = scores[strongest]
    return grid


def _strongest(oracle: Oracle, strength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Heads ``[n, 2]``, and the strongest edge that leaves each ``[n]`` (of equals the first)."""
    edges = oracle.edges.edges
    from_heads = np.array([i for i, edge in enumerate(edges) if "." in edge.sender])
    ordered = from_heads[np.argsort(-strength[from_heads], kind="stable")]
    senders = np.array([Head.parse(edges[i].sender) for i in ordered])
    heads, first = np.unique(senders, axis=0, return_index=True)
    return heads, ordered[first]
