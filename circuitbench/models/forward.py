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

Norm = Callable[[Tensor, str, float], Tensor]
"""A norm without its scale and shift: of a tensor, by its kind and its epsilon."""


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
    if cfg.embed_scale != 1:
        x = x * cfg.embed_scale
    if model.W_pos is not None:
        x = x + model.W_pos[:length]
    zs, patterns = [], []

    def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``[batch, heads, pos, d_head]``."""
        out = x @ weight.transpose(0, 1).reshape(cfg.d_model, -1)
        return _biased(out.view(*x.shape[:2], -1, cfg.d_head), bias).transpose(1, 2)

    for i, layer in enumerate(model.layers):
        n = _norm(cfg, x, layer.ln1_w, layer.ln1_b) if cfg.pre_norm else x
        q = project(n, layer.W_Q, layer.b_Q)
        k = project(n, layer.W_K, layer.b_K)
        v = project(n, layer.W_V, layer.b_V)
        if layer.q_norm is not None and layer.k_norm is not None:
            q = normalize_heads(q, cfg, layer.q_norm)
            k = normalize_heads(k, cfg, layer.k_norm)
        if cfg.positions == "rotary":
            angles = rotary_angles(cfg, length, x.device, cfg.is_local(i))
            q, k = rotate(q, *angles), rotate(k, *angles)
        if cfg.n_kv_heads != cfg.n_heads:
            k, v = (t.repeat_interleave(cfg.n_heads // cfg.n_kv_heads, 1) for t in (k, v))
        scores = softcap((q @ k.transpose(-1, -2)) * cfg.attn_scale, cfg.attn_softcap)
        at = torch.arange(length, device=x.device)
        pattern = scores.masked_fill(~visible(cfg, i, at, length), -torch.inf).softmax(-1)
        z = (pattern @ v).transpose(1, 2)
        if edit is not None:
            z = edit(i, z)
        zs.append(z)
        patterns.append(pattern)
        written = _biased(z.flatten(2) @ layer.W_O.flatten(0, 1), layer.b_O)
        if layer.ln1_post_w is not None:
            written = _norm(cfg, written, layer.ln1_post_w, None)
        before, x = x, x + written
        if layer.W_in is not None and layer.W_out is not None:
            n = before if cfg.parallel else x
            n = _norm(cfg, n, layer.ln2_w, layer.ln2_b) if cfg.pre_norm else n
            inner = _biased(n @ layer.W_in, layer.b_in)
            if layer.W_gate is None:
                inner = activate(inner, cfg.activation)
            else:
                inner = activate(n @ layer.W_gate, cfg.activation) * inner
            written = _biased(inner @ layer.W_out, layer.b_out)
            if layer.ln2_post_w is not None:
                written = _norm(cfg, written, layer.ln2_post_w, None)
            x = x + written
    x = _norm(cfg, x, model.lnf_w, model.lnf_b)
    return Trace(softcap(_biased(x @ model.W_U, model.b_U), cfg.logit_softcap), zs, patterns)


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


def normalize_heads(
    x: Tensor, cfg: TransformerConfig, weight: Tensor, norm: Norm = normalize
) -> Tensor:
    """RMS norm of queries or keys ``[batch, heads, pos, d_head]``, per head or over all heads.

    ``norm`` takes what :func:`normalize` takes.
    """
    if cfg.qk_norm == "head":
        return norm(x, "rms", cfg.norm_eps) * weight[:, None]
    together = norm(x.transpose(1, 2).flatten(2), "rms", cfg.norm_eps)
    apart: Tensor = together.unflatten(2, (x.shape[1], -1))
    return apart.transpose(1, 2) * weight[:, None]


def softcap(x: Tensor, cap: float) -> Tensor:
    """``cap tanh(x / cap)``; ``x`` itself where there is no cap."""
    return cap * torch.tanh(x / cap) if cap else x


def visible(cfg: TransformerConfig, layer: int, queries: Tensor, length: int) -> Tensor:
    """Whether positions ``queries [...]`` may attend to each of ``length`` keys ``[..., length]``.

    Those before it and itself, or all where the model is not causal; in a layer with a window
    only the nearest of them.
    """
    keys, queries = torch.arange(length, device=queries.device), queries[..., None]
    seen = keys <= queries if cfg.causal else (keys >= 0).expand(*queries.shape[:-1], length)
    window = cfg.window(layer)
    return seen & (keys > queries - window) if 0 < window < length else seen


def rotary_angles(
    cfg: TransformerConfig, length: int, device: torch.device, local: bool = False
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions, ``[length, rotary_dim]`` each.

    ``local`` takes the speeds of layers that have a window.
    """
    dim = cfg.rotary_dim or cfg.d_head
    given = cfg.local_rotary_speeds if local else cfg.rotary_speeds
    if given:
        speed = torch.tensor(given, device=device)
    else:
        speed = cfg.rotary_base ** (-torch.arange(0, dim, 2, device=device) / dim)
    angle = torch.outer(torch.arange(length, device=device).float(), speed)
    angle = angle.repeat_interleave(2, -1)
    cos, sin = angle.cos(), angle.sin()
    return (cos, sin) if cfg.rotary_gain == 1 else (cos * cfg.rotary_gain, sin * cfg.rotary_gain)


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
