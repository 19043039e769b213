"""The networks: a flat MLP for one grid of heads, and attention over head tokens for any.

Both are policies of sb3-contrib's MaskablePPO, and each is a group of settings.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import torch
from sb3_contrib.common.maskable.distributions import MaskableDistribution
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from circuitbench import InvalidSpec
from circuitbench_agents.learning.settings import require_at_least_1
from circuitbench_baselines.episodes.rules import Observation

DEPTH = 2  # the column of a token that says how deep its layer is
WAVES = 6


@dataclass(frozen=True)
class Network(ABC):
    """A network by its settings; ``name`` and ``width`` are part of a checkpoint's layout.

    Args:
        width: of a hidden layer.
    """

    width: int

    name: ClassVar[str]
    observation: ClassVar[Observation]

    def __post_init__(self) -> None:
        require_at_least_1(self, "width")

    @abstractmethod
    def policy(self) -> str | type[MaskableActorCriticPolicy]:
        """What MaskablePPO takes as its policy."""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """The policy's keyword arguments."""


@dataclass(frozen=True)
class MLP(Network):
    """Two hidden layers of ``width`` units on the flat observation of one grid of heads.

    In an actor-critic they are tanh layers, policy and value apart (MechRL's network, Khadka
    2026, arXiv 2605.26343).
    """

    width: int = 256

    name: ClassVar[str] = "mlp"
    observation: ClassVar[Observation] = "flat"

    def policy(self) -> str:
        """sb3's own."""
        return "MlpPolicy"

    def arguments(self) -> dict[str, Any]:
        """The sizes."""
        return {"net_arch": [self.width, self.width], "activation_fn": nn.Tanh}


@dataclass(frozen=True)
class TokenAttention(Network):
    """Attention over head tokens, :class:`TokenPolicy`; its weights fit any grid of heads.

    Args:
        width: of a token.
        layers: attention blocks.
        attention_heads: of a block; they divide ``width``.
    """

    width: int = 32
    layers: int = 2
    attention_heads: int = 4

    name: ClassVar[str] = "tokens"
    observation: ClassVar[Observation] = "tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least_1(self, "layers", "attention_heads")
        if self.width % self.attention_heads:
            raise InvalidSpec(
                f"attention_heads must divide width; {self.attention_heads} does not divide "
                f"{self.width}"
            )

    def policy(self) -> type[MaskableActorCriticPolicy]:
        """Ours."""
        return TokenPolicy

    def arguments(self) -> dict[str, Any]:
        """The sizes."""
        return {"d": self.width, "layers": self.layers, "heads": self.attention_heads}


class TokenEncoder(BaseFeaturesExtractor):
    """Attention between layers of heads: ``[batch, n, features] -> [batch, n, d]``.

    Heads of one depth are averaged into their layer (Zaheer et al. 2017, Deep Sets, arXiv
    1703.06114), the layers attend to each other, and every head reads its layer. Permuting the
    heads permutes the output: what a head is, its token must say. Self-attention between all
    heads can express the same at about eight times the cost, and learnt less from as much.

    Depth is also given as a few cosines of it, which tell neighbouring layers apart.
    """

    def __init__(self, space: gymnasium.spaces.Box, d: int, layers: int, heads: int) -> None:
        super().__init__(space, d)
        features = space.shape[1] + WAVES
        self.embed = nn.Sequential(nn.Linear(features, d), nn.ReLU(), nn.Linear(d, d))
        self.blocks = nn.ModuleList(AttentionBlock(d, heads) for _ in range(layers))
        self.own, self.context = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode; all of a batch are on one grid."""
        depth = tokens[..., DEPTH]
        waves = torch.arange(1, WAVES + 1) * math.pi * depth[..., None]
        x = self.embed(torch.cat((tokens, waves.cos()), dim=-1))
        _, layer, sizes = torch.unique(depth[0], return_inverse=True, return_counts=True)
        sums = x.new_zeros(len(x), len(sizes), x.shape[2]).index_add(1, layer, x)
        context = sums / sizes[:, None]
        for block in self.blocks:
            context = block(context)
        return torch.relu(self.own(x) + self.context(context)[:, layer])


class AttentionBlock(nn.Module):
    """A pre-normalised transformer block without dropout."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.ReLU(), nn.Linear(2 * d, d))

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """``[batch, n, d] -> [batch, n, d]``; what is ``hidden [batch, 1, 1, n]`` is not seen."""
        batch, n, d = x.shape
        q, k, v = (
            part.view(batch, n, self.heads, d // self.heads).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        shown = None if hidden is None else ~hidden
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, shown)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, n, d))
        mlp: Tensor = self.mlp(self.norm2(x))
        return x + mlp


class TokenPools(nn.Module):
    """The policy reads every token, the value their mean."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.latent_dim_pi = self.latent_dim_vf = d

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """``[batch, n, d]`` to itself and ``[batch, d]``."""
        return tokens, tokens.mean(1)

    def forward_actor(self, tokens: Tensor) -> Tensor:
        """The policy's part."""
        return tokens

    def forward_critic(self, tokens: Tensor) -> Tensor:
        """The value's part."""
        return tokens.mean(1)


class TokenLogits(nn.Module):
    """One logit per head from its token, and further actions (stop) from the mean token."""

    def __init__(self, d: int, further: int) -> None:
        super().__init__()
        self.head = nn.Linear(d, 1)
        self.further = nn.Linear(d, further) if further else None

    def forward(self, tokens: Tensor) -> Tensor:
        """``[batch, n, d] -> [batch, n + further]``."""
        logits: Tensor = self.head(tokens)[..., 0]
        if self.further is None:
            return logits
        return torch.cat((logits, self.further(tokens.mean(1))), dim=1)


class TokenPolicy(MaskableActorCriticPolicy):
    """An actor-critic whose weights fit any number of heads."""

    def __init__(self, *args: Any, d: int, layers: int, heads: int, **kw: Any) -> None:
        kw["features_extractor_class"] = TokenEncoder
        kw["features_extractor_kwargs"] = {"d": d, "layers": layers, "heads": heads}
        super().__init__(*args, **kw)

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = TokenPools(self.features_dim)

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> MaskableDistribution:
        logits = self.action_net(latent_pi)
        self.action_dist.action_dim = logits.shape[1]  # as many actions as there are tokens
        return self.action_dist.proba_distribution(action_logits=logits)

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        further = int(self.action_space.n) - self.observation_space.shape[0]
        self.action_net = TokenLogits(self.features_dim, further)
        self.action_net.apply(lambda module: self.init_weights(module, gain=0.01))
        self.optimizer = self.optimizer_class(
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )
