"""A model whose heads each add a stated amount to the metric, so that damages are known."""

import numpy as np
import torch

from circuitbench.core.circuit import Circuit, Head, Role
from circuitbench.models import LayerWeights, Model, Transformer, TransformerConfig
from circuitbench.tasks import Prompts

D_VOCAB = 6


def additive_model(gains: np.ndarray) -> Model:
    """Zero-ablating head (l, h) lowers the logit difference by exactly gains[l, h]."""
    n_layers, n_heads = gains.shape
    zeros = torch.zeros(n_heads, 2, 1)
    layers = tuple(
        LayerWeights(
            W_Q=zeros,
            W_K=zeros,
            W_V=zeros,
            W_O=torch.tensor([[[1.0, 0.0]]]).expand(n_heads, -1, -1).contiguous(),
            b_V=torch.as_tensor(row, dtype=torch.float32)[:, None],
        )
        for row in gains
    )
    unembed = torch.zeros(2, D_VOCAB)
    unembed[0, 1] = 1.0
    config = TransformerConfig(
        n_layers, n_heads, d_model=2, d_head=1, d_vocab=D_VOCAB, n_ctx=4, attn_scale=1.0
    )
    weights = Transformer(config, torch.zeros(D_VOCAB, 2), unembed, layers, torch.zeros(4, 2))
    return Model("additive", n_layers, n_heads, weights)


class FixedDifference:
    """Logit of token 1 against token 2, at the last of four random tokens."""

    default_model = "additive"

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        tokens = torch.as_tensor(rng.integers(0, D_VOCAB, (n, 4)))
        return Prompts(
            tokens,
            (tokens + 1) % D_VOCAB,
            torch.full((n, 1), 3),
            torch.tensor([[[1, 2]]]).expand(n, -1, -1),
            torch.tensor([[[1.0, -1.0]]]).expand(n, -1, -1),
            torch.tensor([1, 2]),
        )

    def control(self, model: Model, n: int, rng: np.random.Generator) -> torch.Tensor:
        return torch.as_tensor(rng.integers(0, D_VOCAB, (n, 4)))

    def truth(self, model: Model) -> Circuit:
        return Circuit({"all": Role((Head(0, 0),))}, "by hand", "constructed")


GAINS = np.array([[3.0, 0.0, 0.5], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
