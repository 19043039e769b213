"""The only module that knows transformer_lens: plain weights to its models, and back.

transformer_lens takes seconds to import, so nothing here imports it before it is needed.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuitbench.core.errors import InvalidSpec, ModelUnavailable, nearest
from circuitbench.core.extras import needs_extra
from circuitbench.core.info import Info
from circuitbench.models.base import Model
from circuitbench.models.forward import forward
from circuitbench.models.transformer import (
    LayerWeights,
    Normalization,
    Transformer,
    TransformerConfig,
)

_NORMS: dict[Normalization, str | None] = {"none": None, "layer": "LN", "rms": "RMS"}
_NORM_NAMES: dict[str, Normalization] = {
    "none": "none",
    "ln": "layer",
    "lnpre": "layer",
    "rms": "rms",
    "rmspre": "rms",
}


PROCESSINGS = ("folded", "raw")
FOLDER_VARIABLE = "CIRCUITBENCH_WEIGHTS"


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
    """A Hugging Face causal language model through transformer_lens.

    Weights are never downloaded: they come from ``$CIRCUITBENCH_WEIGHTS/<name>`` (a folder in
    Hugging Face's layout) or from the Hugging Face cache.

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
    folder = find_weights(name)
    bridge = _boot(folder, name, processing)
    transformer = from_transformer_lens(bridge)
    return Model(
        name=f"{name}@{processing}",
        n_layers=bridge.cfg.n_layers,
        n_heads=bridge.cfg.n_heads,
        transformer=transformer,
        hooked=bridge if transformer is None else None,
        construction=_tokenizer(folder, bridge.cfg.d_vocab),
        provenance={
            "kind": "pretrained",
            "name": name,
            "processing": processing,
            "revision": folder.name if folder.parent.name == "snapshots" else None,
            "weights_sha256": _digest(bridge),
            "transformer_lens": version("transformer_lens"),
            "transformers": version("transformers"),
        },
    )


def find_weights(name: str) -> Path:
    """The folder that holds a model's weights; raises :class:`ModelUnavailable`."""
    root = os.environ.get(FOLDER_VARIABLE)
    if root:
        folder = Path(root) / name
        if (folder / "config.json").is_file():
            return folder
        raise ModelUnavailable(f"no {name} in {FOLDER_VARIABLE}: {folder} has no config.json")
    with needs_extra(f"model {name!r}"):
        from huggingface_hub import try_to_load_from_cache

    for repository in (name, f"openai-community/{name}"):
        config = try_to_load_from_cache(repository, "config.json")
        if isinstance(config, str):
            return Path(config).parent
    raise ModelUnavailable(
        f"the weights of {name} are not on this machine; download them with "
        f"'hf download {name}', or set {FOLDER_VARIABLE} to a folder that has them in {name}/"
    )


def _boot(folder: Path, name: str, processing: str) -> Any:
    with needs_extra(f"model {name!r}"):
        from transformer_lens.model_bridge import TransformerBridge

    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise ModelUnavailable(f"{folder} has a config.json but no weights of {name}")
    try:
        bridge = TransformerBridge.boot_transformers(str(folder), device="cpu")
        if processing == "folded":
            bridge.enable_compatibility_mode()
    except Exception as error:  # loaders raise whatever their file formats' libraries raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelUnavailable(f"{name} in {folder} cannot be loaded: {reason}") from error
    return bridge.eval().requires_grad_(False)


def _tokenizer(folder: Path, d_vocab: int) -> Any:
    """The model's tokenizer, or None where the folder has none that fits."""
    with needs_extra("a tokenizer"):
        from transformers import AutoTokenizer, GPT2TokenizerFast

    if (folder / "tokenizer.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        tokenizer = GPT2TokenizerFast.from_pretrained(str(folder))
    else:
        return None  # transformers would make one that maps everything to 0
    return tokenizer if len(tokenizer) == d_vocab else None


def _digest(bridge: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(bridge.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


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


def from_transformer_lens(bridge: Any) -> Transformer | None:
    """Plain weights of a transformer_lens model, or None if its architecture is not one we know.

    Knows decoder-only pre-norm models with learned or rotary positions. That the weights
    compute the same is checked on random tokens, intact and with a head ablated, before they
    are trusted; weights as they stand are read, so processing (folding) must be done before.
    """
    try:
        transformer = _read(bridge)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, InvalidSpec):
        return None  # some part is missing or has another shape: not an architecture we know
    return transformer if transformer is not None and _computes_alike(bridge, transformer) else None


def _read(bridge: Any) -> Transformer | None:
    cfg, weights = bridge.cfg, bridge.state_dict()
    positions = (cfg.positional_embedding_type or "standard").lower()
    norm = _NORM_NAMES.get((cfg.normalization_type or "none").lower())
    known_mlp = cfg.attn_only or cfg.act_fn in ("relu", "gelu", "gelu_new", "silu")
    if norm is None or positions not in ("standard", "rotary") or not known_mlp:
        return None
    config = TransformerConfig(
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        d_model=cfg.d_model,
        d_head=cfg.d_head,
        d_vocab=cfg.d_vocab,
        n_ctx=cfg.n_ctx,
        attn_scale=1 / (cfg.attn_scale if cfg.attn_scale > 0 else math.sqrt(cfg.d_head)),
        d_mlp=0 if cfg.attn_only else cfg.d_mlp,
        n_kv_heads=cfg.n_key_value_heads or cfg.n_heads,
        activation=cfg.act_fn if not cfg.attn_only else "gelu_new",
        gated_mlp=bool(cfg.gated_mlp) and not cfg.attn_only,
        normalization=norm,
        norm_eps=cfg.eps,
        positions="rotary" if positions == "rotary" else "learned",
        rotary_dim=(cfg.rotary_dim or cfg.d_head) if positions == "rotary" else 0,
        rotary_base=float(cfg.rotary_base),
    )

    def get(name: str) -> Tensor | None:
        found = weights.get(name)
        return None if found is None else found.detach().float().clone()

    pairs = None
    if positions == "rotary" and cfg.architecture != "TransformerLensNative":
        pairs = _adjacent_pairs(config)
    return Transformer(
        config,
        W_E=_present(bridge.W_E),
        W_U=_present(bridge.W_U),
        layers=tuple(_read_layer(bridge, get, config, x, pairs) for x in range(cfg.n_layers)),
        W_pos=_present(bridge.W_pos) if positions == "standard" else None,
        b_U=get("unembed.bias"),
        lnf_w=get("ln_final.weight"),
        lnf_b=get("ln_final.bias"),
    )


def _present(tensor: Tensor) -> Tensor:
    return tensor.detach().float().clone()


def _adjacent_pairs(config: TransformerConfig) -> Tensor:
    """Order that turns Hugging Face's half-and-half rotary layout into adjacent pairs."""
    half = config.rotary_dim // 2
    turned = torch.stack([torch.arange(half), torch.arange(half) + half], 1).flatten()
    return torch.cat([turned, torch.arange(config.rotary_dim, config.d_head)])


def _read_layer(
    bridge: Any,
    get: Callable[[str], Tensor | None],
    config: TransformerConfig,
    layer: int,
    pairs: Tensor | None,
) -> LayerWeights:
    block, name = bridge.blocks[layer], f"blocks.{layer}"

    def heads(letter: str, n: int, turned: bool = False) -> tuple[Tensor, Tensor | None]:
        weight = _present(getattr(block.attn, f"W_{letter}")).view(n, config.d_model, config.d_head)
        bias = get(f"{name}.attn.{letter.lower()}.bias")
        bias = None if bias is None else bias.view(n, config.d_head)
        if turned and pairs is not None:
            weight, bias = weight[..., pairs], None if bias is None else bias[..., pairs]
        return weight, bias

    (W_Q, b_Q), (W_K, b_K) = heads("Q", config.n_heads, True), heads("K", config.n_kv_heads, True)
    W_V, b_V = heads("V", config.n_kv_heads)
    W_O = _present(block.attn.W_O).view(config.n_heads, config.d_head, config.d_model)
    mlp: dict[str, Tensor | None] = {}
    if config.d_mlp:
        mlp = {
            "W_in": _present(block.mlp.W_in).view(config.d_model, config.d_mlp),
            "b_in": get(f"{name}.mlp.in.bias"),
            "W_out": _present(block.mlp.W_out).view(config.d_mlp, config.d_model),
            "b_out": get(f"{name}.mlp.out.bias"),
            "ln2_w": get(f"{name}.ln2.weight"),
            "ln2_b": get(f"{name}.ln2.bias"),
        }
        if config.gated_mlp:
            mlp["W_gate"] = _present(block.mlp.W_gate).view(config.d_model, config.d_mlp)
    return LayerWeights(
        W_Q,
        W_K,
        W_V,
        W_O,
        b_Q,
        b_K,
        b_V,
        get(f"{name}.attn.o.bias"),
        ln1_w=get(f"{name}.ln1.weight"),
        ln1_b=get(f"{name}.ln1.bias"),
        **mlp,
    )


@torch.no_grad()
def _computes_alike(bridge: Any, transformer: Transformer, tolerance: float = 1e-3) -> bool:
    """Equal log-probabilities on random tokens, intact and with one head per layer ablated."""
    cfg = transformer.config
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(cfg.d_vocab, (2, min(cfg.n_ctx, 12)), generator=rng)
    off = torch.randint(cfg.n_heads, (cfg.n_layers,), generator=rng).tolist()

    def zero(layer: int, z: Tensor) -> Tensor:
        out = z.clone()
        out.view(*z.shape[:2], cfg.n_heads, -1)[:, :, off[layer]] = 0
        return out

    def hook(layer: int) -> Callable[..., Tensor]:
        return lambda z, hook: zero(layer, z)

    device = bridge.W_E.device
    for ablated in (False, True):
        hooks = [(f"blocks.{x}.attn.hook_z", hook(x)) for x in range(cfg.n_layers) if ablated]
        theirs = bridge.run_with_hooks(tokens.to(device), fwd_hooks=hooks).float().cpu()
        ours = forward(transformer, tokens, zero if ablated else None).logits
        difference = (ours.log_softmax(-1) - theirs.log_softmax(-1)).abs().max()
        if not difference <= tolerance:
            return False
    return True
