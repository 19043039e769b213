"""Discoveries drawn: heads as a heat map, edges as a graph. Needs matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitbench.core.circuit import Circuit, Edge, Head, head_grid
from circuitbench.core.errors import InvalidSpec
from circuitbench.core.extras import needs_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOUND, MISSED, WRONG, PLAIN = "#1b7837", "#e08214", "#b2182b", "#4575b4"
MOST_EDGES = 40  # that are drawn where a method commits to none


def plot_heads(scores: np.ndarray, selected: frozenset[Head], truth: Circuit | None) -> Figure:
    """``scores [n_layers, n_heads]`` as a heat map; committed heads marked, true ones outlined."""
    n_layers, n_heads = scores.shape
    figure, axes = _figure(2.2 + 0.34 * n_heads, 1.3 + 0.34 * n_layers)
    image = axes.imshow(scores, cmap="Blues", origin="lower", aspect="equal")
    figure.colorbar(image, ax=axes, label="score", shrink=0.8)
    chosen = np.argwhere(head_grid(selected, n_layers, n_heads))
    axes.plot(chosen[:, 1], chosen[:, 0], "o", color="black", markersize=4, label="committed to")
    if truth is not None:
        for layer, head in sorted(truth.heads):
            axes.add_patch(_square(layer, head))
        axes.plot([], [], "s", mfc="none", mec=MISSED, mew=1.5, label="true")
    axes.set(xlabel="head", ylabel="layer")
    axes.set_xticks(_ticks(n_heads))
    axes.set_yticks(_ticks(n_layers))
    _legend(axes)
    return figure


def plot_edges(
    shape: tuple[int, ...],
    scores: Mapping[Edge, float],
    selected: frozenset[Edge] | None,
    truth: Circuit | None,
    top: int | None,
) -> Figure:
    """The committed edges as a graph, layers upwards; ``top``: that many best scored instead.

    Where the truth names edges, those found, missed and wrongly found have colours.

    Args:
        shape: ``(n_layers, n_heads)`` of the model.
        scores: of every edge the method lists.
        selected: the edges it commits to; None: to none, then the 40 best are drawn.
        truth: the true circuit, if it is to be seen.
        top: how many edges to draw instead of the committed ones.

    Raises:
        InvalidSpec: ``top`` is below 1.
    """
    if top is not None and top < 1:
        raise InvalidSpec(f"top must be 1 or more, not {top}")
    n_layers, n_heads = shape
    if top is None and selected is not None:
        drawn = selected
    else:
        ranked = sorted(scores, key=lambda edge: (-scores[edge], edge))
        drawn = frozenset(ranked[: top or MOST_EDGES])
    true = None if truth is None or truth.edges is None else truth.edges
    sets = (
        [("edges", drawn, PLAIN)]
        if true is None
        else [
            ("found", drawn & true, FOUND),
            ("missed", true - drawn, MISSED),
            ("wrongly found", drawn - true, WRONG),
        ]
    )
    figure, axes = _figure(2.4 + 0.75 * n_heads, 1.6 + 0.75 * n_layers)
    place = _places(n_layers, n_heads)
    bound = max((abs(score) for score in scores.values()), default=0.0) or 1.0
    nodes: set[str] = set()
    for label, edges, colour in sets:
        axes.plot([], [], color=colour, label=f"{label} ({len(edges)})")
        for edge in sorted(edges):
            ends = _ends(edge)
            nodes.update(ends)
            weight = abs(scores.get(edge, 0.0)) / bound
            (x, y), (u, v) = (place[end] for end in ends)
            axes.annotate(
                "",
                (u, v),
                (x, y),
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": colour,
                    "lw": 0.6 + 2 * weight,
                    "alpha": 0.75,
                    "shrinkA": 9,
                    "shrinkB": 9,
                    "connectionstyle": "arc3,rad=0.08",
                },
            )
    for name in sorted(nodes | {"embed", "logits"}):
        x, y = place[name]
        axes.text(
            x, y, name, ha="center", va="center", fontsize=7,
            bbox={"boxstyle": "round,pad=0.25", "fc": "white", "ec": "#777777", "lw": 0.7},
        )  # fmt: skip
    axes.set_xlim(-0.8, n_heads + 0.8)
    axes.set_ylim(-1.6, n_layers + 0.6)
    axes.axis("off")
    _legend(axes)
    return figure


def _places(n_layers: int, n_heads: int) -> dict[str, tuple[float, float]]:
    """Where every node stands: embeddings below, logits above, MLPs to the right of the heads."""
    middle = (n_heads - 1) / 2
    heads = {
        str(Head(layer, head)): (float(head), layer - 0.12 * (head % 2))
        for layer in range(n_layers)
        for head in range(n_heads)
    }
    mlps = {f"m{layer}": (n_heads + 0.3, layer + 0.4) for layer in range(n_layers)}
    return {**heads, **mlps, "embed": (middle, -1.2), "logits": (middle, float(n_layers))}


def _ends(edge: Edge) -> tuple[str, str]:
    """The nodes it connects: a head's three inputs are one node."""
    return edge.sender, re.sub(r"\.[qkv]$", "", edge.receiver)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure that a notebook shows, without pyplot's global state."""
    with needs_extra("a plot"):
        from matplotlib.figure import Figure

    class Shown(Figure):
        def _repr_svg_(self) -> str:
            text = io.StringIO()
            self.savefig(text, format="svg")
            return text.getvalue()

    figure = Shown(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _square(layer: int, head: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((head - 0.5, layer - 0.5), 1, 1, fill=False, ec=MISSED, lw=1.5)


def _ticks(n: int) -> range:
    return range(0, n, max(1, -(-n // 12)))


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, fontsize=8, frameon=False)
