"""A differentiable forward pass over plain :class:`Transformer` weights, for training them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from circuitbench.core.circuit import Ablation
from circuitbench.core.errors import InvalidSpec
from circuitbench.models.trained.weight_names import parameters, with_parameters
from circuitbench.models.transformer import LayerWeights, Transformer, TransformerConfig

Edit = Callable[[int, Tensor], Tensor]
"""Given a layer and its heads' outputs z ``[batch, pos, n_heads, d_head]``, what to use instead."""


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


def forward(
    model: Transformer, tokens: Tensor, edit: Edit | None = None
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Logits ``[batch, pos, d_vocab]``, and per layer z ``[batch, pos, n_heads, d_head]`` and
    attention patterns ``[batch, n_heads, query, key]``.

    ``edit`` may replace z before it is written to the residual stream. For models with learned
    positions, with layer norm or none, with ReLU MLPs or none.
    """
    config = model.config
    n, length = tokens.shape
    if model.W_pos is None or model.b_U is None:
        raise InvalidSpec("only models with learned positions and an output bias are trained here")
    residual = model.W_E[tokens] + model.W_pos[:length]
    hidden = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
    zs, patterns = [], []

    def normed(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        if weight is None:
            return x
        return functional.layer_norm(x, (config.d_model,), weight, bias, config.norm_eps)

    def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        flat = weight.transpose(0, 1).reshape(config.d_model, -1)
        out = (x @ flat).view(n, length, config.n_heads, config.d_head)
        return (out if bias is None else out + bias).transpose(1, 2)

    for i, layer in enumerate(model.layers):
        x = normed(residual, layer.ln1_w, layer.ln1_b)
        q = project(x, layer.W_Q, layer.b_Q)
        k = project(x, layer.W_K, layer.b_K)
        v = project(x, layer.W_V, layer.b_V)
        scores = (q @ k.transpose(-1, -2)) * config.attn_scale
        pattern = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        z = (pattern @ v).transpose(1, 2)
        if edit is not None:
            z = edit(i, z)
        zs.append(z)
        patterns.append(pattern)
        residual = residual + z.flatten(2) @ layer.W_O.flatten(0, 1)
        if layer.W_in is not None and layer.W_out is not None and layer.b_in is not None:
            inner = normed(residual, layer.ln2_w, layer.ln2_b) @ layer.W_in + layer.b_in
            residual = residual + inner.relu() @ layer.W_out
    residual = normed(residual, model.lnf_w, model.lnf_b)
    return residual @ model.W_U + model.b_U, zs, patterns


def keep(mask: Tensor) -> Edit:
    """Zero the heads where ``mask [n_layers, n_heads]`` is False."""
    return lambda layer, z: z * mask[layer, :, None]


def swap(heads: Iterable[tuple[int, int]], donors: list[Tensor]) -> Edit:
    """Take the named heads' z from ``donors`` (one tensor a layer, as :func:`forward` gives)."""
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)

    def edit(layer: int, z: Tensor) -> Tensor:
        if layer not in by_layer:
            return z
        chosen = torch.zeros(z.shape[2], dtype=torch.bool)
        chosen[by_layer[layer]] = True
        return torch.where(chosen[:, None], donors[layer], z)

    return edit


def replacement(donors: list[Tensor], ablation: Ablation) -> list[Tensor]:
    """What a head's output becomes under an ablation, one tensor a layer."""
    if ablation == "zero":
        return [torch.zeros_like(z) for z in donors]
    if ablation == "mean":
        return [z.mean(0, keepdim=True).expand_as(z) for z in donors]
    return donors


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
