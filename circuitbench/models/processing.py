"""Weights prepared as transformer_lens prepares them: the same predictions, other parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from circuitbench.core.errors import InvalidSpec
from circuitbench.models.transformer import LayerWeights, Transformer


def folded(model: Transformer) -> Transformer:
    """Norms folded into what reads them, outputs centred, value biases moved into ``b_O``.

    Log-probabilities stay the same, and so does every ablation by a constant's difference; zero
    ablation does not, since a head no longer carries its value bias. Outputs are centred only
    where a LayerNorm reads them; logits only where they are not capped.

    Source: transformer_lens's weight processing (Nanda and Bloom 2022), from its documentation.

    Raises :class:`InvalidSpec` for weights kept in bfloat16, which would lose digits.
    """
    if model.is_slim:
        raise InvalidSpec("weights can be folded in float32 only: leave out dtype=bfloat16")
    cfg = model.config
    if model.config.gated_mlp and any(w.ln2_b is not None for w in model.layers):
        raise InvalidSpec("a gated MLP after a norm with a shift cannot be folded")
    centre = _centred if cfg.normalization == "layer" and cfg.pre_norm else _same
    W_U, b_U = _into(model.W_U, model.b_U, model.lnf_w, model.lnf_b)
    if not cfg.logit_softcap:
        W_U = _centred(W_U)
        b_U = None if b_U is None else b_U - b_U.mean()
    return replace(
        model,
        W_E=centre(model.W_E),
        W_U=W_U,
        b_U=b_U,
        W_pos=None if model.W_pos is None else centre(model.W_pos),
        lnf_w=None,
        lnf_b=None,
        layers=tuple(_layer(layer, centre, cfg.n_heads) for layer in model.layers),
    )


def _layer(w: LayerWeights, centre: Callable[[Tensor], Tensor], n_heads: int) -> LayerWeights:
    W_Q, b_Q = _into(w.W_Q, w.b_Q, w.ln1_w, w.ln1_b)
    W_K, b_K = _into(w.W_K, w.b_K, w.ln1_w, w.ln1_b)
    W_V, b_V = _into(w.W_V, w.b_V, w.ln1_w, w.ln1_b)
    b_O = w.b_O
    if b_V is not None:
        moved = (b_V.repeat_interleave(n_heads // len(b_V), 0)[:, None] @ w.W_O).sum((0, 1))
        b_O = moved if b_O is None else b_O + moved
    new = replace(
        w,
        W_Q=W_Q,
        W_K=W_K,
        W_V=W_V,
        W_O=centre(w.W_O),
        b_Q=b_Q,
        b_K=b_K,
        b_V=None,
        b_O=None if b_O is None else centre(b_O),
        ln1_w=None,
        ln1_b=None,
        ln2_w=None,
        ln2_b=None,
    )
    if w.W_in is None or w.W_out is None:
        return new
    W_in, b_in = _into(w.W_in, w.b_in, w.ln2_w, w.ln2_b)
    return replace(
        new,
        W_in=W_in,
        b_in=b_in,
        W_gate=None if w.W_gate is None else _into(w.W_gate, None, w.ln2_w, w.ln2_b)[0],
        W_out=centre(w.W_out),
        b_out=None if w.b_out is None else centre(w.b_out),
    )


def _into(
    weight: Tensor, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """``weight [..., d_model, d_out]`` and bias that absorb the norm before them."""
    if shift is not None:
        moved = shift @ weight
        bias = moved if bias is None else bias + moved
    return weight if scale is None else scale[:, None] * weight, bias


def _centred(x: Tensor) -> Tensor:
    """Without its mean over the last dimension."""
    return x - x.mean(-1, keepdim=True)


def _same(x: Tensor) -> Tensor:
    return x
