"""GPT-2, and plain weights as transformer_lens's models: the only module that knows those.

transformer_lens takes seconds to import, so nothing here imports it before it is needed.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuitbench.core.errors import InvalidSpec, ModelUnavailable, nearest
from circuitbench.core.extras import needs_extra
from circuitbench.core.info import Info
from circuitbench.models.base import Model
from circuitbench.models.checkpoints.files import FOLDER_VARIABLE, find_folder
from circuitbench.models.checkpoints.hf import load_checkpoint
from circuitbench.models.checkpoints.names import PROCESSINGS, Request
from circuitbench.models.transformer import (
    LayerWeights,
    Normalization,
    Transformer,
    TransformerConfig,
)

_NORMS: dict[Normalization, str | None] = {"none": None, "layer": "LN", "rms": "RMS"}

_NATIVE = (
    "n_layers",
    "n_heads",
    "d_model",
    "d_head",
    "d_vocab",
    "n_ctx",
    "attn_scale",
    "d_mlp",
    "n_kv_heads",
    "activation",
    "gated_mlp",
    "normalization",
    "norm_eps",
    "positions",
    "rotary_dim",
    "rotary_base",
)  # what TransformerBridgeConfig can say


@Info(
    title="GPT-2 small",
    family="Pretrained",
    paper="Radford et al. 2019",
    link="https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf",
)
def gpt2(variant: str = "") -> Model:
    """GPT-2 small (Radford et al. 2019), 12 x 12 heads, from weights that are already here.

    ``gpt2@folded`` (the default) is what transformer_lens's own models are: norms folded in,
    centred, value biases moved into ``b_O``. ``gpt2@raw`` are the published weights. Zero
    ablation differs between the two, so the choice is part of the model's name.
    """
    return load_pretrained("gpt2", variant)


def load_pretrained(name: str, variant: str = "") -> Model:
    """A Hugging Face causal language model under a name of our own.

    Weights are never downloaded: they come from ``$CIRCUITBENCH_WEIGHTS/<name>`` (a folder in
    Hugging Face's layout) or from the Hugging Face cache. Safetensors only.

    Args:
        name: of the model, e.g. ``gpt2``.
        variant: ``folded`` (also ``""``) or ``raw``.

    Raises:
        ModelUnavailable: if the weights are not on this machine or cannot be read.
        InvalidSpec: for an unknown variant.
    """
    processing = variant or "folded"
    if processing not in PROCESSINGS:
        raise InvalidSpec(f"no {name}@{variant}; {nearest(variant, PROCESSINGS)}")
    root = os.environ.get(FOLDER_VARIABLE)
    if root and not (Path(root) / name / "config.json").is_file():
        raise ModelUnavailable(f"no {name} in {FOLDER_VARIABLE}: {name}/ there has no config.json")
    request = Request(name, processing)
    return load_checkpoint(request, find_folder(name), name=f"{name}@{processing}")


def to_transformer_lens(transformer: Transformer) -> Any:
    """The same model as a transformer_lens ``TransformerBridge``, so that hooks work on it.

    Raises :class:`InvalidSpec` where transformer_lens's native model has no place for a weight.
    """
    with needs_extra("a model run by hooks"):
        from transformer_lens import TransformerBridgeConfig
        from transformer_lens.model_bridge.sources.native import boot

    cfg = transformer.config
    _check_native(transformer)
    bridge = boot(
        TransformerBridgeConfig(
            n_layers=cfg.n_layers,
            n_heads=cfg.n_heads,
            n_key_value_heads=cfg.n_kv_heads if cfg.n_kv_heads != cfg.n_heads else None,
            d_model=cfg.d_model,
            d_head=cfg.d_head,
            n_ctx=cfg.n_ctx,
            d_vocab=cfg.d_vocab,
            d_mlp=cfg.d_mlp or None,
            attn_only=cfg.d_mlp == 0,
            gated_mlp=cfg.gated_mlp,
            act_fn=cfg.activation,
            normalization_type=_NORMS[cfg.normalization],
            eps=cfg.norm_eps,
            positional_embedding_type="rotary" if cfg.positions == "rotary" else "standard",
            rotary_dim=(cfg.rotary_dim or cfg.d_head) if cfg.positions == "rotary" else None,
            rotary_base=cfg.rotary_base,
            init_weights=False,
        )
    )
    bridge = bridge.eval().requires_grad_(False)
    model = bridge.original_model
    _put(model.tok_embed, transformer.W_E)
    if model.pos is not None:
        _put(model.pos, torch.zeros(1) if transformer.W_pos is None else transformer.W_pos)
    _put(model.head, transformer.W_U.T, transformer.b_U)
    _put_norm(model.ln_out, transformer.lnf_w, transformer.lnf_b)
    for block, weights in zip(model.layers, transformer.layers, strict=True):
        _put_layer(_inner(block), cfg, weights)
    return bridge


def _check_native(transformer: Transformer) -> None:
    cfg = transformer.config
    plain = TransformerConfig(**{f: getattr(cfg, f) for f in _NATIVE})
    if cfg != plain or any(
        w.q_norm is not None or w.ln1_post_w is not None for w in transformer.layers
    ):
        raise InvalidSpec(
            "transformer_lens's native model knows neither parallel blocks, windows, soft caps, "
            "scaled rotary positions, nor norms of queries, keys and outputs"
        )
    if cfg.normalization == "rms":
        shifts = [transformer.lnf_b, *(b for w in transformer.layers for b in (w.ln1_b, w.ln2_b))]
        if any(shift is not None for shift in shifts):
            raise InvalidSpec("transformer_lens has no RMS norm with a shift")


def _inner(module: Any) -> Any:
    return module._modules.get("_original_component", module)


@torch.no_grad()
def _put(module: Any, weight: Tensor, bias: Tensor | None = None) -> None:
    """Copy into an embedding or linear module; an absent bias becomes zero."""
    inner = _inner(module)
    inner.weight.copy_(weight.expand_as(inner.weight))
    if getattr(inner, "bias", None) is not None:
        inner.bias.copy_(torch.zeros(1) if bias is None else bias)
    elif bias is not None:
        inner.bias = torch.nn.Parameter(bias.clone(), requires_grad=False)


def _put_norm(module: Any, weight: Tensor | None, bias: Tensor | None) -> None:
    if getattr(_inner(module), "weight", None) is not None:
        _put(module, torch.ones(1) if weight is None else weight, bias)


def _put_layer(block: Any, cfg: TransformerConfig, w: LayerWeights) -> None:
    attention = _inner(block.attn)
    scale = cfg.attn_scale * math.sqrt(cfg.d_head)  # transformer_lens divides by sqrt(d_head)
    for name, weight, bias, factor in (
        ("q", w.W_Q, w.b_Q, scale),
        ("k", w.W_K, w.b_K, 1.0),
        ("v", w.W_V, w.b_V, 1.0),
    ):
        flat = weight.permute(0, 2, 1).reshape(-1, cfg.d_model)
        _put(
            getattr(attention, name),
            flat * factor,
            None if bias is None else bias.flatten() * factor,
        )
    _put(attention.o, w.W_O.reshape(-1, cfg.d_model).T, w.b_O)
    _put_norm(block.ln1, w.ln1_w, w.ln1_b)
    if w.W_in is None or w.W_out is None:
        return
    _put_norm(block.ln2, w.ln2_w, w.ln2_b)
    mlp = _inner(block.mlp)
    if cfg.gated_mlp and w.W_gate is not None:
        _put(mlp.gate, w.W_gate.T)
        _put(getattr(mlp, "in"), w.W_in.T, w.b_in)
        _put(mlp.out, w.W_out.T, w.b_out)
    else:
        _put(mlp.fc_in, w.W_in.T, w.b_in)
        _put(mlp.fc_out, w.W_out.T, w.b_out)
