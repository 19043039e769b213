"""Plain per-layer weights of a decoder-only transformer: what the engine computes with.

Every model, whether built by hand or read from a loaded checkpoint, is brought to this form
once; nothing after that needs to know where it came from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from circuitbench.core.errors import InvalidSpec

Normalization = Literal["none", "layer", "rms"]
Positions = Literal["none", "learned", "rotary"]
Activation = Literal["relu", "gelu", "gelu_new", "silu"]


@dataclass(frozen=True)
class TransformerConfig:
    """Shapes and switches of a decoder-only, pre-normalised, causal transformer.

    ``d_mlp`` 0 means attention-only. ``n_kv_heads`` below ``n_heads`` means grouped-query
    attention. ``attn_scale`` multiplies query-key products before the softmax.
    """

    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    d_vocab: int
    n_ctx: int
    attn_scale: float
    d_mlp: int = 0
    n_kv_heads: int = 0
    activation: Activation = "gelu_new"
    gated_mlp: bool = False
    normalization: Normalization = "none"
    norm_eps: float = 1e-5
    positions: Positions = "learned"
    rotary_dim: int = 0
    rotary_base: float = 10_000.0

    def __post_init__(self) -> None:
        if self.n_kv_heads == 0:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        if self.n_heads % self.n_kv_heads:
            raise InvalidSpec(
                f"{self.n_heads} query heads cannot share {self.n_kv_heads} key-value heads evenly"
            )


@dataclass(frozen=True)
class LayerWeights:
    """One layer. Absent parts (biases, MLP, norms) are None.

    ``W_Q [n_heads, d_model, d_head]``, ``W_K``/``W_V [n_kv_heads, d_model, d_head]``,
    ``W_O [n_heads, d_head, d_model]``, ``b_Q [n_heads, d_head]``, ``b_K``/``b_V
    [n_kv_heads, d_head]``, ``b_O [d_model]``; ``W_in``/``W_gate [d_model, d_mlp]``,
    ``W_out [d_mlp, d_model]``; norms ``[d_model]``.
    """

    W_Q: Tensor
    W_K: Tensor
    W_V: Tensor
    W_O: Tensor
    b_Q: Tensor | None = None
    b_K: Tensor | None = None
    b_V: Tensor | None = None
    b_O: Tensor | None = None
    W_in: Tensor | None = None
    b_in: Tensor | None = None
    W_gate: Tensor | None = None
    W_out: Tensor | None = None
    b_out: Tensor | None = None
    ln1_w: Tensor | None = None
    ln1_b: Tensor | None = None
    ln2_w: Tensor | None = None
    ln2_b: Tensor | None = None


@dataclass(frozen=True)
class Transformer:
    """A whole model as plain tensors, float32.

    ``W_E [d_vocab, d_model]``, ``W_pos [n_ctx, d_model]`` (learned positions only),
    ``W_U [d_model, d_vocab]``, ``b_U [d_vocab]``, final norm ``lnf_w``/``lnf_b [d_model]``.
    """

    config: TransformerConfig
    W_E: Tensor
    W_U: Tensor
    layers: tuple[LayerWeights, ...] = field(default_factory=tuple)
    W_pos: Tensor | None = None
    b_U: Tensor | None = None
    lnf_w: Tensor | None = None
    lnf_b: Tensor | None = None

    def to(self, device: str | torch.device) -> Transformer:
        """A copy of the weights on ``device``."""

        def moved(weights: object) -> dict[str, Any]:
            return {
                name: value.to(device) if isinstance(value, Tensor) else value
                for name, value in vars(weights).items()
            }

        layers = tuple(LayerWeights(**moved(layer)) for layer in self.layers)
        return Transformer(**{**moved(self), "layers": layers})
