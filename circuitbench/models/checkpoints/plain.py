"""A model from a plain state dict: named tensors and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from circuitbench.core.errors import InvalidSpec, UnknownName, nearest
from circuitbench.models.base import Model
from circuitbench.models.checkpoints.readers import adjacent_pairs
from circuitbench.models.checkpoints.tokenizers import WordTokenizer
from circuitbench.models.forward import forward as reference
from circuitbench.models.transformer import LayerWeights, Transformer, TransformerConfig
from circuitbench.models.weight_names import with_parameters

TOLERANCE = 1e-3  # of logits, absolute and relative
_PER_HEAD = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")

RotaryLayout = Literal["adjacent", "halves"]


def from_weights(
    weights: Mapping[str, Any],
    config: TransformerConfig | Mapping[str, Any],
    *,
    name: str = "my-model",
    forward: Callable[[Tensor], Tensor] | None = None,
    words: Sequence[str] | None = None,
    tokenizer: Any = None,
    rotary: RotaryLayout = "adjacent",
) -> Model:
    """A model from tensors by name: ``W_E``, ``layers.0.W_Q``, ... (docs/your-model.md).

    Args:
        weights: tensors or arrays; :func:`shapes` lists all names and shapes. Weights of heads
            may have their heads apart, ``W_Q [n_heads, d_model, d_head]``, or side by side,
            ``W_Q [d_model, n_heads * d_head]``.
        config: shapes and switches.
        name: of the model, in records.
        forward: your own forward pass, tokens ``[batch, pos]`` to logits ``[batch, pos, d_vocab]``;
            if given, both must agree on random tokens.
        words: the vocabulary by token id, for prompts of words separated by spaces.
        tokenizer: instead of ``words``: anything with ``encode``, ``bos_token_id`` and a length.
        rotary: whether rotary positions turn adjacent dimensions of queries and keys, or the
            first half against the second, as Hugging Face's models do.

    Raises:
        InvalidSpec: naming the key that is missing, has another shape, or holds NaN; or where
            ``forward`` computes something else.
        UnknownName: for a key or a setting that does not exist.
    """
    if not isinstance(config, TransformerConfig):
        known = [f.name for f in fields(TransformerConfig)]
        for key in config:
            if key not in known:
                raise UnknownName("setting of a model", key, known)
        try:
            config = TransformerConfig(**config)
        except TypeError as error:
            missing = str(error).partition("argument")[2].lstrip("s: ")
            raise InvalidSpec(f"the config of {name} lacks {missing}") from None
    transformer = transformer_from(weights, config, name)
    if rotary not in ("adjacent", "halves"):
        raise InvalidSpec(f"no rotary layout {rotary!r}; {nearest(rotary, ['adjacent', 'halves'])}")
    if rotary == "halves":
        transformer = _turned(transformer)
    if words is not None and tokenizer is not None:
        raise InvalidSpec("give words or a tokenizer, not both")
    tokenizer = WordTokenizer(words) if words is not None else tokenizer
    if tokenizer is not None and len(tokenizer) > config.d_vocab:
        raise InvalidSpec(
            f"{name} has {config.d_vocab} tokens, its tokenizer {len(tokenizer)}: "
            "they do not belong together"
        )
    if forward is not None:
        check_forward(transformer, forward, name)
    return Model(
        name=name,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        transformer=transformer,
        construction=tokenizer,
        provenance={"kind": "state dict", "name": name, "compared": forward is not None},
    )


def shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Every name that a state dict of this config may have, with its shape."""
    c = config
    n, kv, d, h, m = c.n_heads, c.n_kv_heads, c.d_model, c.d_head, c.d_mlp
    top = {"W_E": (c.d_vocab, d), "W_U": (d, c.d_vocab), "b_U": (c.d_vocab,)}
    if c.positions == "learned":
        top["W_pos"] = (c.n_ctx, d)
    layer: dict[str, tuple[int, ...]] = {
        "W_Q": (n, d, h),
        "W_K": (kv, d, h),
        "W_V": (kv, d, h),
        "W_O": (n, h, d),
        "b_Q": (n, h),
        "b_K": (kv, h),
        "b_V": (kv, h),
        "b_O": (d,),
    }
    if m:
        layer |= {"W_in": (d, m), "b_in": (m,), "W_out": (m, d), "b_out": (d,)}
        layer |= {"W_gate": (d, m)} if c.gated_mlp else {}
    if c.normalization != "none":
        top |= {"lnf_w": (d,), "lnf_b": (d,)}
        layer |= dict.fromkeys(("ln1_w", "ln1_b", "ln1_post_w"), (d,))
        layer |= dict.fromkeys(("ln2_w", "ln2_b", "ln2_post_w"), (d,)) if m else {}
    if c.qk_norm == "head":
        layer |= {"q_norm": (1, h), "k_norm": (1, h)}
    elif c.qk_norm == "all":
        layer |= {"q_norm": (n, h), "k_norm": (kv, h)}
    return top | {f"layers.{i}.{k}": s for i in range(c.n_layers) for k, s in layer.items()}


def transformer_from(
    weights: Mapping[str, Any], config: TransformerConfig, name: str
) -> Transformer:
    """Checked plain weights; raises as :func:`from_weights` does."""
    expected = shapes(config)
    for key in weights:
        if key not in expected:
            raise UnknownName("weight", str(key), _nearby(str(key), expected))
    required = ["W_E", "W_U", *(["W_pos"] if config.positions == "learned" else [])]
    parts = ["W_Q", "W_K", "W_V", "W_O", *(["W_in", "W_out"] if config.d_mlp else [])]
    parts += ["W_gate"] if config.d_mlp and config.gated_mlp else []
    parts += ["q_norm", "k_norm"] if config.qk_norm != "none" else []
    required += [f"layers.{i}.{part}" for i in range(config.n_layers) for part in parts]
    for key in required:
        if key not in weights:
            shape = list(expected[key])
            raise InvalidSpec(f"{name} has no weight {key}, which should be {shape}")
    named = {key: _checked(key, value, expected[key], name) for key, value in weights.items()}
    return with_parameters(config, named)


def _nearby(key: str, expected: Mapping[str, object]) -> list[str]:
    """The names that might have been meant: of the first layer only, not of all."""
    return [k for k in expected if not k.startswith("layers.") or k.startswith("layers.0.")]


def _checked(key: str, value: Any, shape: tuple[int, ...], name: str) -> Tensor:
    try:
        tensor = torch.as_tensor(value).detach().to("cpu", torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidSpec(
            f"{key} of {name} is no tensor of numbers: {type(value).__name__}"
        ) from None
    part = key.rpartition(".")[2]
    if part in _PER_HEAD and tensor.dim() == len(shape) - 1:
        tensor = _apart(tensor, part, shape)
    if tuple(tensor.shape) != shape:
        found = list(torch.as_tensor(value).shape)
        also = f" or {_together(part, shape)}" if part in _PER_HEAD else ""
        hint = " (transposed?)" if found[::-1] == _together(part, shape) else ""
        raise InvalidSpec(f"{key} of {name} has shape {found}; expected {list(shape)}{also}{hint}")
    if not torch.isfinite(tensor).all():
        raise InvalidSpec(f"{key} of {name} holds NaN or infinity")
    return tensor.clone()


def _together(part: str, shape: tuple[int, ...]) -> list[int]:
    """The shape with heads side by side: ``[d_model, n_heads * d_head]`` of ``W_Q``."""
    if part in ("W_Q", "W_K", "W_V"):
        return [shape[1], shape[0] * shape[2]]
    if part in _PER_HEAD:
        return [shape[0] * shape[1], *shape[2:]]
    return list(shape)


def _apart(tensor: Tensor, part: str, shape: tuple[int, ...]) -> Tensor:
    """Heads side by side, taken apart; as it is where the shape is another."""
    if list(tensor.shape) != _together(part, shape):
        return tensor
    if part in ("W_Q", "W_K", "W_V"):
        return tensor.view(shape[1], shape[0], shape[2]).transpose(0, 1)
    return tensor.view(shape)


def _turned(model: Transformer) -> Transformer:
    """Queries and keys in our order of rotary dimensions, from Hugging Face's."""
    if model.config.positions != "rotary":
        raise InvalidSpec("rotary='halves' is of models with positions='rotary'")
    pairs = adjacent_pairs(model.config)

    def turned(layer: LayerWeights) -> LayerWeights:
        parts = ("W_Q", "W_K", "b_Q", "b_K", "q_norm", "k_norm")
        found = {part: getattr(layer, part) for part in parts}
        return replace(layer, **{k: t[..., pairs] for k, t in found.items() if t is not None})

    return replace(model, layers=tuple(turned(layer) for layer in model.layers))


@torch.no_grad()
def check_forward(model: Transformer, forward: Callable[[Tensor], Tensor], name: str) -> None:
    """Compare logits with those of ``forward`` on random tokens.

    Raises :class:`InvalidSpec` where they differ, naming the first position that does.
    """
    cfg = model.config
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(cfg.d_vocab, (2, min(cfg.n_ctx, 16)), generator=rng)
    ours = reference(model, tokens).logits
    theirs = forward(tokens)
    if not isinstance(theirs, Tensor) or theirs.shape != ours.shape:
        found = list(theirs.shape) if isinstance(theirs, Tensor) else type(theirs).__name__
        raise InvalidSpec(f"forward must give logits {list(ours.shape)}, not {found}")
    gap = (ours - theirs.detach().float().cpu()).abs()
    wrong = ~(gap <= TOLERANCE * (1 + ours.abs())).all(-1)
    if wrong.any():
        first = int(wrong.any(0).nonzero()[0])
        where = (
            "from the first position on: look at embeddings, norms, the MLP and layouts"
            if first == 0
            else f"from position {first} on: look at positions and attention"
        )
        raise InvalidSpec(
            f"{name} computes other logits than your forward, by {float(gap.max()):.2g}, {where}"
        )
