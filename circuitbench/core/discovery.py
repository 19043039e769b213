"""What a method answers: a ranking of all heads, and the set it commits to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from circuitbench.core.circuit import Edge, Head


@dataclass(frozen=True)
class TracePoint:
    """The best ranking a method could have given after ``queries`` queries."""

    queries: int
    scores: np.ndarray  # [n_layers, n_heads]


@dataclass(frozen=True)
class Discovery:
    """A method's answer; complete without knowing the size of the true circuit.

    Args:
        scores: ``[n_layers, n_heads]``, finite; higher = more surely in the circuit.
        selected: the heads the method commits to.
        edges: optional score per edge.
        trace: optional ranking after q queries, q increasing.
        info: optional JSON-able extras (learning curves, chosen thresholds).
        signed: optional scores of the same shape, positive where a head helps and negative where
            it works against the task, from a method whose ``scores`` are magnitudes.
        signed_edges: the same of the edges that ``edges`` lists.
        selected_edges: the edges the method commits to; None if to no set of edges.
    """

    scores: np.ndarray
    selected: frozenset[Head]
    edges: Mapping[Edge, float] | None = None
    trace: Sequence[TracePoint] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    signed: np.ndarray | None = None
    signed_edges: Mapping[Edge, float] | None = None
    selected_edges: frozenset[Edge] | None = None
