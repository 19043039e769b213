"""Plain weights from Hugging Face's checkpoints, one reader per family of architectures.

A reader states the shapes it expects, so a checkpoint that is not what its config says is named
by the tensor at fault. It must use every tensor of the model: one that is left over means the
model computes something that is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from circuitbench.models.checkpoints.files import Tensors
from circuitbench.models.transformer import (
    Activation,
    LayerWeights,
    Transformer,
    TransformerConfig,
)

_ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "silu": "silu",
    "swish": "silu",
}
_NOT_TEXT = ("vision_tower", "multi_modal", "model.vision", "model.multi_modal")
_BUFFERS = ("inv_freq", "attn.bias", "masked_bias", "attention.bias")  # of old checkpoints


class Unsupported(Exception):
    """Something in a checkpoint that plain weights cannot express; the message says what."""


@dataclass(frozen=True)
class Checkpoint:
    """What a reader is given.

    Args:
        config: Hugging Face's configuration of the language model.
        tensors: the weights.
        dtype: what matrices are kept in; norms and biases are float32.
    """

    config: Any
    tensors: Tensors
    dtype: torch.dtype

    def matrix(self, key: str, *shape: int) -> Tensor:
        """A matrix of this shape."""
        return self.tensors.take(key, *shape, dtype=self.dtype)

    def vector(self, key: str, size: int) -> Tensor | None:
        """A vector in float32, or None where there is none of this name."""
        return self.tensors.take(key, size) if key in self.tensors else None

    def norm(self, key: str, size: int, plus: float = 0.0) -> Tensor:
        """A norm's scale, which some models store as the difference from 1."""
        scale = self.tensors.take(key, size)
        return scale + plus if plus else scale

    def prefix(self, key: str) -> str:
        """What stands before ``key`` in the names of this checkpoint."""
        found = [k for k in self.tensors.names if k == key or k.endswith(f".{key}")]
        return found[0].removesuffix(key) if found else ""

    def unembedding(self, key: str, shape: tuple[int, int], embedding: Tensor) -> Tensor:
        """``[d_model, d_vocab]``: its own weight, or the embedding's where they are tied."""
        tied = getattr(self.config, "tie_word_embeddings", False)
        if key in self.tensors and not tied:
            return self.matrix(key, *shape).T
        self.tensors.taken.add(key)
        if not tied:
            self.tensors.shape(key)  # says that it is missing
        return embedding.T


def read(checkpoint: Checkpoint) -> Transformer:
    """Plain weights of a checkpoint.

    Raises:
        Unsupported: it computes what plain weights cannot express.
        ModelUnavailable: a tensor is missing, has another shape, or holds NaN.
    """
    transformer = READERS[checkpoint.config.model_type](checkpoint)
    taken = checkpoint.tensors.taken
    left = [k for k in checkpoint.tensors.names if k not in taken and not k.endswith(_BUFFERS)]
    left = [key for key in left if not key.startswith(_NOT_TEXT)]
    if left:
        raise Unsupported(f"nothing here uses its weight {left[0]} ({len(left)} in all)")
    return transformer


def _activation(name: str) -> Activation:
    if name not in _ACTIVATIONS:
        raise Unsupported(f"its activation {name!r} is not one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def gpt2(c: Checkpoint) -> Transformer:
    """GPT-2 (Radford et al. 2019): weights as ``[d_in, d_out]``, queries, keys, values fused."""
    hf, p = c.config, c.prefix("wte.weight")
    if getattr(hf, "scale_attn_by_inverse_layer_idx", False):
        raise Unsupported("it scales attention by the layer")
    d, n = hf.n_embd, hf.n_head
    d_mlp = hf.n_inner or 4 * d
    config = TransformerConfig(
        n_layers=hf.n_layer,
        n_heads=n,
        d_model=d,
        d_head=d // n,
        d_vocab=hf.vocab_size,
        n_ctx=hf.n_positions,
        attn_scale=(d // n) ** -0.5 if getattr(hf, "scale_attn_weights", True) else 1.0,
        d_mlp=d_mlp,
        activation=_activation(hf.activation_function),
        normalization="layer",
        norm_eps=hf.layer_norm_epsilon,
    )

    def layer(i: int) -> LayerWeights:
        at = f"{p}h.{i}."
        qkv = c.matrix(f"{at}attn.c_attn.weight", d, 3 * d).view(d, 3, n, -1)
        q, k, v = qkv.permute(1, 2, 0, 3)
        b_q, b_k, b_v = c.tensors.take(f"{at}attn.c_attn.bias", 3 * d).view(3, n, -1)
        return LayerWeights(
            W_Q=q,
            W_K=k,
            W_V=v,
            W_O=c.matrix(f"{at}attn.c_proj.weight", d, d).view(n, -1, d),
            b_Q=b_q,
            b_K=b_k,
            b_V=b_v,
            b_O=c.tensors.take(f"{at}attn.c_proj.bias", d),
            W_in=c.matrix(f"{at}mlp.c_fc.weight", d, d_mlp),
            b_in=c.tensors.take(f"{at}mlp.c_fc.bias", d_mlp),
            W_out=c.matrix(f"{at}mlp.c_proj.weight", d_mlp, d),
            b_out=c.tensors.take(f"{at}mlp.c_proj.bias", d),
            ln1_w=c.norm(f"{at}ln_1.weight", d),
            ln1_b=c.tensors.take(f"{at}ln_1.bias", d),
            ln2_w=c.norm(f"{at}ln_2.weight", d),
            ln2_b=c.tensors.take(f"{at}ln_2.bias", d),
        )

    embedding = c.matrix(f"{p}wte.weight", hf.vocab_size, d)
    return Transformer(
        config,
        W_E=embedding,
        W_U=c.unembedding("lm_head.weight", (hf.vocab_size, d), embedding),
        layers=tuple(layer(i) for i in range(hf.n_layer)),
        W_pos=c.tensors.take(f"{p}wpe.weight", hf.n_positions, d),
        lnf_w=c.norm(f"{p}ln_f.weight", d),
        lnf_b=c.tensors.take(f"{p}ln_f.bias", d),
    )


def gpt_neox(c: Checkpoint) -> Transformer:
    """GPT-NeoX and Pythia (Biderman et al. 2023): parallel blocks, partly rotary positions."""
    hf, p = c.config, c.prefix("embed_in.weight")
    d, n, d_mlp = hf.hidden_size, hf.num_attention_heads, hf.intermediate_size
    d_head = d // n
    config = TransformerConfig(
        n_layers=hf.num_hidden_layers,
        n_heads=n,
        d_model=d,
        d_head=d_head,
        d_vocab=hf.vocab_size,
        n_ctx=hf.max_position_embeddings,
        attn_scale=d_head**-0.5,
        d_mlp=d_mlp,
        activation=_activation(hf.hidden_act),
        normalization="layer",
        norm_eps=hf.layer_norm_eps,
        parallel=bool(hf.use_parallel_residual),
        positions="rotary",
        **_rotary(hf, d_head),
    )
    pairs = adjacent_pairs(config)

    def layer(i: int) -> LayerWeights:
        at = f"{p}layers.{i}."
        weight = c.matrix(f"{at}attention.query_key_value.weight", 3 * d, d)
        q, k, v = weight.view(n, 3, d_head, d).permute(1, 0, 3, 2)
        bias = c.vector(f"{at}attention.query_key_value.bias", 3 * d)
        b_q = b_k = b_v = None
        if bias is not None:
            b_q, b_k, b_v = bias.view(n, 3, d_head).permute(1, 0, 2)
            b_q, b_k = b_q[..., pairs], b_k[..., pairs]
        return LayerWeights(
            W_Q=q[..., pairs],
            W_K=k[..., pairs],
            W_V=v,
            W_O=c.matrix(f"{at}attention.dense.weight", d, d).view(d, n, d_head).permute(1, 2, 0),
            b_Q=b_q,
            b_K=b_k,
            b_V=b_v,
            b_O=c.vector(f"{at}attention.dense.bias", d),
            W_in=c.matrix(f"{at}mlp.dense_h_to_4h.weight", d_mlp, d).T,
            b_in=c.vector(f"{at}mlp.dense_h_to_4h.bias", d_mlp),
            W_out=c.matrix(f"{at}mlp.dense_4h_to_h.weight", d, d_mlp).T,
            b_out=c.vector(f"{at}mlp.dense_4h_to_h.bias", d),
            ln1_w=c.norm(f"{at}input_layernorm.weight", d),
            ln1_b=c.vector(f"{at}input_layernorm.bias", d),
            ln2_w=c.norm(f"{at}post_attention_layernorm.weight", d),
            ln2_b=c.vector(f"{at}post_attention_layernorm.bias", d),
        )

    embedding = c.matrix(f"{p}embed_in.weight", hf.vocab_size, d)
    return Transformer(
        config,
        W_E=embedding,
        W_U=c.unembedding("embed_out.weight", (hf.vocab_size, d), embedding),
        layers=tuple(layer(i) for i in range(hf.num_hidden_layers)),
        lnf_w=c.norm(f"{p}final_layer_norm.weight", d),
        lnf_b=c.vector(f"{p}final_layer_norm.bias", d),
    )


def llama(c: Checkpoint) -> Transformer:
    """Llama (Touvron et al. 2023) and all that share its names.

    Mistral, Qwen 2 and 3, Gemma 2 and 3, OLMo 2 and Phi-3 differ in where norms stand, how
    queries and keys are normalised, which weights are fused, and in windows and soft caps.
    """
    hf, p = c.config, c.prefix("embed_tokens.weight")
    kind = hf.model_type
    gemma, olmo = kind.startswith("gemma"), kind == "olmo2"
    if getattr(hf, "use_bidirectional_attention", None):
        raise Unsupported("its attention looks forwards too")
    d, n = hf.hidden_size, hf.num_attention_heads
    n_kv, d_mlp = hf.num_key_value_heads, hf.intermediate_size
    d_head = getattr(hf, "head_dim", None) or d // n
    scalar = getattr(hf, "query_pre_attn_scalar", None)
    one = 1.0 if gemma else 0.0
    norms_queries = f"{p}layers.0.self_attn.q_norm.weight" in c.tensors
    config = TransformerConfig(
        n_layers=hf.num_hidden_layers,
        n_heads=n,
        d_model=d,
        d_head=d_head,
        d_vocab=hf.vocab_size,
        n_ctx=_length(hf),
        attn_scale=(scalar or d_head) ** -0.5,
        d_mlp=d_mlp,
        n_kv_heads=n_kv,
        activation=_activation(getattr(hf, "hidden_activation", None) or hf.hidden_act),
        gated_mlp=True,
        normalization="rms",
        norm_eps=hf.rms_norm_eps,
        pre_norm=not olmo,
        windows=_windows(hf),
        qk_norm="none" if not norms_queries else "all" if olmo else "head",
        attn_softcap=getattr(hf, "attn_logit_softcapping", None) or 0.0,
        logit_softcap=getattr(hf, "final_logit_softcapping", None) or 0.0,
        embed_scale=math.sqrt(d) if gemma else 1.0,
        positions="rotary",
        **_rotary(hf, d_head),
    )
    pairs = adjacent_pairs(config)

    def projections(at: str) -> tuple[Tensor, Tensor, Tensor]:
        sizes = [n * d_head, n_kv * d_head, n_kv * d_head]
        if kind == "phi3":
            q, k, v = c.matrix(f"{at}qkv_proj.weight", sum(sizes), d).split(sizes)
        else:
            q, k, v = (
                c.matrix(f"{at}{x}_proj.weight", size, d)
                for x, size in zip("qkv", sizes, strict=True)
            )
        q, k, v = (w.view(-1, d_head, d).transpose(1, 2) for w in (q, k, v))
        return q[..., pairs], k[..., pairs], v

    def bias(key: str, heads: int, turned: bool) -> Tensor | None:
        found = c.vector(key, heads * d_head)
        if found is None:
            return None
        found = found.view(heads, d_head)
        return found[..., pairs] if turned else found

    def query_norm(key: str, heads: int) -> Tensor | None:
        if not norms_queries:
            return None
        if olmo:
            return c.norm(key, heads * d_head).view(heads, d_head)[..., pairs]
        return c.norm(key, d_head, one)[None, pairs]

    def layer(i: int) -> LayerWeights:
        at, attention = f"{p}layers.{i}.", f"{p}layers.{i}.self_attn."
        q, k, v = projections(attention)
        if kind == "phi3":
            fused = c.matrix(f"{at}mlp.gate_up_proj.weight", 2 * d_mlp, d)
            gate, up = fused.split(d_mlp)
        else:
            gate = c.matrix(f"{at}mlp.gate_proj.weight", d_mlp, d)
            up = c.matrix(f"{at}mlp.up_proj.weight", d_mlp, d)
        after_attention = c.norm(f"{at}post_attention_layernorm.weight", d, one)
        norms: dict[str, Tensor] = {}
        if not olmo:
            norms["ln1_w"] = c.norm(f"{at}input_layernorm.weight", d, one)
        if gemma:
            norms["ln2_w"] = c.norm(f"{at}pre_feedforward_layernorm.weight", d, one)
        if gemma or olmo:
            norms["ln1_post_w"] = after_attention
            norms["ln2_post_w"] = c.norm(f"{at}post_feedforward_layernorm.weight", d, one)
        else:
            norms["ln2_w"] = after_attention  # stands before the MLP, whatever it is called
        output = c.matrix(f"{attention}o_proj.weight", d, n * d_head)
        return LayerWeights(
            W_Q=q,
            W_K=k,
            W_V=v,
            W_O=output.view(d, n, d_head).permute(1, 2, 0),
            b_Q=bias(f"{attention}q_proj.bias", n, True),
            b_K=bias(f"{attention}k_proj.bias", n_kv, True),
            b_V=bias(f"{attention}v_proj.bias", n_kv, False),
            b_O=c.vector(f"{attention}o_proj.bias", d),
            W_in=up.T,
            b_in=c.vector(f"{at}mlp.up_proj.bias", d_mlp),
            W_gate=gate.T,
            W_out=c.matrix(f"{at}mlp.down_proj.weight", d, d_mlp).T,
            b_out=c.vector(f"{at}mlp.down_proj.bias", d),
            q_norm=query_norm(f"{attention}q_norm.weight", n),
            k_norm=query_norm(f"{attention}k_norm.weight", n_kv),
            **norms,
        )

    embedding = c.matrix(f"{p}embed_tokens.weight", hf.vocab_size, d)
    head = next((k for k in c.tensors.names if k.endswith("lm_head.weight")), "lm_head.weight")
    return Transformer(
        config,
        W_E=embedding,
        W_U=c.unembedding(head, (hf.vocab_size, d), embedding),
        layers=tuple(layer(i) for i in range(hf.num_hidden_layers)),
        lnf_w=c.norm(f"{p}norm.weight", d, one),
    )


def _windows(hf: Any) -> tuple[int, ...]:
    window = getattr(hf, "sliding_window", None)
    if not window:
        return ()
    kinds = getattr(hf, "layer_types", None) or ["sliding_attention"] * hf.num_hidden_layers
    windows = tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    return windows if any(windows) else ()


def _length(hf: Any) -> int:
    """Positions up to which rotary speeds are what :func:`_rotary` says."""
    original = getattr(hf, "original_max_position_embeddings", None)
    return int(original or hf.max_position_embeddings)


def _rotary(hf: Any, d_head: int) -> dict[str, Any]:
    """The rotary settings of a config: speeds where they are scaled, two kinds in Gemma 3."""
    parameters = getattr(hf, "rope_parameters", None)
    if not isinstance(parameters, dict):
        raise Unsupported("its config has no rope_parameters (transformers 5 writes them)")
    if "full_attention" not in parameters:
        base, speeds, gain, dim = _speeds(hf, parameters, None, d_head)
        return dict(rotary_base=base, rotary_speeds=speeds, rotary_gain=gain, rotary_dim=dim)
    base, speeds, gain, dim = _speeds(hf, parameters["full_attention"], "full_attention", d_head)
    local = parameters.get("sliding_attention") or parameters["full_attention"]
    near, slow, other, width = _speeds(hf, local, "sliding_attention", d_head)
    if (gain, dim) != (other, width):
        raise Unsupported("rotary positions of local and global layers differ in more than speed")
    slow = slow or tuple(near ** (-x / dim) for x in range(0, dim, 2))
    return dict(
        rotary_base=base,
        rotary_speeds=speeds,
        local_rotary_speeds=slow,
        rotary_gain=gain,
        rotary_dim=dim,
    )


def _speeds(
    hf: Any, parameters: dict[str, Any], layer_type: str | None, d_head: int
) -> tuple[float, tuple[float, ...], float, int]:
    """Base, speeds (none where they follow from the base), gain and rotary width."""
    kind = parameters.get("rope_type", "default")
    base = float(parameters["rope_theta"])
    share = parameters.get("partial_rotary_factor") or getattr(hf, "partial_rotary_factor", None)
    dim = int(d_head * (share or 1.0))
    if kind in ("default", "dynamic"):  # dynamic scaling begins beyond the trained length
        return base, (), 1.0, dim
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if kind not in ROPE_INIT_FUNCTIONS:
        raise Unsupported(f"its rotary positions are of an unknown type {kind!r}")
    named = {} if layer_type is None else {"layer_type": layer_type}
    speeds, gain = ROPE_INIT_FUNCTIONS[kind](hf, torch.device("cpu"), **named)
    return base, tuple(speeds.tolist()), float(gain), dim


def adjacent_pairs(config: TransformerConfig) -> Tensor:
    """Order that turns Hugging Face's half-and-half rotary layout into adjacent pairs."""
    dim = config.rotary_dim or config.d_head
    turned = torch.stack([torch.arange(dim // 2), torch.arange(dim // 2) + dim // 2], 1).flatten()
    return torch.cat([turned, torch.arange(dim, config.d_head)])


_LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "olmo2", "phi3")
READERS: dict[str, Callable[[Checkpoint], Transformer]] = {
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    **dict.fromkeys(_LIKE_LLAMA, llama),
}
"""By the ``model_type`` of Hugging Face's config."""
