"""``interpbench:FOLDER``: a case of InterpBench, its weights, and its edges as the truth.

A case is a folder with ``ll_model.pth``, ``ll_model_cfg.pkl``, ``meta.json`` and ``edges.pkl``
(Gupta et al. 2024, arXiv 2407.14494). Its model is read without transformer_lens, its pickles by
:mod:`circuitbench.models.checkpoints.unpickling`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from circuitbench.core.circuit import Circuit, Edge, Head, Role
from circuitbench.core.edges import graph_of
from circuitbench.core.errors import InvalidSpec, ModelUnavailable
from circuitbench.core.info import Info
from circuitbench.models.base import Model
from circuitbench.models.checkpoints.files import (
    digest,
    existing,
    folder_name,
    local_folder,
    read_json,
)
from circuitbench.models.checkpoints.hf import PIN, check_pin
from circuitbench.models.checkpoints.names import Request
from circuitbench.models.checkpoints.plain import transformer_from
from circuitbench.models.checkpoints.tokenizers import tokenizer_of
from circuitbench.models.checkpoints.unpickling import read_pickle, read_tensors
from circuitbench.models.processing import folded
from circuitbench.models.transformer import Activation, Normalization, TransformerConfig

FILES = ("ll_model.pth", "ll_model_cfg.pkl", "edges.pkl")
NEVER = -1e4  # logit of a token that the model reads but cannot say
_NODE = re.compile(r"(?P<hook>[\w.]+)(?:\[(?P<index>.*)\])?")
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_NORMS: dict[str | None, Normalization] = {
    None: "none",
    "LN": "layer",
    "LNPre": "layer",
    "RMS": "rms",
    "RMSPre": "rms",
}
_SENDING_HEADS = ("attn.hook_result", "attn.hook_z", "hook_attn_out")
_SENDING_MLPS = ("hook_mlp_out", "mlp.hook_post", "mlp.hook_mlp_out")
_HEARING_MLPS = ("hook_mlp_in", "mlp.hook_pre", "hook_resid_mid", *_SENDING_MLPS)
_INPUTS = {f"{stem.format(x)}": x for x in "qkv" for stem in ("hook_{}_input", "attn.hook_{}")}


@dataclass(frozen=True)
class InterpBenchCase:
    """What a task needs to know of a case.

    Args:
        folder: where its files are.
        name: of the case.
        circuit: the truth: all heads, MLPs and edges of ``edges.pkl``.
        tokenizer: of text, where the folder has one; else prompts are token ids.
        d_vocab_out: how many tokens the model can say.
    """

    folder: Path
    name: str
    circuit: Circuit
    tokenizer: Any
    d_vocab_out: int


@Info(
    title="InterpBench case",
    family="Trained",
    paper="Gupta et al. 2024",
    link="https://arxiv.org/abs/2407.14494",
)
def interpbench(variant: str = "") -> Model:
    """A case from its folder: ``FOLDER[@raw|folded][,weights=...]``.

    Raises:
        InvalidSpec, UnknownName: for a variant that cannot be read.
        ModelUnavailable: a file is missing, damaged, or holds more than plain data; or the model
            is of a kind that is not known here.
    """
    request = Request.parse(variant, "interpbench")
    path = local_folder(request.source)
    for file in FILES:
        folder = existing(path, request.source, file, "no case of InterpBench")
    name = folder_name(folder)
    found = digest(folder / file for file in FILES)
    check_pin(request.weights, found, name)
    settings = read_pickle(folder / "ll_model_cfg.pkl")
    if not isinstance(settings, dict):
        raise ModelUnavailable(f"ll_model_cfg.pkl of {name} holds no config")
    config, d_out = _config(settings, name)
    try:
        weights = _weights(read_tensors(folder / "ll_model.pth"), config, d_out)
        transformer = transformer_from(weights, config, name)
    except InvalidSpec as error:
        raise ModelUnavailable(str(error)) from None
    circuit = truth_of(read_pickle(folder / "edges.pkl"), config, name)
    if request.processing == "folded":
        transformer = folded(transformer)
    meta = read_json(folder / "meta.json") if (folder / "meta.json").is_file() else {}
    return Model(
        name=request.name("interpbench", name, weights=found[:PIN]),
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        transformer=transformer,
        construction=InterpBenchCase(
            folder, name, circuit, tokenizer_of(folder, name, config.d_vocab), d_out
        ),
        provenance={
            "kind": "interpbench",
            "name": name,
            "weights": found,
            "processing": request.processing,
            "training": {k: v for k, v in meta.items() if isinstance(v, str | int | float | bool)},
        },
    )


def _config(given: Mapping[str, Any], name: str) -> tuple[TransformerConfig, int]:
    """Our config from transformer_lens's, and the number of tokens the model can say."""

    def unknown(what: str) -> ModelUnavailable:
        return ModelUnavailable(f"the model of {name} has {what}, which is not known here")

    kind = given.get("normalization_type")
    if kind not in _NORMS:
        raise unknown(f"the norm {kind!r}")
    if given.get("positional_embedding_type", "standard") != "standard":
        raise unknown(f"{given['positional_embedding_type']} positions")
    for switch in ("parallel_attn_mlp", "gated_mlp", "scale_attn_by_inverse_layer_idx"):
        if given.get(switch):
            raise unknown(switch)
    only = bool(given.get("attn_only"))
    activation: Any = "gelu" if only else given.get("act_fn")
    if activation not in get_args(Activation):
        raise unknown(f"the activation {activation!r}")
    try:
        d_head, d_vocab = int(given["d_head"]), int(given["d_vocab"])
        out = int(given.get("d_vocab_out") or d_vocab)
        out = d_vocab if out < 0 else out
        scaled = bool(given.get("use_attn_scale", True))
        scale = float(given.get("attn_scale") or 0)
        scale = scale if scale > 0 else math.sqrt(d_head)
        config = TransformerConfig(
            n_layers=int(given["n_layers"]),
            n_heads=int(given["n_heads"]),
            d_model=int(given["d_model"]),
            d_head=d_head,
            d_vocab=max(d_vocab, out),
            n_ctx=int(given["n_ctx"]),
            attn_scale=1 / scale if scaled else 1.0,
            d_mlp=0 if only else int(given["d_mlp"]),
            activation=activation,
            normalization=_NORMS[kind],
            norm_eps=float(given.get("eps") or 1e-5),
            causal=given.get("attention_dir", "causal") == "causal",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelUnavailable(f"ll_model_cfg.pkl of {name} describes no model ({error})") from None
    return config, out


def _weights(found: dict[str, Tensor], config: TransformerConfig, out: int) -> dict[str, Tensor]:
    """Our names for transformer_lens's tensors; tokens read or said only are filled up."""
    top = {
        "embed.W_E": "W_E",
        "pos_embed.W_pos": "W_pos",
        "unembed.W_U": "W_U",
        "unembed.b_U": "b_U",
        "ln_final.w": "lnf_w",
        "ln_final.b": "lnf_b",
    }
    named: dict[str, Tensor] = {}
    for key, tensor in found.items():
        block = _BLOCK.fullmatch(key)
        if key in top:
            named[top[key]] = tensor
        elif block:
            group, _, part = block[2].partition(".")
            if part in ("mask", "IGNORE"):
                continue
            part = f"{group}_{part}" if group in ("ln1", "ln2") else part
            named[f"layers.{block[1]}.{part}"] = tensor
        else:
            named[key] = tensor  # refused by name
    for key in ("W_E", "W_U", "b_U"):
        dim = 1 if key == "W_U" else 0
        short = named.get(key)
        if short is not None and short.dim() > dim and short.shape[dim] < config.d_vocab:
            shape = list(short.shape)
            shape[dim] = config.d_vocab - shape[dim]
            fill = NEVER if key == "b_U" else 0.0
            named[key] = torch.cat([short, short.new_full(shape, fill)], dim)
    if "b_U" not in named and out < config.d_vocab:
        named["b_U"] = torch.cat([torch.zeros(out), torch.full((config.d_vocab - out,), NEVER)])
    return named


def truth_of(pairs: Any, config: TransformerConfig, name: str) -> Circuit:
    """The circuit of a list of pairs ``(sender, receiver)`` of ``hook[index]``.

    Nodes within one head or MLP (a query and its head's result) are one part here, so pairs of
    them say nothing. A head that is named without its inputs hears by query, key and value;
    InterpBench's own cases are trained head by head.

    Raises :class:`ModelUnavailable` for what is no such pair, or no part of the model.
    """
    graph = graph_of(config.n_layers, config.n_heads, config.d_mlp > 0)
    known = set(graph.edges)
    edges: set[Edge] = set()
    if not isinstance(pairs, list | tuple | set | frozenset):
        raise ModelUnavailable(f"edges.pkl of {name} holds no list of pairs")
    for pair in pairs:
        if not (
            isinstance(pair, list | tuple)
            and len(pair) == 2
            and all(isinstance(x, str) for x in pair)
        ):
            raise ModelUnavailable(f"edges.pkl of {name} holds {pair!r}, which is no pair of hooks")
        senders, receivers = _sends(pair[0], config), _hears(pair[1], config)
        if senders is None or receivers is None:
            if senders is None and _hears(pair[0], config) is None:
                raise ModelUnavailable(
                    f"edges.pkl of {name} names {pair[0]!r}, which is no hook here"
                )
            if receivers is None:
                raise ModelUnavailable(
                    f"edges.pkl of {name} names {pair[1]!r}, which is no hook here"
                )
            continue  # from an input of a part to that part
        own = {(s, r) for s in senders for r in receivers if r == s or r.rpartition(".")[0] == s}
        new = {Edge(s, r) for s in senders for r in receivers if (s, r) not in own}
        wrong = sorted(str(edge) for edge in new - known)
        if wrong:
            raise ModelUnavailable(f"edges.pkl of {name} has {wrong[0]}, which the model has not")
        edges |= new
    ends = {
        part for edge in edges for part in (edge.sender, re.sub(r"\.[qkv]$", "", edge.receiver))
    }
    heads = tuple(Head.parse(part) for part in ends if part[0].isdigit())
    return Circuit(
        roles={"circuit": Role(heads)},
        source=f"InterpBench, case {name}: edges.pkl (Gupta et al. 2024, arXiv 2407.14494)",
        kind="trained",
        ablations=("resample",),
        edges=frozenset(edges),
        edge_ablations=("resample",),
        mlps=tuple(sorted(int(part[1:]) for part in ends if part[0] == "m")),
        blind_spots=("trained head by head: which of a head's inputs matters is not known",),
    )


def _sends(node: str, config: TransformerConfig) -> list[str] | None:
    """Our senders that a node stands for; None if it sends nothing."""
    hook, layer, heads = _parse(node, config)
    if hook in ("hook_embed", "hook_pos_embed") or (hook == "hook_resid_pre" and layer == 0):
        return ["embed"]
    if layer is None:
        return None
    if hook in _SENDING_HEADS:
        return [f"{layer}.{head}" for head in heads]
    return [f"m{layer}"] if hook in _SENDING_MLPS and config.d_mlp else None


def _hears(node: str, config: TransformerConfig) -> list[str] | None:
    """Our receivers that a node stands for; None if it hears nothing."""
    hook, layer, heads = _parse(node, config)
    if hook in ("unembed", "ln_final.hook_normalized", "hook_logits", "logits", "output"):
        return ["logits"]
    if layer is None:
        return None
    if hook == "hook_resid_post" and layer == config.n_layers - 1:
        return ["logits"]
    if hook in _INPUTS:
        return [f"{layer}.{head}.{_INPUTS[hook]}" for head in heads]
    if hook in _SENDING_HEADS:
        return [f"{layer}.{head}.{letter}" for head in heads for letter in "qkv"]
    return [f"m{layer}"] if hook in _HEARING_MLPS and config.d_mlp else None


def _parse(node: str, config: TransformerConfig) -> tuple[str, int | None, Iterable[int]]:
    """Hook within its block, block, and heads: the last number of the index, or all."""
    match = _NODE.fullmatch(node)
    if not match:
        return node, None, ()
    block = _BLOCK.fullmatch(match["hook"])
    numbers = re.findall(r"\d+", match["index"] or "")
    heads: Iterable[int] = range(config.n_heads)
    if numbers:
        heads = (int(numbers[-1]),) if int(numbers[-1]) < config.n_heads else ()
    if block is None:
        return match["hook"], None, heads
    return block[2], int(block[1]), heads


def truth_in(model: Model) -> Circuit:
    """The circuit of a model that is a case; raises :class:`InvalidSpec` for another."""
    case = model.construction
    if not isinstance(case, InterpBenchCase):
        raise InvalidSpec(f"{model.name} is no case of InterpBench (interpbench:FOLDER)")
    return case.circuit
