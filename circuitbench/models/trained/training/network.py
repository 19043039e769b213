"""Weights to train, and what is done to heads' outputs while they are trained and measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from circuitbench.models.forward import Edit
from circuitbench.models.transformer import LayerWeights, Transformer, TransformerConfig
from circuitbench.models.weight_names import parameters, with_parameters


def initial(config: TransformerConfig, rng: np.random.Generator) -> Transformer:
    """Fresh attention-only weights with gradients on, drawn from ``rng``.

    Embeddings, queries, keys and values have standard deviation ``0.8 / sqrt(d_model)``; what
    writes to the residual stream is smaller by ``sqrt(2 * n_layers)``, as in GPT-2.
    """
    heads, d_model, d_head = config.n_heads, config.d_model, config.d_head

    def drawn(*shape: int, scale: float = 0.8) -> Tensor:
        values = rng.normal(0.0, scale / math.sqrt(d_model), shape)
        return torch.tensor(values, dtype=torch.float32).requires_grad_()

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, requires_grad=True)

    def norm(value: float) -> Tensor | None:
        wanted = config.normalization == "layer"
        return torch.full((d_model,), value, requires_grad=True) if wanted else None

    layers = tuple(
        LayerWeights(
            W_Q=drawn(heads, d_model, d_head),
            W_K=drawn(heads, d_model, d_head),
            W_V=drawn(heads, d_model, d_head),
            W_O=drawn(heads, d_head, d_model, scale=0.8 / math.sqrt(2 * config.n_layers)),
            b_Q=zeros(heads, d_head),
            b_K=zeros(heads, d_head),
            ln1_w=norm(1.0),
            ln1_b=norm(0.0),
        )
        for _ in range(config.n_layers)
    )
    return Transformer(
        config,
        W_E=drawn(config.d_vocab, d_model),
        W_U=drawn(d_model, config.d_vocab),
        layers=layers,
        W_pos=drawn(config.n_ctx, d_model),
        b_U=zeros(config.d_vocab),
        lnf_w=norm(1.0),
        lnf_b=norm(0.0),
    )


def detached(model: Transformer) -> Transformer:
    """The same weights without gradients."""
    return with_parameters(
        model.config, {k: v.detach().contiguous() for k, v in parameters(model).items()}
    )


def keep(mask: Tensor) -> Edit:
    """Zero the heads where ``mask [n_layers, n_heads]`` is False."""
    return lambda layer, z: z * mask[layer, :, None]


def swap(heads: Iterable[tuple[int, int]], given: list[Tensor]) -> Edit:
    """Take the named heads' z from ``given`` (one tensor a layer)."""
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)

    def edit(layer: int, z: Tensor) -> Tensor:
        if layer not in by_layer:
            return z
        chosen = torch.zeros(z.shape[2], dtype=torch.bool)
        chosen[by_layer[layer]] = True
        return torch.where(chosen[:, None], given[layer], z)

    return edit


REPLACEMENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "zero": torch.zeros_like,
    "mean": lambda z: z.mean(0, keepdim=True).expand_as(z),
    "resample": lambda z: z,
}
"""The ablations a trained circuit is verified under: from z on the counterfactual prompts to what
takes a head's place (the same as the oracle's ablations of these names).
"""


def adam(
    model: Transformer, lr: float, weight_decay: float = 0.0
) -> tuple[torch.optim.Optimizer, list[Tensor]]:
    """AdamW over all weights (decay on matrices only), and the list of them."""
    named = parameters(model)
    matrices = [v for k, v in named.items() if k.rsplit(".", 1)[-1].startswith("W_")]
    others = [v for k, v in named.items() if not k.rsplit(".", 1)[-1].startswith("W_")]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98)), [*matrices, *others]
