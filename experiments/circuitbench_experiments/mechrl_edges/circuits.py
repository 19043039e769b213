"""The circuits of edges that an answer stands for, and how small a faithful one among them is.

A circuit is a bool array ``[n_edges]`` in the order of the model's graph. Faithfulness is ``1 -
KL(circuit) / KL(nothing)``, KL the divergence of the next-token distribution from the intact
model's, what is not kept carrying the counterfactual (Khadka 2026, arXiv 2605.26343v2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitbench import Discovery, Head, RunFailed
from circuitbench.evaluation.without_truth.edge_cuts import pruned

if TYPE_CHECKING:
    from circuitbench import Oracle
    from circuitbench.core.edges import Graph

SIZES = (5, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400, 600, 1_000, 2_000, 3_000)
"""Of the cuts of a ranking of edges; 200, 400 and 1,000 are the paper's."""
HEADS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 60)
"""Of the cuts of a ranking of heads."""
LEAST = 1e-3
"""Nats, of the divergence with every edge cut; 3 to 5 where the paper calls a task healthy."""
COMMITTED, WHOLE = "committed", "whole model"


@dataclass(frozen=True)
class Named:
    """A circuit and where it comes from: a cut (``"200 edges"``), ``committed`` or the model."""

    name: str
    mask: np.ndarray

    @property
    def size(self) -> int:
        """Edges kept."""
        return int(self.mask.sum())


def circuits_of(discovery: Discovery, graph: Graph) -> list[Named]:
    """Every circuit an answer stands for, smallest first; the whole model is always one.

    They are the set it commits to and the cuts of its ranking, at :data:`SIZES` edges, each less
    the edges that dangle: those change nothing where what is cut carries the counterfactual. An
    answer that speaks of heads alone keeps every edge among the heads it keeps, from the
    embedding and to the logits (and all MLPs), at :data:`HEADS` heads.
    """
    n = len(graph.edges)
    found = []
    if discovery.edges is None:
        order = np.argsort(-np.asarray(discovery.scores, dtype=float).ravel(), kind="stable")
        heads = [Head(*divmod(int(i), discovery.scores.shape[1])) for i in order]
        cuts = [k for k in HEADS if k < len(heads)]
        found = [Named(f"{k} heads", among(heads[:k], graph)) for k in cuts]
        found.append(Named(COMMITTED, among(discovery.selected, graph)))
    else:
        place = {edge: i for i, edge in enumerate(graph.edges)}
        scored = sorted(discovery.edges.items(), key=lambda item: -item[1])
        listed = [place[edge] for edge, _ in scored]
        for k in SIZES:
            if k <= len(listed) and k < n:
                found.append(Named(f"{k} edges", _mask(listed[:k], n)))
        chosen = discovery.selected_edges or frozenset()
        found.append(Named(COMMITTED, _mask([place[edge] for edge in chosen], n)))
    lean = [Named(c.name, pruned(graph, c.mask)) for c in found]
    return sorted([*lean, Named(WHOLE, np.ones(n, dtype=bool))], key=lambda c: c.size)


def among(heads: Iterable[Head], graph: Graph) -> np.ndarray:
    """All edges between some heads, the embedding, the MLPs and the logits, ``[n_edges]``."""
    inside = {f"{head}" for head in heads}
    senders = np.array([name in inside or "." not in name for name in graph.senders])
    hears = np.append(senders, True)  # the logits
    sender, receiver = graph.ends.T
    return np.asarray(senders[sender] & hears[receiver])


def faithfulness(oracle: Oracle, masks: np.ndarray) -> np.ndarray:
    """Of circuits ``[n, n_edges]`` on the oracle's prompts, ``[n]``; at most 1, and of the empty 0.

    Costs a query for each, and one for nothing at all.

    Raises:
        RunFailed: cutting every edge changes nothing, or a divergence is not finite.
    """
    asked = np.concatenate([np.zeros((1, masks.shape[1]), dtype=bool), masks])
    damages = oracle.edges.query(torch.from_numpy(asked), ablation="resample", kl=True)
    if damages.kl is None:  # the oracle answers what it was asked
        raise RuntimeError("the oracle returned no KL divergence")
    kl = damages.kl.double().numpy()
    if not np.isfinite(kl).all() or kl[0] < LEAST:
        raise RunFailed(
            f"faithfulness is not defined: with every edge cut the divergence is {kl[0]:.2g} nats"
        )
    return np.asarray(1 - kl[1:] / kl[0])


def smallest(faithful: Sequence[float], tau: float) -> int:
    """The first of circuits, smallest first, whose faithfulness is ``tau`` or more.

    The last, which is the whole model, is always taken to be.
    """
    return next((i for i, f in enumerate(faithful[:-1]) if f >= tau), len(faithful) - 1)


def judge(
    circuits: Sequence[Named], tau: float, choosing: Oracle, judging: Oracle
) -> dict[str, Any]:
    """The smallest circuit that is faithful on some prompts, judged on others.

    Args:
        circuits: smallest first, the whole model last.
        tau: faithfulness asked for.
        choosing: on whose prompts the choice is made; its queries are part of the discovery.
        judging: on whose prompts everything else is measured.

    Returns:
        JSON-able: ``size``, ``faithfulness`` and ``circuit`` (its name) of the chosen one,
        ``holds`` (whether it is faithful on the other prompts too), ``reached`` (whether it is
        less than the whole model), ``curve``: ``name``, ``size``, ``faithfulness`` of each.
    """
    masks = np.array([c.mask for c in circuits[:-1]])
    chosen = smallest([*faithfulness(choosing, masks), 1.0], tau)
    faithful = [*faithfulness(judging, masks).tolist(), 1.0]
    return {
        "circuit": circuits[chosen].name,
        "size": circuits[chosen].size,
        "faithfulness": faithful[chosen],
        "holds": faithful[chosen] >= tau,
        "reached": chosen < len(circuits) - 1,
        "curve": [
            {"name": c.name, "size": c.size, "faithfulness": f}
            for c, f in zip(circuits, faithful, strict=True)
        ],
    }


def _mask(places: Sequence[int], n: int) -> np.ndarray:
    mask = np.zeros(n, dtype=bool)
    mask[list(places)] = True
    return mask
