"""Whether what a method answered can be scored at all."""

from __future__ import annotations

from itertools import pairwise

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
    if any(b.queries <= a.queries for a, b in pairwise(discovery.trace)):
        raise RunFailed("trace must go by rising numbers of queries")
    if discovery.edges:
        strange = sorted(set(discovery.edges).difference(graph_of(*shape, True).edges))
        if strange:
            raise RunFailed(
                f"{len(strange)} scored edges cannot exist in a {shape[0]} x {shape[1]} model, "
                f"e.g. {strange[0]}; valid: embed->0.1.q, 0.1->2.3.k, m0->logits"
            )
