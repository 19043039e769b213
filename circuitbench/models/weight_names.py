"""A model's weights as one flat dictionary, and back: how they are optimised and stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from torch import Tensor

from circuitbench.models.transformer import LayerWeights, Transformer, TransformerConfig


def parameters(model: Transformer) -> dict[str, Tensor]:
    """All weights by name: ``W_E``, ``layers.0.W_Q``, ..."""
    named = {k: v for k, v in vars(model).items() if isinstance(v, Tensor)}
    for i, layer in enumerate(model.layers):
        named |= {f"layers.{i}.{k}": v for k, v in vars(layer).items() if isinstance(v, Tensor)}
    return named


def with_parameters(config: TransformerConfig, named: Mapping[str, Tensor]) -> Transformer:
    """The model whose :func:`parameters` are ``named``."""
    layers = []
    for i in range(config.n_layers):
        names = {f.name: f"layers.{i}.{f.name}" for f in fields(LayerWeights)}
        layers.append(LayerWeights(**{k: named[v] for k, v in names.items() if v in named}))
    rest = {k: v for k, v in named.items() if "." not in k}
    return Transformer(config, layers=tuple(layers), **rest)
