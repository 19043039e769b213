"""The layers of a decoder-only transformer on plain tensors: exact, masked, resumable.

Everything here works on a flat batch of sequences ``[batch, pos, d_model]``; who shares which
prefix is decided in :mod:`circuitbench.oracle.engine.prefix_cache`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from circuitbench.core.errors import InvalidSpec
from circuitbench.models.forward import (
    normalize_heads,
    rotary_angles,
    rotate,
    softcap,
    visible,
)
from circuitbench.models.transformer import Transformer
from circuitbench.oracle.engine.weights import Scale, Weights
from circuitbench.oracle.rules import EXACT, Attended, Rule


class Forward:
    """Runs single layers. The residual stream is float32 whatever the products' type.

    Args:
        transformer: plain weights.
        body, unembed: see :class:`Weights`.
        device: where to compute; by default where the weights are.
    """

    def __init__(
        self,
        transformer: Transformer,
        body: torch.dtype = torch.float32,
        unembed: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        self.config = transformer.config
        self.device = transformer.W_E.device if device is None else device
        self.weights = Weights(transformer, self.device, body, unembed)
        self.flops = 0.0
        self._rotary: dict[bool, tuple[Tensor, Tensor]] = {}

    @property
    def n_layers(self) -> int:
        """How many layers there are."""
        return len(self.weights.layers)

    def embed(self, tokens: Tensor) -> Tensor:
        """``[batch, pos]`` to the residual stream before layer 0."""
        x = self.weights.embed[tokens].float()
        if self.config.embed_scale != 1:
            x = x * self.config.embed_scale
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
        self.flops += 4.0 * q.numel() * k.shape[2]
        return self.attend(layer, q, k, v, reads, rule, reference).transpose(1, 2)

    def attended(self, tokens: Tensor, reads: Tensor | None = None) -> list[Attended]:
        """Queries and keys of every layer; the last layer's queries only at ``reads``."""
        x, found, last = self.embed(tokens), [], self.n_layers - 1
        for layer in range(self.n_layers):
            q, k, _ = self.projections(layer, x, reads if layer == last else None)
            found.append(Attended(q, k))
            if layer < last:
                x = self.write(layer, x, self.heads(layer, x))
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
        n = self.read(x, w.scale1, rule)
        kv_heads = cfg.n_kv_heads if only is None else len(only)
        if reads is None:
            qkv = w.reading("qkv", only)
            sizes = [qkv.weight.shape[0] - 2 * kv_heads * cfg.d_head, *[kv_heads * cfg.d_head] * 2]
            q, k, v = qkv(n).split(sizes, -1)
            self.flops += batch * pos * qkv.flops
        else:
            to_q, to_kv = w.reading("q", only), w.reading("kv", only)
            k, v = to_kv(n).chunk(2, -1)
            q = to_q(at_positions(n, reads))
            self.flops += batch * (pos * to_kv.flops + reads.shape[1] * to_q.flops)
        q, k, v = (part.unflatten(-1, (-1, cfg.d_head)).transpose(1, 2) for part in (q, k, v))
        if w.q_norm is not None and w.k_norm is not None:
            q = normalize_heads(q, cfg, w.q_norm, rule.norm)
            k = normalize_heads(k, cfg, w.k_norm, rule.norm)
        if cfg.positions == "rotary":
            cos, sin = self.angles(pos, cfg.is_local(layer))
            k = rotate(k, cos, sin)
            if reads is not None:
                cos, sin = cos[reads][:, None], sin[reads][:, None]
            q = rotate(q, cos, sin)
        if q.shape[1] != k.shape[1]:
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        return (q if w.scale == 1 else q * w.scale), k, v

    def attend(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        reads: Tensor | None = None,
        rule: Rule = EXACT,
        reference: Attended | None = None,
    ) -> Tensor:
        """``z [batch, n_heads, pos or k, d_head]`` from what :meth:`projections` gives.

        Args:
            layer: which.
            q: ``[batch, n_heads, pos or k, d_head]``.
            k, v: ``[batch, n_heads, pos, d_head]``.
            reads: ``[batch, k]`` positions of the queries; None is all of them.
            rule: of the backward pass.
            reference: what the rule wants to know of other text.

        Raises :class:`InvalidSpec` for a rule that does not know soft-capped attention.
        """
        cfg, pos = self.config, k.shape[2]
        window, allowed = cfg.window(layer), None
        q, k = q.to(v.dtype), k.to(v.dtype)  # norms and rotation are float32
        if reads is not None:
            allowed = visible(cfg, layer, reads[:, None], pos)
        elif 0 < window < pos or cfg.attn_softcap or not cfg.causal:
            allowed = visible(cfg, layer, torch.arange(pos, device=q.device), pos)
        if not cfg.attn_softcap or allowed is None:
            return rule.attention(q, k, v, allowed, reference)
        if type(rule).attention is not Rule.attention:
            raise InvalidSpec(f"the backward rule {rule.name} does not know soft-capped attention")
        scores = softcap(q @ k.transpose(-1, -2), cfg.attn_softcap)
        return scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ v

    def read(self, x: Tensor, scale: Scale | None, rule: Rule = EXACT) -> Tensor:
        """What a part reads of the residual stream: normalised, unless norms come after."""
        if not self.config.pre_norm:
            return x
        n = rule.norm(x, self.config.normalization, self.config.norm_eps)
        return n if scale is None else scale(n)

    def write(
        self, layer: int, x: Tensor, z: Tensor, only: Tensor | None = None, rule: Rule = EXACT
    ) -> Tensor:
        """Residual stream after a layer whose heads (or those of ``only``) put out ``z``."""
        after = self.add_attention(layer, x, z, only, rule)
        return self.add_mlp(layer, after, rule, x if self.config.parallel else after)

    def add_attention(
        self, layer: int, x: Tensor, z: Tensor, only: Tensor | None = None, rule: Rule = EXACT
    ) -> Tensor:
        """Residual stream after attention: ``x + z @ W_O + b_O``; ``z`` of the heads ``only``."""
        w = self.weights.layers[layer]
        if z.shape[2] == 0:
            if w.out.bias is None:
                return x
            return x + self._post(w.out.bias, w.post1, rule)
        out = w.writing(only)
        self.flops += x.shape[0] * x.shape[1] * out.flops
        if w.post1 is not None:
            return x + self._post(out(z.flatten(-2)), w.post1, rule)
        return out.add_to(x, z.flatten(-2))

    def add_mlp(
        self, layer: int, x: Tensor, rule: Rule = EXACT, reads: Tensor | None = None
    ) -> Tensor:
        """Residual stream after the MLP; ``x`` itself in an attention-only model.

        The MLP reads ``x``, or another stream ``reads`` of its shape.
        """
        cfg, w = self.config, self.weights.layers[layer]
        if w.mlp_in is None or w.mlp_out is None:
            return x
        rows = x.shape[0] * x.shape[1]
        n = self.read(x if reads is None else reads, w.scale2, rule)
        self.flops += rows * (w.mlp_in.flops + w.mlp_out.flops)
        first = w.mlp_in if w.mlp_gate is None else w.mlp_gate
        # The true gradient needs no activation of its own, so it may be part of the product.
        fused = type(rule).activation is Rule.activation
        hidden = first(n, cfg.activation) if fused else rule.activation(first(n), cfg.activation)
        if w.mlp_gate is not None:
            hidden = rule.gated(hidden, w.mlp_in(n))
            self.flops += rows * w.mlp_gate.flops
        if w.post2 is not None:
            return x + self._post(w.mlp_out(hidden), w.post2, rule)
        return w.mlp_out.add_to(x, hidden)

    def _post(self, written: Tensor, weight: Tensor | None, rule: Rule) -> Tensor:
        """The norm after a part, where the model has one."""
        if weight is None:
            return written
        return rule.norm(written.float(), self.config.normalization, self.config.norm_eps) * weight

    def final(self, x: Tensor, rule: Rule = EXACT) -> Tensor:
        """The final norm; what the (folded) unembedding reads."""
        n = rule.norm(x, self.config.normalization, self.config.norm_eps)
        return n if self.weights.unembed.scale is None else self.weights.unembed.scale(n)

    def angles(self, pos: int, local: bool = False) -> tuple[Tensor, Tensor]:
        """Cosines and sines of rotary positions, ``[pos, rotary_dim]`` each."""
        if local not in self._rotary or len(self._rotary[local][0]) < pos:
            self._rotary[local] = rotary_angles(self.config, pos, self.device, local)
        return self._rotary[local][0][:pos], self._rotary[local][1][:pos]


def at_positions(x: Tensor, reads: Tensor) -> Tensor:
    """``x[b, reads[b, k]]``: ``[batch, pos, ...]`` to ``[batch, k, ...]``."""
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    return x[rows, reads]
