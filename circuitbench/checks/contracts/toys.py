"""A model and a task to check plug-ins on, small enough to ask thousands of times."""

from __future__ import annotations

import numpy as np
import torch

from circuitbench.core.circuit import Circuit, Head, Role
from circuitbench.models import LayerWeights, Model, Transformer, TransformerConfig
from circuitbench.tasks.base import Prompts, spans_at


def toy_model(n_layers: int = 3, n_heads: int = 4, seed: int = 0) -> Model:
    """A transformer of random weights, small enough to ask thousands of times."""
    rng = np.random.default_rng(seed)
    d_model, d_head, d_vocab, n_ctx = 12, 4, 11, 8

    def draw(*shape: int) -> torch.Tensor:
        return torch.as_tensor(rng.standard_normal(shape) / shape[-2] ** 0.5, dtype=torch.float32)

    layers = tuple(
        LayerWeights(
            W_Q=2 * draw(n_heads, d_model, d_head),
            W_K=2 * draw(n_heads, d_model, d_head),
            W_V=draw(n_heads, d_model, d_head),
            W_O=draw(n_heads, d_head, d_model),
        )
        for _ in range(n_layers)
    )
    config = TransformerConfig(
        n_layers=n_layers,
        n_heads=n_heads,
        d_model=d_model,
        d_head=d_head,
        d_vocab=d_vocab,
        n_ctx=n_ctx,
        attn_scale=d_head**-0.5,
    )
    transformer = Transformer(
        config, draw(d_vocab, d_model), draw(d_model, d_vocab), layers, W_pos=draw(n_ctx, d_model)
    )
    return Model("toy", n_layers, n_heads, transformer, provenance={"seed": seed})


class ToyTask:
    """Random prompts and a logit difference between two fixed tokens; its truth is arbitrary."""

    default_model = "toy"

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """``n`` prompts of 6 tokens, read at the last."""
        tokens = torch.as_tensor(rng.integers(1, 11, (n, 6)))
        counterfactual = tokens.clone()
        counterfactual[:, 2] = 1 + (tokens[:, 2] + torch.as_tensor(rng.integers(0, 9, n))) % 10
        return Prompts(
            tokens,
            counterfactual,
            torch.full((n, 1), 5),
            torch.tensor([[[3, 7]]]).expand(n, -1, -1),
            torch.tensor([[[1.0, -1.0]]]).expand(n, -1, -1),
            torch.tensor([3, 7]),
            spans_at(n, {"changed": 2, "read": 5}),
        )

    def control(self, model: Model, n: int, rng: np.random.Generator) -> torch.Tensor:
        """``n`` random spans of 7 tokens after a zero."""
        tokens = torch.as_tensor(rng.integers(1, 11, (n, 8)))
        tokens[:, 0] = 0
        return tokens

    def truth(self, model: Model) -> Circuit:
        """The first head of the last layer."""
        return Circuit({"toy": Role((Head(model.n_layers - 1, 0),))}, "arbitrary", "ambiguous")
