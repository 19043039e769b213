"""A transformer's weights as the engine wants them: norms folded in, projections fused."""

from __future__ import annotations

import torch
from torch import Tensor

from circuitbench.models.transformer import LayerWeights, Transformer, TransformerConfig
from circuitbench.oracle.engine.linear import Linear


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


class Layer:
    """One layer, ready to run: ``qkv`` fused, the attention scale folded into the queries."""

    def __init__(self, cfg: TransformerConfig, w: LayerWeights, dtype: torch.dtype) -> None:
        self._config = cfg
        weight = torch.cat([_flat(w.W_Q) * cfg.attn_scale, _flat(w.W_K), _flat(w.W_V)], 1)
        biases = [
            weight.new_zeros(heads.shape[0], cfg.d_head) if b is None else b
            for heads, b in ((w.W_Q, w.b_Q), (w.W_K, w.b_K), (w.W_V, w.b_V))
        ]
        bias = torch.cat([biases[0].flatten() * cfg.attn_scale, *(b.flatten() for b in biases[1:])])
        self.qkv = Linear(*folded(weight, bias, w.ln1_w, w.ln1_b), dtype)
        self._queries = cfg.n_heads * cfg.d_head
        self.q = self.qkv.part(slice(0, self._queries))
        self.kv = self.qkv.part(slice(self._queries, None))
        self.out = Linear(w.W_O.reshape(-1, cfg.d_model), w.b_O, dtype)
        self.mlp_in = self.mlp_gate = self.mlp_out = None
        if w.W_in is not None and w.W_out is not None:
            self.mlp_in = Linear(*folded(w.W_in, w.b_in, w.ln2_w, w.ln2_b), dtype)
            self.mlp_out = Linear(w.W_out, w.b_out, dtype)
            if w.W_gate is not None:
                self.mlp_gate = Linear(*folded(w.W_gate, None, w.ln2_w, w.ln2_b), dtype)

    def only(self, heads: Tensor) -> tuple[Linear, Linear, Linear, Linear]:
        """``qkv``, ``q``, ``kv`` and ``out`` restricted to some heads (no grouped queries)."""
        within = torch.arange(self._config.d_head, device=heads.device)
        q = (heads[:, None] * self._config.d_head + within).flatten()
        k, v = q + self._queries, q + 2 * self._queries
        return (
            self.qkv.part(torch.cat([q, k, v])),
            self.q.part(q),
            self.qkv.part(torch.cat([k, v])),
            self.out.part(inputs=q),
        )


class Unembedding:
    """``W_U`` with the final norm folded in, whole rows and blocks of vocabulary.

    ``rows [d_vocab, d_model]`` holds the columns of W_U; ``blocks`` are views of it.
    """

    block = 4096  # vocabulary entries per block: their logits stay in the cache

    def __init__(self, transformer: Transformer, dtype: torch.dtype) -> None:
        t = transformer
        weight, self.bias = folded(t.W_U, t.b_U, t.lnf_w, t.lnf_b)
        self.rows = weight.T.contiguous()
        self.blocks = self._in_blocks(dtype)

    def exact(self) -> Unembedding:
        """The same in float32."""
        exact = Unembedding.__new__(Unembedding)
        exact.rows, exact.bias = self.rows, self.bias
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
    """Embeddings, layers and the unembedding.

    Args:
        transformer: plain weights on their device.
        body: what the layers' products are computed in.
        unembed: what the control loss's logits are computed in.
    """

    def __init__(
        self,
        transformer: Transformer,
        body: torch.dtype = torch.float32,
        unembed: torch.dtype = torch.float32,
    ) -> None:
        self.layers = [Layer(transformer.config, w, body) for w in transformer.layers]
        self.embed = transformer.W_E
        self.positions = transformer.W_pos
        self.unembed = Unembedding(transformer, unembed)
