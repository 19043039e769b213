"""A transformer's weights as the engine wants them: norms folded in, projections fused."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from circuitbench.models.transformer import LayerWeights, Transformer, TransformerConfig
from circuitbench.oracle.engine.linear import Linear

NONE = None, None  # a norm without scale and shift


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


class Scale(NamedTuple):
    """A norm's scale and shift ``[d]`` that no product has absorbed."""

    weight: Tensor | None
    shift: Tensor | None

    def __call__(self, n: Tensor) -> Tensor:
        """Of a normalised input."""
        n = n if self.weight is None else n * self.weight
        return n if self.shift is None else n + self.shift


class Layer:
    """One layer, ready to run: ``qkv`` fused, norms and attention scale folded in.

    Weights kept in bfloat16 would lose digits by folding: their norms (``scale1``, ``scale2``) and
    the attention scale (``scale``) are applied as it runs.
    """

    def __init__(self, cfg: TransformerConfig, w: LayerWeights, dtype: torch.dtype) -> None:
        self._d_head = cfg.d_head
        slim = w.W_Q.dtype != torch.float32
        on_queries = not slim and w.q_norm is None
        self.scale = 1.0 if on_queries else cfg.attn_scale
        by = cfg.attn_scale if on_queries else 1.0
        query = _flat(w.W_Q) * by if on_queries else _flat(w.W_Q)
        weight = torch.cat([query, _flat(w.W_K), _flat(w.W_V)], 1)
        biases = [
            torch.zeros(heads.shape[0], cfg.d_head, device=heads.device) if b is None else b
            for heads, b in ((w.W_Q, w.b_Q), (w.W_K, w.b_K), (w.W_V, w.b_V))
        ]
        bias = torch.cat([biases[0].flatten() * by, *(b.flatten() for b in biases[1:])])
        self.scale1 = self.scale2 = None
        norm1, norm2 = (w.ln1_w, w.ln1_b), (w.ln2_w, w.ln2_b)
        if slim:
            self.scale1, self.scale2, norm1, norm2 = Scale(*norm1), Scale(*norm2), NONE, NONE
        self.qkv = Linear(*folded(weight, bias, *norm1), dtype)
        queries = cfg.n_heads * cfg.d_head
        self._starts = {"q": 0, "k": queries, "v": 2 * queries}  # without grouped queries
        self.q = self.qkv.part(slice(0, queries))
        self.kv = self.qkv.part(slice(queries, None))
        self.q_norm, self.k_norm = w.q_norm, w.k_norm
        self.post1, self.post2 = w.ln1_post_w, w.ln2_post_w
        self.out = Linear(w.W_O.reshape(-1, cfg.d_model), w.b_O, dtype)
        self.mlp_in = self.mlp_gate = self.mlp_out = None
        if w.W_in is not None and w.W_out is not None:
            self.mlp_in = Linear(*folded(w.W_in, w.b_in, *norm2), dtype)
            self.mlp_out = Linear(w.W_out, w.b_out, dtype)
            if w.W_gate is not None:
                self.mlp_gate = Linear(*folded(w.W_gate, None, *norm2), dtype)

    def reading(self, sides: str, heads: Tensor | None = None) -> Linear:
        """What ``qkv``, ``q`` or ``kv`` read, of all heads or some (then no grouped queries)."""
        if heads is None:
            return {"qkv": self.qkv, "q": self.q, "kv": self.kv}[sides]
        columns = self._columns(heads)
        return self.qkv.part(torch.cat([columns + self._starts[side] for side in sides]))

    def writing(self, heads: Tensor | None = None) -> Linear:
        """What all heads write, or some."""
        return self.out if heads is None else self.out.part(inputs=self._columns(heads))

    def _columns(self, heads: Tensor) -> Tensor:
        within = torch.arange(self._d_head, device=heads.device)
        return (heads[:, None] * self._d_head + within).flatten()


class Unembedding:
    """``W_U`` with the final norm folded in, whole rows and blocks of vocabulary.

    ``rows [d_vocab, d_model]`` holds the columns of W_U; ``blocks`` are views of it. Logits are
    soft-capped by ``cap`` (0: not at all). ``scale`` is the final norm's where it is not folded.
    """

    block = 4096  # vocabulary entries per block: their logits stay in the cache

    def __init__(self, transformer: Transformer, dtype: torch.dtype) -> None:
        t = transformer
        self.cap = t.config.logit_softcap
        norm = t.lnf_w, t.lnf_b
        self.scale = Scale(*norm) if t.is_slim else None
        weight, self.bias = folded(t.W_U, t.b_U, *(NONE if t.is_slim else norm))
        self.rows = weight.T.contiguous()
        self.blocks = self._in_blocks(dtype)

    def exact(self) -> Unembedding:
        """The same in float32."""
        exact = Unembedding.__new__(Unembedding)
        exact.rows, exact.bias = self.rows, self.bias
        exact.cap, exact.scale = self.cap, self.scale
        exact.blocks = exact._in_blocks(torch.float32)
        return exact

    def _in_blocks(self, dtype: torch.dtype) -> list[Linear]:
        return [
            Linear(
                self.rows[start : start + self.block],
                None if self.bias is None else self.bias[start : start + self.block],
                dtype,
                rows=True,
            )
            for start in range(0, self.rows.shape[0], self.block)
        ]


class Weights:
    """Embeddings, layers and the unembedding, moved to a device layer by layer.

    Args:
        transformer: plain weights.
        device: where they are wanted.
        body: what the layers' products are computed in.
        unembed: what the control loss's logits are computed in.
    """

    def __init__(
        self,
        transformer: Transformer,
        device: torch.device,
        body: torch.dtype = torch.float32,
        unembed: torch.dtype = torch.float32,
    ) -> None:
        self.layers = [Layer(transformer.config, w.to(device), body) for w in transformer.layers]
        ends = replace(transformer, layers=()).to(device)
        self.embed = ends.W_E
        self.positions = ends.W_pos
        self.unembed = Unembedding(ends, unembed)
