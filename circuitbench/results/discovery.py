"""A method's answer as a record keeps it, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from circuitbench.core.circuit import Edge, Head
from circuitbench.core.discovery import Discovery, TracePoint
from circuitbench.evaluation.outcome import grid_of_numbers, whole_number
from circuitbench.results.plain import bounded, plain


def plain_discovery(discovery: Discovery) -> dict[str, Any]:
    """``discovery`` as plain JSON data.

    Scores keep every digit; those of the trace are rounded. ``info`` has limits (see
    :func:`~circuitbench.results.plain.bounded`). Raises :class:`RunFailed` or
    :class:`InvalidSpec` naming the place of what a record cannot hold.
    """
    content = {
        "scores": np.asarray(discovery.scores, dtype=float),
        "selected": [str(head) for head in sorted(discovery.selected)],
        "edges": None
        if discovery.edges is None
        else {str(edge): float(score) for edge, score in discovery.edges.items()},
        "trace": [
            {"queries": point.queries, "scores": _rounded(point.scores)}
            for point in discovery.trace
        ],
        "info": bounded(discovery.info, "discovery.info"),
    }
    if discovery.signed is not None:
        content["signed"] = np.asarray(discovery.signed, dtype=float)
    if discovery.signed_edges is not None:
        signed = discovery.signed_edges.items()
        content["signed_edges"] = {str(edge): float(score) for edge, score in signed}
    if discovery.selected_edges is not None:
        content["selected_edges"] = [str(edge) for edge in sorted(discovery.selected_edges)]
    kept: dict[str, Any] = plain(content, "discovery")
    return kept


def read_discovery(stored: Mapping[str, Any]) -> Discovery:
    """The answer that :func:`plain_discovery` made ``stored`` of, but for the trace's digits.

    Raises ``LookupError``, ``TypeError`` or ``ValueError`` where it does not hold together.
    """
    signed, selected_edges = stored.get("signed"), stored.get("selected_edges")
    return Discovery(
        scores=grid_of_numbers(stored["scores"]),
        selected=frozenset(map(Head.parse, stored["selected"])),
        edges=_read_edges(stored.get("edges")),
        trace=[
            TracePoint(whole_number(point["queries"]), grid_of_numbers(point["scores"]))
            for point in stored.get("trace") or ()
        ],
        info=stored.get("info") or {},
        signed=None if signed is None else grid_of_numbers(signed),
        signed_edges=_read_edges(stored.get("signed_edges")),
        selected_edges=None
        if selected_edges is None
        else frozenset(map(Edge.parse, selected_edges)),
    )


def _read_edges(stored: Mapping[str, float] | None) -> dict[Edge, float] | None:
    if stored is None:
        return None
    scores = grid_of_numbers(list(stored.values()))
    return dict(zip(map(Edge.parse, stored), scores.tolist(), strict=True))


def _rounded(scores: np.ndarray) -> list[list[float]]:
    """Six significant digits, more only where six would tie scores that differ.

    A trace is drawn and ranked, not computed with, and is most of a record.
    """
    exact = np.asarray(scores, dtype=float)
    distinct = len(np.unique(exact))
    for digits in (6, 9, 12):
        rounded = [[float(f"{x:.{digits}g}") for x in row] for row in exact]
        if len(np.unique(rounded)) == distinct:
            return rounded
    return [[float(x) for x in row] for row in exact]
