"""``hf:NAME_OR_FOLDER``: any decoder checkpoint in Hugging Face's format."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from circuitbench.core.errors import CircuitBenchError, InvalidSpec, ModelUnavailable
from circuitbench.core.extras import needs_extra
from circuitbench.core.info import Info
from circuitbench.models.base import Model
from circuitbench.models.checkpoints.files import (
    Tensors,
    commit_of,
    digest,
    find_folder,
    folder_name,
    read_json,
    shards_of,
)
from circuitbench.models.checkpoints.hooked import load_hooked
from circuitbench.models.checkpoints.memory import check_memory
from circuitbench.models.checkpoints.names import Request
from circuitbench.models.checkpoints.readers import READERS, Checkpoint, Unsupported, read
from circuitbench.models.checkpoints.tokenizers import tokenizer_of
from circuitbench.models.processing import folded
from circuitbench.models.transformer import Transformer

PIN = 12  # hex digits of a commit or a hash that stand in a name
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "vocabulary.txt",
)


@Info(
    title="Hugging Face checkpoint",
    family="Pretrained",
    paper="Wolf et al. 2020",
    link="https://arxiv.org/abs/1910.03771",
)
def hf(variant: str = "") -> Model:
    """A causal language model from a folder or the Hugging Face cache.

    Args:
        variant: ``NAME_OR_FOLDER[@raw|folded][,revision=...][,dtype=float32|bfloat16]``, and
            ``weights=`` with the first digits of the hash that a folder's content must have.

    The model's name states what was loaded: a hub name with its commit, or a folder's name with
    the hash of its content. No path is in it.

    Raises:
        InvalidSpec, UnknownName: for a variant that cannot be read.
        ModelUnavailable: the checkpoint is not here, damaged, or of no use.
    """
    request = Request.parse(variant)
    return load_checkpoint(request, find_folder(request.source, request.revision))


def load_checkpoint(request: Request, folder: Path, name: str | None = None) -> Model:
    """The checkpoint in a folder; ``name`` instead of the one that states its origin."""
    raw = read_json(folder / "config.json")
    shown = request.source if commit_of(folder) else folder_name(folder)
    shards = shards_of(folder, shown)
    tensors = Tensors(shown, shards)
    check_memory(shown, tensors.n_parameters, request.torch_dtype)
    config = _config(folder, shown, raw)
    commit = commit_of(folder)
    pin = {"revision": commit} if commit else {"weights": content_hash(folder, shards)}
    check_pin(request.weights, pin.get("weights"), shown)
    transformer, hooked, why = None, None, ""
    try:
        transformer = _read(request, config, tensors)
    except Unsupported as reason:
        why = str(reason)
        if request.processing == "folded":
            raise InvalidSpec(f"{shown} is run by hooks, which fold no weights: {why}") from None
        hooked = load_hooked(folder, shown, request.torch_dtype)
    return Model(
        name=name or request.name("hf", shown, **{k: v[:PIN] for k, v in pin.items()}),
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        transformer=transformer,
        hooked=hooked,
        hooked_because=why,
        construction=tokenizer_of(folder, shown, config.vocab_size),
        provenance={
            "kind": "pretrained",
            "name": shown,
            "architecture": config.model_type,
            "processing": request.processing,
            **pin,
            "dtype": request.dtype,
            "parameters": tensors.n_parameters,
            "transformers": version("transformers"),
        },
    )


def _read(request: Request, config: Any, tensors: Tensors) -> Transformer:
    kind = config.model_type
    if kind not in READERS:
        raise Unsupported(
            f"its architecture {kind!r} has no reader (there are {', '.join(READERS)})"
        )
    try:
        transformer = read(Checkpoint(config, tensors, request.torch_dtype))
    except (Unsupported, CircuitBenchError):
        raise
    except Exception as error:  # whatever it is, it is ours: never "unknown architecture"
        raise ModelUnavailable(
            f"the reader of {kind} failed on {tensors.name} ({type(error).__name__}: {error}); "
            "this is a fault of circuitbench, please report it"
        ) from error
    return folded(transformer) if request.processing == "folded" else transformer


def _config(folder: Path, name: str, raw: dict[str, Any]) -> Any:
    """The configuration of the language model, with transformers' defaults filled in."""
    with needs_extra(f"model {name!r}"):
        from transformers import AutoConfig
    if "model_type" not in raw:
        raise ModelUnavailable(f"config.json of {name} names no model_type")
    try:
        config = AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        ).get_text_config()
        int(config.num_hidden_layers), int(config.num_attention_heads), int(config.vocab_size)
    except Exception as error:  # transformers raises whatever a config leads it to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelUnavailable(
            f"transformers cannot read the config of {name} (model_type {raw['model_type']!r}): "
            f"{reason[:200]}"
        ) from None
    return config


def content_hash(folder: Path, shards: list[Path]) -> str:
    """SHA-256 of everything in a folder that can change a number."""
    others = [folder / file for file in ("config.json", *_TOKENIZER_FILES)]
    return digest([*shards, *(file for file in others if file.is_file())])


def check_pin(wanted: str | None, found: str | None, name: str) -> None:
    """Raise :class:`ModelUnavailable` where a folder's content is not what was asked for."""
    if wanted is not None and not (found and found.startswith(wanted)):
        other = "a revision, not a hash" if found is None else found[:PIN]
        raise ModelUnavailable(f"{name} holds other weights: {other}, not the {wanted} asked for")
