"""A transformer's weights as the engine wants them: norms folded in, projections fused."""

from __future__ import annotations

import torch
from torch import Tensor

from circuitbench.models.transformer import LayerWeights, Transformer, TransformerConfig
from circuitbench.oracle.linear import Linear


def folded(
    weight: Tensor, bias: Tensor | None, norm_w: Tensor | None, norm_b: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Weight ``[d_in, d_out]`` and bias ``[d_out]`` that absorb the norm's scale and shift.

    ``(n * norm_w + norm_b) @ weight + bias`` for a normalised input ``n``.
    """
    if norm_b is not None:
        shift = norm_b @ weight
        bias = shift if bias is None else bias + shift
    if norm_w is not None:
        weight = norm_w[:, None] * weight
    return weight, bias


def _flat(per_head: Tensor) -> Tensor:
    """``[heads, d_model, d_head]`` to ``[d_model, heads * d_head]``."""
    return per_head.permute(1, 0, 2).reshape(per_head.shape[1], -1)


def _bias(bias: Tensor | None, heads: int, d_head: int) -> Tensor | None:
    return None if bias is None else bias.expand(heads, d_head).reshape(-1)


class Layer:
    """One layer, ready to run: ``qkv`` fused, the attention scale folded into the queries."""

    def __init__(self, cfg: TransformerConfig, w: LayerWeights, packed: bool) -> None:
        scale = cfg.attn_scale
        parts = (
            (_flat(w.W_Q) * scale, _bias(w.b_Q, cfg.n_heads, cfg.d_head), scale),
            (_flat(w.W_K), _bias(w.b_K, cfg.n_kv_heads, cfg.d_head), 1.0),
            (_flat(w.W_V), _bias(w.b_V, cfg.n_kv_heads, cfg.d_head), 1.0),
        )
        weight = torch.cat([part[0] for part in parts], 1)
        bias = None
        if any(part[1] is not None for part in parts):
            bias = torch.cat(
                [
                    matrix.new_zeros(matrix.shape[1]) if b is None else b * s
                    for matrix, b, s in parts
                ]
            )
        weight, bias = folded(weight, bias, w.ln1_w, w.ln1_b)
        cut = cfg.n_heads * cfg.d_head
        self.qkv = Linear(weight, bias, packed)
        self.q = self.qkv.columns(0, cut)
        self.kv = self.qkv.columns(cut, weight.shape[1])
        self.out = Linear(w.W_O.reshape(-1, cfg.d_model), w.b_O, packed)
        self.mlp_in = self.mlp_gate = self.mlp_out = None
        if w.W_in is not None and w.W_out is not None:
            self.mlp_in = Linear(*folded(w.W_in, w.b_in, w.ln2_w, w.ln2_b), packed)
            self.mlp_out = Linear(w.W_out, w.b_out, packed)
            if w.W_gate is not None:
                self.mlp_gate = Linear(*folded(w.W_gate, None, w.ln2_w, w.ln2_b), packed)


class Weights:
    """All layers, embeddings and the unembedding with the final norm folded in."""

    def __init__(self, transformer: Transformer, packed: bool) -> None:
        t = transformer
        self.layers = [Layer(t.config, w, packed) for w in t.layers]
        self.embed = t.W_E
        self.positions = t.W_pos
        weight, bias = folded(t.W_U, t.b_U, t.lnf_w, t.lnf_b)
        self.unembed = weight.T.contiguous()  # [d_vocab, d_model]: columns become rows
        self.unembed_bias = bias
