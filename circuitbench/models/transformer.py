"""Plain per-layer weights of a decoder-only transformer: what the engine computes with.

Every model, whether built by hand or read from a loaded checkpoint, is brought to this form
once; nothing after that needs to know where it came from.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from circuitbench.core.errors import InvalidSpec

Normalization = Literal["none", "layer", "rms"]
Positions = Literal["none", "learned", "rotary"]
Activation = Literal["relu", "gelu", "gelu_new", "silu"]
QKNorm = Literal["none", "head", "all"]


@dataclass(frozen=True)
class TransformerConfig:
    """Shapes and switches of a decoder-only transformer.

    ``d_mlp`` 0 means attention-only. ``n_kv_heads`` below ``n_heads`` means grouped-query
    attention. ``attn_scale`` multiplies query-key products before the softmax.

    Args:
        pre_norm: whether attention and MLP read the normalised stream; else the stream itself.
        parallel: whether a layer's MLP reads what its attention reads, not what that wrote.
        windows: per layer, how many positions back attention reaches, its own included; 0 is
            no limit, and an empty tuple no limit anywhere.
        qk_norm: RMS norm of queries and keys before rotary positions: per head, or over ``all``
            heads together.
        rotary_speeds: turn per position of every rotary pair, in radians; by default powers of
            ``rotary_base``.
        local_rotary_speeds: the same of layers that have a window, where it differs.
        rotary_gain: multiplies cosines and sines.
        attn_softcap: ``c tanh(score / c)`` before the softmax (0: none).
        logit_softcap: the same of the logits.
        embed_scale: multiplies token embeddings.
        causal: whether attention looks at earlier positions only.
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
    pre_norm: bool = True
    parallel: bool = False
    windows: tuple[int, ...] = ()
    qk_norm: QKNorm = "none"
    rotary_speeds: tuple[float, ...] = ()
    local_rotary_speeds: tuple[float, ...] = ()
    rotary_gain: float = 1.0
    attn_softcap: float = 0.0
    logit_softcap: float = 0.0
    embed_scale: float = 1.0
    causal: bool = True

    def __post_init__(self) -> None:
        for name in ("windows", "rotary_speeds", "local_rotary_speeds"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists, read from JSON
        if self.n_kv_heads == 0:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        if self.n_heads % self.n_kv_heads:
            raise InvalidSpec(
                f"{self.n_heads} query heads cannot share {self.n_kv_heads} key-value heads evenly"
            )
        if len(self.windows) not in (0, self.n_layers):
            raise InvalidSpec(f"{len(self.windows)} windows for {self.n_layers} layers")

    def window(self, layer: int) -> int:
        """How many positions back a layer's attention reaches; 0 is no limit."""
        return self.windows[layer] if self.windows else 0

    def is_local(self, layer: int) -> bool:
        """Whether a layer turns by the local rotary speeds."""
        return bool(self.local_rotary_speeds) and self.window(layer) > 0


@dataclass(frozen=True)
class LayerWeights:
    """One layer. Absent parts (biases, MLP, norms) are None.

    ``W_Q [n_heads, d_model, d_head]``, ``W_K``/``W_V [n_kv_heads, d_model, d_head]``,
    ``W_O [n_heads, d_head, d_model]``, ``b_Q [n_heads, d_head]``, ``b_K``/``b_V
    [n_kv_heads, d_head]``, ``b_O [d_model]``; ``W_in``/``W_gate [d_model, d_mlp]``,
    ``W_out [d_mlp, d_model]``; norms ``[d_model]``. ``ln1_post_w`` and ``ln2_post_w`` are norms
    of what attention and MLP put out, before it is added to the stream. ``q_norm``, ``k_norm``
    are ``[1, d_head]`` (per head) or ``[heads, d_head]`` (over all).
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
    ln1_post_w: Tensor | None = None
    ln2_post_w: Tensor | None = None
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None

    def to(self, device: str | torch.device) -> LayerWeights:
        """A copy of the weights on ``device``."""
        return replace(self, **_moved(self, device))


@dataclass(frozen=True)
class Transformer:
    """A whole model as plain tensors, float32; matrices may be kept in bfloat16.

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

    @property
    def why_no_edges(self) -> str:
        """What keeps single edges from being replaced; empty where nothing does."""
        cfg = self.config
        if any(w.ln1_post_w is not None or w.ln2_post_w is not None for w in self.layers):
            return "a norm after attention or MLP mixes what their parts write"
        if not cfg.pre_norm:
            return "attention and MLP read the residual stream without a norm before them"
        if cfg.parallel:
            return "its MLPs run beside attention, so they do not hear their own layer's heads"
        if cfg.qk_norm != "none":
            return "its queries and keys are normalised, which edges do not know yet"
        if cfg.attn_softcap or cfg.windows:
            return "its attention is soft-capped or has windows, which edges do not know yet"
        if not cfg.causal:
            return "its attention looks both ways, which edges do not know yet"
        if cfg.local_rotary_speeds:
            return "its layers differ in rotary positions, which edges do not know yet"
        if self.is_slim:
            return "its weights are kept in bfloat16; load it with dtype=float32"
        return ""

    @property
    def is_slim(self) -> bool:
        """Whether matrices are kept in fewer bits than they are computed in."""
        return self.W_E.dtype != torch.float32

    def to(self, device: str | torch.device) -> Transformer:
        """A copy of the weights on ``device``."""

        layers = tuple(layer.to(device) for layer in self.layers)
        return replace(self, **_moved(self, device), layers=layers)


def _moved(weights: object, device: str | torch.device) -> dict[str, Any]:
    return {k: v.to(device) for k, v in vars(weights).items() if isinstance(v, Tensor)}
