"""The edges an EdgePruning episode starts from: how they are chosen, what is known of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import torch

from circuitbench import (
    GRADIENT_COST,
    AblationName,
    GradPath,
    InvalidSpec,
    RuleName,
    Straight,
    rule_named,
)

if TYPE_CHECKING:
    from circuitbench import Batch, Oracle

Attribution = Literal["eap", "eap-ig", "eap-ig-kl", "eap-gp", "gim"]
"""Edge attributions by name; each is some gradients (three queries) on the episode's batch."""


class Asked(NamedTuple):
    """How an attribution is asked for, see :meth:`circuitbench.EdgeOracle.attribution`."""

    path: Straight | GradPath = Straight()
    of: Literal["task", "kl"] = "task"
    rule: RuleName = "exact"


_INPUTS = Straight(tuple(k / 5 for k in range(5)))

ASKED: dict[Attribution, Asked] = {
    "eap": Asked(),
    "eap-ig": Asked(_INPUTS),
    "eap-ig-kl": Asked(_INPUTS, "kl"),
    "eap-gp": Asked(GradPath(5)),
    "gim": Asked(rule="gim"),
}
"""EAP (Syed et al. 2023, arXiv 2310.10348), EAP-IG with five points (Hanna et al. 2024, arXiv
2403.17806) of the metric and of the KL divergence, EAP-GP (Zhang et al. 2025, arXiv 2502.06852),
GIM (Edin et al. 2025, arXiv 2505.17630).
"""

Probe = Literal["gates", "atp-star"]
"""What else may be asked about heads: slopes of their gates, and AtP*."""

OPENNESS: tuple[tuple[float, AblationName], ...] = (
    (1.0, "zero"),
    (1.0, "resample"),
    (0.75, "resample"),
    (0.5, "resample"),
    (0.25, "resample"),
)
"""Where ``gates`` takes the metric's slope: all heads' gates open so far, and what they mix in."""

PLACED = 9  # features of an edge that come from its place in the graph
PLACED_NODE = 5
PER_ATTRIBUTION, PER_ATTRIBUTION_NODE, PER_SLOPE = 3, 7, 3
SMALLEST = 1e-4  # of the largest size, below which sizes are not told apart
CLIP = 2.0  # of a slope, in clean metrics


def cost(
    attributions: tuple[Attribution, ...], probes: tuple[Probe, ...] = (), n_layers: int = 0
) -> int:
    """Queries that attributions, and probes of a model of so many layers, take."""
    passes = sum(ASKED[name].path.passes for name in attributions)
    passes += sum(n_layers if probe == "atp-star" else len(OPENNESS) for probe in probes)
    return GRADIENT_COST * passes


def edge_features(a: int) -> int:
    """How many features an edge has with ``a`` attributions."""
    return PLACED + PER_ATTRIBUTION * a


def node_features(a: int, probes: tuple[Probe, ...]) -> int:
    """How many features a node has with ``a`` attributions and some probes."""
    slopes = sum(1 if probe == "atp-star" else len(OPENNESS) for probe in probes)
    return PLACED_NODE + PER_ATTRIBUTION_NODE * a + PER_SLOPE * slopes


def effects(
    oracle: Oracle, batch: Batch, name: Attribution, ablation: AblationName | None
) -> np.ndarray:
    """An attribution of all edges ``[n_edges]``, on a batch.

    Raises :class:`InvalidSpec` for an unknown one, or as ``oracle.edges`` does.
    """
    if name not in ASKED:
        raise InvalidSpec(f"no attribution {name!r}; valid: {', '.join(ASKED)}")
    path, of, rule = ASKED[name]
    found = oracle.edges.attribution(path, of=of, ablation=ablation, batch=batch, rule=rule)
    return np.asarray(found.mean(0).double().numpy())


@dataclass(frozen=True)
class Candidates:
    """The edges of one model on one batch of one task that may be kept, and what is known of them.

    Nodes are the model's senders in their order (embedding, heads, MLPs); the logits stand behind
    the last of them.

    Args:
        oracle, batch: where questions are asked.
        edges: ``[k]`` places in ``oracle.edges.edges``, the strongest attribution first.
        ends: ``[k, 2]`` each edge's sender, and the node that hears through it.
        features: ``[k, edge_features]``: the edge's place in the graph, then for each attribution
            its size as a fraction of the largest, that on a log scale, and its rank.
        node_features: ``[n_nodes, node_features]``: a node's place; for each attribution the
            same three of the strongest edge that leaves the node and of the strongest into it,
            and the sum over the edges that leave it, in clean metrics; for each slope that in
            clean metrics, its rank, and its size on a log scale.
        n_nodes: senders of the model.
        worth, node_worth: ``[k]`` and ``[n_nodes]``, how surely each belongs to the circuit as far
            as is known, in [0, 1]; at first the size by the first attribution.
    """

    oracle: Oracle
    batch: Batch
    edges: np.ndarray
    ends: np.ndarray
    features: np.ndarray
    node_features: np.ndarray
    n_nodes: int
    worth: np.ndarray
    node_worth: np.ndarray

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
            still = np.asarray(kept & heard[self.ends[:, 0]] & speaks[self.ends[:, 1]])
            if (still == kept).all():
                return still
            kept = still


def candidates(
    oracle: Oracle,
    batch: Batch,
    k: int,
    attributions: tuple[Attribution, ...],
    ablation: AblationName | None,
    probes: tuple[Probe, ...] = (),
) -> Candidates:
    """Choose the ``k`` strongest edges by the first of some attributions, on a batch.

    The queries are :func:`cost` of the attributions and probes.
    """
    graph, unit = oracle.edges.graph, max(abs(batch.metric), 1e-9)
    found = np.stack([effects(oracle, batch, name, ablation) for name in attributions])
    best = np.argsort(-np.abs(found[0]), kind="stable")[:k]
    edges, nodes = _places(oracle, best)
    n_nodes, (source, target) = len(graph.senders), graph.ends.T
    for effect in found:
        size = np.abs(effect) / max(np.abs(effect).max(), 1e-12)
        edges += [size[best], _logs(size[best]), _ranks(size[best])]
        for end in (source, target):
            strongest = np.zeros(n_nodes + 1)
            np.maximum.at(strongest, end, size)
            nodes += [strongest[:-1], _logs(strongest[:-1]), _ranks(strongest[:-1])]
        summed = np.bincount(source, effect, minlength=n_nodes)
        nodes.append(np.clip(summed / unit, -CLIP, CLIP))
    heads = [i for i, name in enumerate(graph.senders) if "." in name]
    for slope in _slopes(oracle, batch, probes):
        size = np.abs(slope)
        told = (
            np.clip(slope / unit, -CLIP, CLIP),
            _ranks(size),
            _logs(size / max(size.max(), 1e-12)),
        )
        for column in told:
            nodes.append(np.zeros(n_nodes))
            nodes[-1][heads] = column
    return Candidates(
        oracle,
        batch,
        best,
        graph.ends[best],
        np.stack(edges, axis=1).astype(np.float32),
        np.stack(nodes, axis=1).astype(np.float32),
        n_nodes,
        edges[PLACED + 1],
        nodes[PLACED_NODE + 1],
    )


def _slopes(oracle: Oracle, batch: Batch, probes: tuple[Probe, ...]) -> list[np.ndarray]:
    """What probes say of all heads, ``[n_heads in all]`` each."""
    found = []
    for probe in probes:
        if probe not in get_args(Probe):
            raise InvalidSpec(f"no probe {probe!r}; valid: {', '.join(get_args(Probe))}")
        if probe == "gates":
            for openness, ablation in OPENNESS:
                gates = torch.full((1, *oracle.shape), openness)
                slope = oracle.gradient(gates, ablation=ablation, batch=batch)
                found.append(slope.double().numpy().ravel())
            continue
        rule, gates = rule_named("atp-qk"), torch.ones(1, *oracle.shape)
        layers = [
            oracle.gradient(gates, ablation="resample", rule=rule.dropping(layer), batch=batch)
            for layer in range(oracle.n_layers)
        ]
        effects = torch.cat(layers).double().abs().sum(0) / max(1, oracle.n_layers - 1)
        found.append(effects.numpy().ravel())
    return found


def _ranks(x: np.ndarray) -> np.ndarray:
    """The share of entries that each one exceeds, in [0, 1)."""
    return np.asarray(np.searchsorted(np.sort(x), x) / max(len(x), 1))


def _logs(sizes: np.ndarray) -> np.ndarray:
    """Fractions of the largest on a log scale, 0 for the smallest told apart, 1 for 1."""
    return np.asarray(1 + np.log10(sizes + SMALLEST) / -np.log10(SMALLEST))


def _places(oracle: Oracle, best: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Where edges and nodes stand in the graph, feature by feature ``[k]`` and ``[n_nodes]``.

    An edge: depth of both ends, whether the sender is a head or an MLP (else the embedding),
    whether the receiver is a query, key, value, MLP or the logits. A node: its depth, cosines of
    twice and four times that, whether it is a head or an MLP.
    """
    graph, layers = oracle.edges.graph, oracle.n_layers
    mlp = np.array([name.startswith("m") for name in graph.senders])
    head = np.array(["." in name for name in graph.senders])
    layer = np.array(
        [-1 if n == "embed" else int(n.lstrip("m").split(".")[0]) for n in graph.senders]
    )
    depth = (layer + 1) / (layers + 1)
    sender, receiver = graph.ends[best].T
    names = [graph.receivers[graph.pairs[i][0]] for i in best]
    hears = ["logits" if n == "logits" else "m" if n.startswith("m") else n[-1] for n in names]
    kinds = [np.array([h == kind for h in hears]) for kind in ("q", "k", "v", "m", "logits")]
    edges = [depth[sender], np.append(depth, 1.0)[receiver], head[sender], mlp[sender], *kinds]
    nodes = [depth, np.cos(2 * np.pi * depth), np.cos(4 * np.pi * depth), head, mlp]
    return edges, nodes
