"""The edges an EdgePruning episode starts from: how they are chosen, what is known of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from circuitbench import GRADIENT_COST, AblationName, GradPath, InvalidSpec, Straight

if TYPE_CHECKING:
    from circuitbench import Batch, Oracle

Attribution = Literal["eap", "eap-ig", "eap-ig-kl", "eap-gp"]
"""Edge attributions by name; each is some gradients (three queries) on the episode's batch."""

PATHS: dict[Attribution, tuple[Straight | GradPath, Literal["task", "kl"]]] = {
    "eap": (Straight(), "task"),
    "eap-ig": (Straight(tuple(k / 5 for k in range(5))), "task"),
    "eap-ig-kl": (Straight(tuple(k / 5 for k in range(5))), "kl"),
    "eap-gp": (GradPath(5), "task"),
}
"""EAP (Syed et al. 2023, arXiv 2310.10348), EAP-IG with five points (Hanna et al. 2024, arXiv
2403.17806) of the metric and of the KL divergence, EAP-GP (Zhang et al. 2025, arXiv 2502.06852).
"""

N_PLACED = 12  # features of an edge that come from its place in the graph
N_PLACED_NODE = 5  # the same of a node


def cost(attributions: tuple[Attribution, ...]) -> int:
    """Queries that some attributions take."""
    return sum(GRADIENT_COST * PATHS[name][0].passes for name in attributions)


def effects(
    oracle: Oracle, batch: Batch, name: Attribution, ablation: AblationName | None
) -> np.ndarray:
    """An attribution of all edges ``[n_edges]``, on a batch.

    Raises :class:`InvalidSpec` for an unknown one, or as ``oracle.edges`` does.
    """
    if name not in PATHS:
        raise InvalidSpec(f"no attribution {name!r}; valid: {', '.join(PATHS)}")
    path, of = PATHS[name]
    found = oracle.edges.attribution(path, of=of, ablation=ablation, batch=batch).mean(0)
    return found.double().numpy()


@dataclass(frozen=True)
class Candidates:
    """The edges of one model on one batch of one task that may be kept, and what is known of them.

    Nodes are the model's senders in their order (embedding, heads, MLPs); the logits stand behind
    the last of them.

    Args:
        oracle, batch: where questions are asked.
        edges: ``[k]`` places in ``oracle.edges.edges``, the strongest attribution first.
        ends: ``[k, 2]`` each edge's sender, and the node that hears through it.
        features: ``[k, N_PLACED + 2 a]``: the edge's place in the graph, then for each of ``a``
            attributions its size as a fraction of the largest, and its rank in [0, 1] (1 = top).
        node_features: ``[n_nodes, N_PLACED_NODE + a]``: a node's place, then the size of the
            strongest edge that leaves it, as a fraction of the largest.
        n_nodes: senders of the model.
        n_layers, n_heads: of the model.
    """

    oracle: Oracle
    batch: Batch
    edges: np.ndarray
    ends: np.ndarray
    features: np.ndarray
    node_features: np.ndarray
    n_nodes: int
    n_layers: int
    n_heads: int

    def __len__(self) -> int:
        return len(self.edges)

    def mask(self, kept: np.ndarray) -> torch.Tensor:
        """The edge mask ``[n_edges]`` that keeps the candidates ``kept [k]`` alone."""
        mask = torch.zeros(len(self.oracle.edges.edges), dtype=torch.bool)
        mask[torch.from_numpy(self.edges[kept])] = True
        return mask

    def alive(self, kept: np.ndarray) -> np.ndarray:
        """Those of ``kept [k]`` on a path of kept edges from the embedding to the logits."""
        while True:
            heard = np.zeros(self.n_nodes + 1, bool)  # by whom anything arrives
            heard[0] = True
            heard[self.ends[kept, 1]] = True
            speaks = np.zeros(self.n_nodes + 1, bool)  # who is listened to
            speaks[-1] = True
            speaks[self.ends[kept, 0]] = True
            still = kept & heard[self.ends[:, 0]] & speaks[self.ends[:, 1]]
            if (still == kept).all():
                return still
            kept = still


def candidates(
    oracle: Oracle,
    batch: Batch,
    k: int,
    attributions: tuple[Attribution, ...],
    ablation: AblationName | None,
) -> Candidates:
    """Choose the ``k`` strongest edges by the first of some attributions, on a batch.

    The queries are :func:`cost` of the attributions.
    """
    found = np.stack([np.abs(effects(oracle, batch, name, ablation)) for name in attributions])
    best = np.argsort(-found[0], kind="stable")[:k]
    scale = np.maximum(found.max(1, keepdims=True), 1e-12)
    sizes = found / scale
    graph = oracle.edges.graph
    ends = graph.ends[best]
    n_nodes = len(graph.senders)
    ranks = np.stack([_ranks(size[best]) for size in sizes], axis=1)
    placed, node_placed = _places(oracle, best, ends)
    strongest = np.zeros((n_nodes, len(attributions)))
    for a, size in enumerate(sizes):
        np.maximum.at(strongest[:, a], graph.ends[:, 0], size)
    return Candidates(
        oracle,
        batch,
        best,
        ends,
        np.concatenate((placed, sizes[:, best].T, ranks), axis=1, dtype=np.float32),
        np.concatenate((node_placed, strongest), axis=1, dtype=np.float32),
        n_nodes,
        oracle.n_layers,
        oracle.n_heads,
    )


def _ranks(x: np.ndarray) -> np.ndarray:
    """The share of entries that each one is at least as large as."""
    return np.searchsorted(np.sort(x), x, side="right") / max(len(x), 1)


def _places(oracle: Oracle, best: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where edges ``[k, N_PLACED]`` and nodes ``[n_nodes, N_PLACED_NODE]`` stand in the graph.

    An edge: depth of both ends and their distance, whether the sender is the embedding, a head or
    an MLP, whether the receiver is a query, key, value, an MLP or the logits, and one. A node:
    depth, whether it is the embedding, a head or an MLP, and one.
    """
    graph, layers = oracle.edges.graph, oracle.n_layers
    depth, kind = [], []
    for name in graph.senders:
        kind.append(0 if name == "embed" else 2 if name.startswith("m") else 1)
        layer = -1 if name == "embed" else int(name.lstrip("m").split(".")[0])
        depth.append((layer + 1) / (layers + 1))
    depths, kinds = np.array([*depth, 1.0]), np.eye(3)[kind]
    letters = {"q": 0, "k": 1, "v": 2}
    receivers = [graph.receivers[graph.pairs[i][0]] for i in best]
    hears = np.eye(5)[
        [4 if r == "logits" else 3 if r.startswith("m") else letters[r[-1]] for r in receivers]
    ]
    sender, receiver = depths[ends[:, 0]], depths[ends[:, 1]]
    one = np.ones((len(best), 1))
    between = np.stack((sender, receiver, receiver - sender), axis=1)
    edges = np.concatenate((between, kinds[ends[:, 0]], hears.reshape(-1, 5), one), axis=1)
    n = len(graph.senders)
    return edges, np.concatenate((depths[:n, None], kinds, np.ones((n, 1))), axis=1)
