"""The networks: a flat MLP for one grid of heads, and attention over head tokens for any.

Both are policies of sb3-contrib's MaskablePPO.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import torch
from sb3_contrib.common.maskable.distributions import MaskableDistribution
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

DEPTH = 2  # the column of a token that says how deep its layer is
WAVES = 6


def mlp_arguments(width: int) -> dict[str, Any]:
    """The seed's network, for sb3's ``MlpPolicy``: two tanh layers, policy and value apart."""
    return {"net_arch": [width, width], "activation_fn": nn.Tanh}


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

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, n, d] -> [batch, n, d]``."""
        batch, n, d = x.shape
        q, k, v = (
            part.view(batch, n, self.heads, d // self.heads).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
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

    def __init__(self, *args: Any, d: int = 32, layers: int = 2, heads: int = 4, **kw: Any) -> None:
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
