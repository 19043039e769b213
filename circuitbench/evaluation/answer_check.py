"""Whether what a method answered can be scored at all."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite

import numpy as np

from circuitbench.core.discovery import Discovery
from circuitbench.core.edges import graph_of
from circuitbench.core.errors import RunFailed
from circuitbench.evaluation.against_truth.evaluate import checked_scores, checked_selection


def check_discovery(discovery: object, shape: tuple[int, int]) -> None:
    """Raise :class:`RunFailed` unless ``discovery`` keeps the contract of :class:`Discovery`.

    ``shape`` is the model's ``(n_layers, n_heads)``.
    """
    if not isinstance(discovery, Discovery):
        raise RunFailed(f"discover() must return a Discovery, not {type(discovery).__name__}")
    checked_scores(discovery.scores, *shape)
    if discovery.signed is not None:
        checked_scores(discovery.signed, *shape)
    checked_selection(discovery, *shape)
    for point in discovery.trace:
        checked_scores(point.scores, *shape)
    for point in discovery.trace:
        if not isinstance(point.queries, int | np.integer) or not 0 <= point.queries < 2**53:
            raise RunFailed("a trace's numbers of queries must be whole numbers of 0 or more")
    if any(b.queries <= a.queries for a, b in pairwise(discovery.trace)):
        raise RunFailed("trace must go by rising numbers of queries")
    for what, edges in (("scored", discovery.edges), ("selected", discovery.selected_edges)):
        strange = sorted(set(edges or ()).difference(graph_of(*shape, True).edges))
        if strange:
            raise RunFailed(
                f"{len(strange)} {what} edges cannot exist in a {shape[0]} x {shape[1]} model, "
                f"e.g. {strange[0]}; valid: embed->0.1.q, 0.1->2.3.k, m0->logits"
            )
    if discovery.signed_edges is not None:
        if discovery.signed_edges.keys() != (discovery.edges or {}).keys():
            raise RunFailed("signed_edges must score the same edges as edges")
        if not all(map(isfinite, discovery.signed_edges.values())):
            raise RunFailed("an edge's signed score is not a finite number")
