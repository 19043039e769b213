"""Circuits of n edges from scores of edges: by MIB's rules, and without them.

A cut is an order of all edges, best first, of which the first n are kept. MIB's rules (Mueller et
al. 2025, arXiv 2504.13151) are those of its code, hannamw/MIB-circuit-track: ``apply_topn`` and
``apply_greedy``, each with ``prune``.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from circuitbench.core.edges import Graph


def best_first(scores: np.ndarray, tiebreak: np.ndarray) -> np.ndarray:
    """Places of the edges ``[n_edges]`` by falling score; equal ones by rising ``tiebreak``."""
    return np.lexsort((tiebreak, -scores))


def mib_places(graph: Graph) -> np.ndarray:
    """Where each edge stands in MIB's matrix ``[senders, receivers]``, row by row, ``[n_edges]``.

    A layer's receivers are the queries of all heads, their keys, their values, the MLP. A stable
    sort leaves equal edges in this order.
    """

    def place(name: str) -> tuple[int, int, int]:
        if name == "logits":
            return len(graph.receivers), 0, 0
        if name[0] == "m":
            return int(name[1:]), len("qkv"), 0
        layer, head, letter = name.split(".")
        return int(layer), "qkv".index(letter), int(head)

    order = sorted(range(len(graph.receivers)), key=lambda i: place(graph.receivers[i]))
    rank = np.empty(len(order), dtype=int)
    rank[order] = np.arange(len(order))
    receiver, sender = np.array(graph.pairs).T
    return np.asarray(sender * len(order) + rank[receiver])


def greedy_first(graph: Graph, scores: np.ndarray, absolute: bool) -> np.ndarray:
    """The order in which MIB's greedy option takes edges (for information-flow routes).

    It starts from the edges into the logits, and takes the best edge into any node that it has
    reached; the sender's own edges are then open. So every circuit hangs together from the
    logits down. Between edges of one rank the lower raw score goes first, as in MIB's heap;
    beyond that its code leaves the order open, and :func:`mib_places` decides.

    Args:
        scores: ``[n_edges]``, raw.
        absolute: rank by magnitude.
    """
    sender, hears = graph.ends.T
    keys = -np.abs(scores) if absolute else -scores
    rank = np.lexsort((mib_places(graph), scores, keys))
    turn = np.empty(len(rank), dtype=int)
    turn[rank] = np.arange(len(rank))
    into: dict[int, list[int]] = {}
    for edge, node in enumerate(hears.tolist()):
        into.setdefault(node, []).append(int(turn[edge]))
    logits = len(graph.senders)
    reached, open_, taken = {logits}, list(into[logits]), []
    heapq.heapify(open_)
    while open_:
        edge = int(rank[heapq.heappop(open_)])
        taken.append(edge)
        node = int(sender[edge])
        if node not in reached:
            reached.add(node)
            for candidate in into.get(node, ()):
                heapq.heappush(open_, candidate)
    return np.array(taken)


def first(order: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """The first ``counts`` edges of an order, ``[counts, n_edges]`` bool."""
    rank = np.empty(len(order), dtype=int)
    rank[order] = np.arange(len(order))
    return np.asarray(rank < np.asarray(counts)[:, None])


def pruned(graph: Graph, mask: np.ndarray) -> np.ndarray:
    """A set of edges ``[n_edges]`` less those that dangle, as MIB's ``prune`` leaves it.

    Again and again, a node that no kept edge enters (the embedding needs none) or leaves goes
    with its edges. What stays lies on a path from the embedding to the logits.
    """
    sender, hears = graph.ends.T
    embed, logits = 0, len(graph.senders)
    kept = np.array(mask, dtype=bool)
    while True:
        entered, left = np.zeros((2, logits + 1), dtype=bool)
        entered[hears[kept]] = left[sender[kept]] = True
        entered[[embed, logits]] = left[logits] = True
        alive = entered & left
        still = kept & alive[sender] & alive[hears]
        if (still == kept).all():
            return kept
        kept = still
