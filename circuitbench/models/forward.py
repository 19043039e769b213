"""The reference forward pass: what a :class:`Transformer`'s weights mean, written out plainly.

Differentiable, with full attention patterns and logits, and no shortcuts. Training runs on it,
and what is read from elsewhere is compared with it. The oracle's engines are tested against
transformer_lens and have fast layers of their own; norms, activations and rotary positions they
take from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitbench.models.transformer import Transformer, TransformerConfig

Edit = Callable[[int, Tensor], Tensor]
"""Given a layer and its heads' outputs z ``[batch, pos, n_heads, d_head]``, what to use instead."""


class Trace(NamedTuple):
    """What a forward pass computed.

    Args:
        logits: ``[batch, pos, d_vocab]``.
        z: per layer, heads' outputs (after any edit) ``[batch, pos, n_heads, d_head]``.
        patterns: per layer, attention ``[batch, n_heads, query, key]``.
    """

    logits: Tensor
    z: list[Tensor]
    patterns: list[Tensor]


def forward(model: Transformer, tokens: Tensor, edit: Edit | None = None) -> Trace:
    """Run a model on ``tokens [batch, pos]``; ``edit`` may replace z before it is written."""
    cfg = model.config
    length = tokens.shape[1]
    x = model.W_E[tokens]
    if model.W_pos is not None:
        x = x + model.W_pos[:length]
    hidden = torch.triu(torch.ones(length, length, dtype=torch.bool, device=x.device), 1)
    angles = None
    if cfg.positions == "rotary":
        angles = tuple(part[:length] for part in rotary_angles(cfg, x.device))
    zs, patterns = [], []

    def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``[batch, heads, pos, d_head]``."""
        out = x @ weight.transpose(0, 1).reshape(cfg.d_model, -1)
        return _biased(out.view(*x.shape[:2], -1, cfg.d_head), bias).transpose(1, 2)

    for i, layer in enumerate(model.layers):
        n = _norm(cfg, x, layer.ln1_w, layer.ln1_b)
        q = project(n, layer.W_Q, layer.b_Q)
        k = project(n, layer.W_K, layer.b_K)
        v = project(n, layer.W_V, layer.b_V)
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        if cfg.n_kv_heads != cfg.n_heads:
            k, v = (t.repeat_interleave(cfg.n_heads // cfg.n_kv_heads, 1) for t in (k, v))
        scores = (q @ k.transpose(-1, -2)) * cfg.attn_scale
        pattern = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        z = (pattern @ v).transpose(1, 2)
        if edit is not None:
            z = edit(i, z)
        zs.append(z)
        patterns.append(pattern)
        x = x + _biased(z.flatten(2) @ layer.W_O.flatten(0, 1), layer.b_O)
        if layer.W_in is not None and layer.W_out is not None:
            n = _norm(cfg, x, layer.ln2_w, layer.ln2_b)
            inner = _biased(n @ layer.W_in, layer.b_in)
            if layer.W_gate is None:
                inner = activate(inner, cfg.activation)
            else:
                inner = activate(n @ layer.W_gate, cfg.activation) * inner
            x = x + _biased(inner @ layer.W_out, layer.b_out)
    x = _norm(cfg, x, model.lnf_w, model.lnf_b)
    return Trace(_biased(x @ model.W_U, model.b_U), zs, patterns)


def activate(x: Tensor, kind: str) -> Tensor:
    """The MLP's nonlinearity by its name in :class:`TransformerConfig`; ``""`` is none."""
    if kind == "relu":
        return F.relu(x)
    if kind == "silu":
        return F.silu(x)
    if kind:
        return F.gelu(x, approximate="tanh" if kind == "gelu_new" else "none")
    return x


def normalize(x: Tensor, kind: str, eps: float) -> Tensor:
    """The norm without its scale and shift."""
    if kind == "layer":
        return F.layer_norm(x, x.shape[-1:], eps=eps)
    if kind == "rms":
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x


def rotary_angles(cfg: TransformerConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions, ``[n_ctx, rotary_dim]`` each."""
    dim = cfg.rotary_dim or cfg.d_head
    speed = cfg.rotary_base ** (-torch.arange(0, dim, 2, device=device) / dim)
    angle = torch.outer(torch.arange(cfg.n_ctx, device=device).float(), speed)
    angle = angle.repeat_interleave(2, -1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on adjacent pairs of ``x [batch, heads, pos, d_head]`` (Su et al. 2021)."""
    dim = cos.shape[-1]
    turned, rest = x[..., :dim], x[..., dim:]
    pairs = torch.stack((-turned[..., 1::2], turned[..., 0::2]), -1).flatten(-2)
    return torch.cat([turned * cos + pairs * sin, rest], -1)


def _norm(cfg: TransformerConfig, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    if cfg.normalization == "layer":
        return F.layer_norm(x, (cfg.d_model,), scale, shift, cfg.norm_eps)
    x = normalize(x, cfg.normalization, cfg.norm_eps)
    x = x if scale is None else x * scale
    return _biased(x, shift)


def _biased(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias
