"""The residual graph: every connection a decoder-only model could have, in one order.

All that speaks of all edges of a model (the edge oracle's masks, the scoring of found edges)
takes them from here.
"""

from __future__ import annotations

import re
from functools import cached_property, lru_cache

import numpy as np

from circuitbench.core.circuit import Edge


class Graph:
    """All senders, receivers and edges of a decoder-only model, in order of computation.

    Heads come before their layer's MLP; a receiver hears every sender before it.

    Args:
        n_layers, n_heads: of the model.
        mlps: whether layers have an MLP.

    Attributes:
        senders: ``embed``, heads ``"3.1"``, MLPs ``"m3"``.
        receivers: heads' inputs ``"9.6.q"``, MLPs ``"m3"``, ``logits``.
        pairs: ``(receiver, sender)`` indices of every edge, receiver by receiver.
    """

    def __init__(self, n_layers: int, n_heads: int, mlps: bool) -> None:
        self.senders = ["embed"]
        self.receivers: list[str] = []
        self.pairs: list[tuple[int, int]] = []
        for layer in range(n_layers):
            for head in range(n_heads):
                for letter in "qkv":
                    self._receive(f"{layer}.{head}.{letter}")
            self.senders += [f"{layer}.{head}" for head in range(n_heads)]
            if mlps:
                self._receive(f"m{layer}")
                self.senders.append(f"m{layer}")
        self._receive("logits")

    def _receive(self, receiver: str) -> None:
        self.pairs += [(len(self.receivers), sender) for sender in range(len(self.senders))]
        self.receivers.append(receiver)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Every edge, in the order of :attr:`pairs`."""
        return tuple(Edge(self.senders[s], self.receivers[r]) for r, s in self.pairs)

    @cached_property
    def ends(self) -> np.ndarray:
        """``[n_edges, 2]``: each edge's sender, and the sender that hears through it.

        Senders by their place in :attr:`senders`; the logits send nothing and stand behind them.
        """
        place = {name: i for i, name in enumerate(self.senders)}
        hears = [place.get(re.sub(r"\.[qkv]$", "", name), len(place)) for name in self.receivers]
        return np.array([(sender, hears[receiver]) for receiver, sender in self.pairs])


def edge_count(n_layers: int, n_heads: int, mlps: bool) -> int:
    """How many edges the :class:`Graph` of a shape has, without making it."""
    senders, edges = 1, 0
    for _ in range(n_layers):
        edges += 3 * n_heads * senders
        senders += n_heads
        if mlps:
            edges += senders
            senders += 1
    return edges + senders


@lru_cache(maxsize=8)
def graph_of(n_layers: int, n_heads: int, mlps: bool) -> Graph:
    """The :class:`Graph` of a shape, made once; it is shared, so leave it as it is."""
    return Graph(n_layers, n_heads, mlps)
