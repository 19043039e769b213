"""The layers of a decoder-only transformer on plain tensors: exact, masked, resumable.

Everything here works on a flat batch of sequences ``[batch, pos, d_model]``; who shares which
prefix is decided in :mod:`circuitbench.oracle.engine.prefix_cache`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from circuitbench.models.forward import rotary_angles, rotate
from circuitbench.models.transformer import Transformer
from circuitbench.oracle.engine.weights import Weights
from circuitbench.oracle.rules import EXACT, Attended, Rule


class Forward:
    """Runs single layers. The residual stream is float32 whatever the products' type.

    Args:
        transformer: plain weights, already on the device.
        body, unembed: see :class:`Weights`.
    """

    def __init__(
        self,
        transformer: Transformer,
        body: torch.dtype = torch.float32,
        unembed: torch.dtype = torch.float32,
    ) -> None:
        self.config = transformer.config
        self.weights = Weights(transformer, body, unembed)
        self.device = transformer.W_E.device
        self.flops = 0.0
        self._rotary: tuple[Tensor, Tensor] | None = None

    @property
    def n_layers(self) -> int:
        """How many layers there are."""
        return len(self.weights.layers)

    def embed(self, tokens: Tensor) -> Tensor:
        """``[batch, pos]`` to the residual stream before layer 0."""
        x = self.weights.embed[tokens]
        if self.weights.positions is not None:
            x = x + self.weights.positions[: tokens.shape[1]]
        return x

    def heads(
        self,
        layer: int,
        x: Tensor,
        reads: Tensor | None = None,
        only: Tensor | None = None,
        rule: Rule = EXACT,
        reference: Attended | None = None,
    ) -> Tensor:
        """Head outputs ``z [batch, pos or k, n_heads, d_head]`` before the output projection.

        Args:
            layer: which.
            x: residual stream before it.
            reads: ``[batch, k]``: compute these query positions only.
            only: ascending indices of heads to compute; z then has just those.
            rule: of the backward pass.
            reference: what the rule wants to know of other text.
        """
        cfg = self.config
        if only is not None and len(only) == 0:
            queries = x.shape[1] if reads is None else reads.shape[1]
            return x.new_zeros(x.shape[0], queries, 0, cfg.d_head)
        q, k, v = self.projections(layer, x, reads, only, rule)
        pos, allowed = k.shape[2], None
        if reads is not None:
            allowed = torch.arange(pos, device=x.device) <= reads[:, None, :, None]
        z = rule.attention(q, k, v, allowed, reference)
        self.flops += 4.0 * q.numel() * pos
        return z.transpose(1, 2)

    def attended(self, tokens: Tensor, reads: Tensor | None = None) -> list[Attended]:
        """Queries and keys of every layer; the last layer's queries only at ``reads``."""
        x, found, last = self.embed(tokens), [], self.n_layers - 1
        for layer in range(self.n_layers):
            q, k, _ = self.projections(layer, x, reads if layer == last else None)
            found.append(Attended(q, k))
            if layer < last:
                x = self.add_mlp(layer, self.add_attention(layer, x, self.heads(layer, x)))
        return found

    def projections(
        self,
        layer: int,
        x: Tensor,
        reads: Tensor | None = None,
        only: Tensor | None = None,
        rule: Rule = EXACT,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (scaled), keys and values ``[batch, n_heads, pos or k, d_head]``, rotated.

        Keys and values that several heads share are repeated. Arguments as in :meth:`heads`.
        """
        cfg, w = self.config, self.weights.layers[layer]
        batch, pos, _ = x.shape
        n = rule.norm(x, cfg.normalization, cfg.norm_eps)
        qkv, to_q, to_kv = w.qkv, w.q, w.kv
        if only is not None:
            qkv, to_q, to_kv, _ = w.only(only)
        kv_heads = cfg.n_kv_heads if only is None else len(only)
        if reads is None:
            sizes = [qkv.weight.shape[0] - 2 * kv_heads * cfg.d_head, *[kv_heads * cfg.d_head] * 2]
            q, k, v = qkv(n).split(sizes, -1)
            self.flops += batch * pos * qkv.flops
        else:
            k, v = to_kv(n).chunk(2, -1)
            q = to_q(at_positions(n, reads))
            self.flops += batch * (pos * to_kv.flops + reads.shape[1] * to_q.flops)
        q, k, v = (part.unflatten(-1, (-1, cfg.d_head)).transpose(1, 2) for part in (q, k, v))
        if cfg.positions == "rotary":
            cos, sin = self.angles(pos)
            k = rotate(k, cos, sin)
            if reads is not None:
                cos, sin = cos[reads][:, None], sin[reads][:, None]
            q = rotate(q, cos, sin)
        if q.shape[1] != k.shape[1]:
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        return q, k, v

    def add_attention(self, layer: int, x: Tensor, z: Tensor, only: Tensor | None = None) -> Tensor:
        """Residual stream after attention: ``x + z @ W_O + b_O``; ``z`` of the heads ``only``."""
        w = self.weights.layers[layer]
        if z.shape[2] == 0:
            return x if w.out.bias is None else x + w.out.bias
        out = w.out if only is None else w.only(only)[3]
        self.flops += x.shape[0] * x.shape[1] * out.flops
        return out.add_to(x, z.flatten(-2))

    def add_mlp(self, layer: int, x: Tensor, rule: Rule = EXACT) -> Tensor:
        """Residual stream after the MLP; ``x`` itself in an attention-only model."""
        cfg, w = self.config, self.weights.layers[layer]
        if w.mlp_in is None or w.mlp_out is None:
            return x
        rows = x.shape[0] * x.shape[1]
        n = rule.norm(x, cfg.normalization, cfg.norm_eps)
        self.flops += rows * (w.mlp_in.flops + w.mlp_out.flops)
        first = w.mlp_in if w.mlp_gate is None else w.mlp_gate
        # The true gradient needs no activation of its own, so it may be part of the product.
        fused = type(rule).activation is Rule.activation
        hidden = first(n, cfg.activation) if fused else rule.activation(first(n), cfg.activation)
        if w.mlp_gate is not None:
            hidden = rule.gated(hidden, w.mlp_in(n))
            self.flops += rows * w.mlp_gate.flops
        return w.mlp_out.add_to(x, hidden)

    def final(self, x: Tensor, rule: Rule = EXACT) -> Tensor:
        """The final norm; what the (folded) unembedding reads."""
        return rule.norm(x, self.config.normalization, self.config.norm_eps)

    def angles(self, pos: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of rotary positions, ``[pos, rotary_dim]`` each."""
        if self._rotary is None:
            self._rotary = rotary_angles(self.config, self.device)
        return self._rotary[0][:pos], self._rotary[1][:pos]


def at_positions(x: Tensor, reads: Tensor) -> Tensor:
    """``x[b, reads[b, k]]``: ``[batch, pos, ...]`` to ``[batch, k, ...]``."""
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    return x[rows, reads]
