"""What a method answers: a ranking of all heads, and the set it commits to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from circuitbench.core.circuit import Circuit, Edge, Head, head_grid
from circuitbench.core.display import Displayed, Grid, Sheet, listed
from circuitbench.core.errors import InvalidSpec, UnknownName

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TracePoint:
    """The best ranking a method could have given after ``queries`` queries."""

    queries: int
    scores: np.ndarray  # [n_layers, n_heads]


@dataclass(frozen=True)
class Discovery(Displayed):
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

    def plot(
        self,
        what: Literal["heads", "edges"] = "heads",
        truth: Circuit | None = None,
        top: int | None = None,
    ) -> Figure:
        """Draw it: ``heads`` as a heat map, ``edges`` as a graph. Notebooks show the figure.

        Args:
            what: which of the two.
            truth: to be drawn beside it: true heads outlined, edges coloured by right and wrong.
            top: draw that many best scored edges; None: those committed to, or 40.

        Raises:
            UnknownName: neither heads nor edges.
            InvalidSpec: edges are asked for and none are scored; ``top`` is below 1.
            MissingExtra: matplotlib is not installed.
        """
        from circuitbench.core.plots import plot_edges, plot_heads

        if what not in ("heads", "edges"):
            raise UnknownName("plot", what, ("heads", "edges"))
        if what == "heads":
            return plot_heads(np.asarray(self.scores, dtype=float), self.selected, truth)
        if self.edges is None:
            raise InvalidSpec("this discovery scores no edges; plot('heads') draws its heads")
        return plot_edges(np.shape(self.scores), self.edges, self.selected_edges, truth, top)

    def sheet(self) -> Sheet:
        """The heads it commits to, and a heat map of the scores."""
        scores = np.asarray(self.scores, dtype=float)
        n_layers, n_heads = scores.shape
        rows = [("committed to", listed(sorted(self.selected)))]
        if self.edges is not None:
            rows.append(("edges scored", str(len(self.edges))))
        if self.selected_edges is not None:
            rows.append(("edges committed to", listed(sorted(self.selected_edges))))
        grid = Grid(scores, head_grid(self.selected, n_layers, n_heads))
        note = "Rows are layers; dark = scored high; ● = committed to."
        return Sheet(f"Discovery over {n_layers} x {n_heads} heads", rows, grid=grid, note=note)
