"""Attention over the nodes and edges of a graph: one set of weights for any model.

A network sees what :meth:`circuitbench_agents.environments.edge_rules.EdgeEpisode.observe`
shows. An edge tells the nodes at its ends, the nodes attend to each other, and an edge hears the
nodes at its ends. Neither an edge nor a node has a number, so weights fit any graph and size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from sb3_contrib.common.maskable.distributions import MaskableDistribution
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from circuitbench_agents.learning.policies import AttentionBlock

Seen = Mapping[str, Tensor]


class GraphEncoder(nn.Module):
    """Edges, nodes and the whole as vectors of one width.

    Args:
        n_edge, n_node, n_global: features of each.
        width: of a vector.
        layers, heads: of the attention between nodes.
    """

    def __init__(
        self, n_edge: int, n_node: int, n_global: int, width: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.edge, self.node = _embedding(n_edge, width), _embedding(n_node, width)
        self.whole = nn.Linear(n_global, width)
        self.sent, self.heard = nn.Linear(width, width), nn.Linear(width, width)
        self.blocks = nn.ModuleList(AttentionBlock(width, heads) for _ in range(layers))
        self.own, self.ends = nn.Linear(width, width), nn.Linear(2 * width, width)

    def forward(self, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """``edges [b, k, d]``, ``nodes [b, n, d]``, ``whole [b, d]``; padding is to be ignored."""
        edges, nodes = self.edge(seen["edges"]), self.node(seen["nodes"])
        present = seen["nodes"][..., -1:]
        n, ends = nodes.shape[1], seen["ends"].long()
        real = (ends[..., :1] >= 0).float()
        places = ends.clamp(min=0)[..., None].expand(-1, -1, -1, edges.shape[2])
        told = []
        for end, linear in enumerate((self.sent, self.heard)):
            total = edges.new_zeros(len(edges), n + 1, edges.shape[2])
            total = total.scatter_add(1, places[:, :, end], linear(edges) * real)
            count = edges.new_zeros(len(edges), n + 1, 1)
            count = count.scatter_add(1, places[:, :, end, :1], real)
            told.append((total / count.clamp(min=1))[:, :n])
        x = nodes + told[0] + told[1] + self.whole(seen["globals"])[:, None]
        hidden = (present < 0.5).transpose(1, 2)[:, None] if (present < 0.5).any() else None
        for block in self.blocks:
            x = block(x, hidden)
        whole = (x * present).sum(1) / present.sum(1).clamp(min=1)
        # The logits stand behind the last node; what is known of the whole stands for them.
        at = torch.cat((x, whole[:, None]), dim=1)
        near = torch.cat([at.gather(1, places[:, :, end]) for end in range(2)], dim=-1)
        return torch.relu(self.own(edges) + self.ends(near)), x, whole


def _embedding(features: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width))


class GraphScorer(nn.Module):
    """Log odds that an edge, and a node, belongs to the circuit.

    Args:
        n_edge, n_node, n_global, width, layers, heads: see :class:`GraphEncoder`.
    """

    def __init__(
        self, n_edge: int, n_node: int, n_global: int, width: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.encoder = GraphEncoder(n_edge, n_node, n_global, width, layers, heads)
        self.edge = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))
        self.node = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))

    def forward(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """``[b, k]`` and ``[b, n]``."""
        edges, nodes, _ = self.encoder(seen)
        return self.edge(edges)[..., 0], self.node(nodes)[..., 0]


@dataclass(frozen=True)
class GraphSizes:
    """The sizes of a network over graphs.

    Args:
        width: of a vector; ``heads`` divide it.
        layers: blocks of attention between nodes.
        heads: of a block.
    """

    width: int = 32
    layers: int = 2
    heads: int = 4


class _Extractor(BaseFeaturesExtractor):
    """All vectors of a graph below each other: edges, nodes, the whole, ``[b, k + n + 1, d + 1]``.

    The last number says of an edge whether it is kept, and of a node whether it has one to cut.
    """

    def __init__(self, space: gymnasium.spaces.Dict, sizes: GraphSizes) -> None:
        super().__init__(space, sizes.width + 1)
        self.encoder = GraphEncoder(
            _shape(space, "edges")[-1],
            _shape(space, "nodes")[-1],
            _shape(space, "globals")[-1],
            sizes.width,
            sizes.layers,
            sizes.heads,
        )

    def forward(self, seen: Seen) -> Tensor:
        edges, nodes, whole = self.encoder(seen)
        vectors = torch.cat((edges, nodes, whole[:, None]), dim=1)
        left = (seen["edges"][..., -1], seen["nodes"][..., -2], torch.ones_like(whole[:, :1]))
        return torch.cat((vectors, torch.cat(left, dim=1)[..., None]), dim=2)


class _Pools(nn.Module):
    """The policy reads every vector, the value that of the whole."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.latent_dim_pi = self.latent_dim_vf = d

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        return vectors, vectors[:, -1]

    def forward_actor(self, vectors: Tensor) -> Tensor:
        return vectors

    def forward_critic(self, vectors: Tensor) -> Tensor:
        return vectors[:, -1]


class _Logits(nn.Module):
    """First what kind of action, then which: cut an edge, cut a group, kill a node, stop.

    The log odds of an edge are those of cutting an edge at all, plus its own among the edges; so
    that hundreds of edges do not outvote the rest. The same for nodes.
    """

    def __init__(self, d: int, n_edges: int, n_groups: int) -> None:
        super().__init__()
        self.n_edges, self.n_groups = n_edges, n_groups
        self.edge, self.node = nn.Linear(d, 1), nn.Linear(d, 1)
        self.kind = nn.Linear(d, n_groups + 3)

    def forward(self, vectors: Tensor) -> Tensor:
        edges, nodes = vectors[:, : self.n_edges], vectors[:, self.n_edges + 1 : -1]
        kind = self.kind(vectors[:, -1])
        groups, one, node, stop = kind.split((self.n_groups, 1, 1, 1), dim=1)
        each = _among(self.edge(edges)[..., 0], edges[..., -1])
        kill = _among(self.node(nodes)[..., 0], nodes[..., -1])
        return torch.cat((one + each, groups, node + kill, stop), dim=1)


def _among(logits: Tensor, left: Tensor) -> Tensor:
    """Log chances ``[b, n]`` among those that are left; the others are never taken."""
    logits = logits.masked_fill(left < 0.5, -1e4)
    return logits.log_softmax(1).clamp(min=-1e4)


class GraphPolicy(MaskableActorCriticPolicy):
    """An actor-critic on EdgePruning whose weights fit any graph."""

    def __init__(self, *args: Any, sizes: GraphSizes, n_groups: int, **kw: Any) -> None:
        self.n_groups = n_groups
        kw["features_extractor_class"] = _Extractor
        kw["features_extractor_kwargs"] = {"sizes": sizes}
        super().__init__(*args, **kw)

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = _Pools(self.features_dim)

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> MaskableDistribution:
        logits = self.action_net(latent_pi)
        self.action_dist.action_dim = logits.shape[1]
        return self.action_dist.proba_distribution(action_logits=logits)

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        n_edges = _shape(self.observation_space, "edges")[0]
        self.action_net = _Logits(self.features_dim, n_edges, self.n_groups)
        self.action_net.apply(lambda module: self.init_weights(module, gain=0.01))
        self.optimizer = self.optimizer_class(
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )


def _shape(space: gymnasium.Space[Any], name: str) -> tuple[int, ...]:
    assert isinstance(space, gymnasium.spaces.Dict)
    return tuple(space[name].shape or ())
