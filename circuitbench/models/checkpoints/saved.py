"""``folder:PATH``: a model that :meth:`Model.save` wrote."""

from __future__ import annotations

from dataclasses import fields

from circuitbench.core.errors import InvalidSpec, ModelUnavailable
from circuitbench.core.info import Info
from circuitbench.models.base import Model
from circuitbench.models.checkpoints.files import (
    Tensors,
    existing,
    folder_name,
    local_folder,
    read_json,
)
from circuitbench.models.checkpoints.hf import PIN, check_pin, content_hash
from circuitbench.models.checkpoints.memory import check_memory
from circuitbench.models.checkpoints.names import Request
from circuitbench.models.checkpoints.plain import transformer_from
from circuitbench.models.checkpoints.tokenizers import tokenizer_of
from circuitbench.models.processing import folded
from circuitbench.models.storage import FORMAT, WEIGHTS
from circuitbench.models.transformer import TransformerConfig


@Info(title="Saved model", family="Your own")
def folder(variant: str = "") -> Model:
    """A model from the folder it was saved in: ``PATH[@raw|folded][,weights=...]``.

    Its name holds the folder's name and the hash of its content, no path. A folder is looked for
    as a path, and in ``$CIRCUITBENCH_WEIGHTS``.

    Raises:
        InvalidSpec, UnknownName: for a variant that cannot be read.
        ModelUnavailable: there is no such folder, or it is damaged.
    """
    request = Request.parse(variant, "folder")
    if request.dtype != "float32":
        raise InvalidSpec("a saved model is float32; dtype is an option of hf:")
    path = local_folder(request.source)
    where = existing(path, request.source, "config.json", "no saved model")
    name = folder_name(where)
    content = read_json(where / "config.json")
    if content.get("format") != FORMAT:
        known = ": it is a Hugging Face checkpoint, hf: reads it" if "model_type" in content else ""
        raise ModelUnavailable(f"{name} holds no model that circuitbench saved{known}")
    try:
        config = TransformerConfig(**content["config"])
    except (TypeError, KeyError, InvalidSpec) as error:
        raise ModelUnavailable(
            f"config.json of {name} does not describe a model ({error}); its config needs "
            f"{', '.join(f.name for f in fields(TransformerConfig)[:7])} ..."
        ) from None
    tensors = Tensors(name, [where / WEIGHTS])
    check_memory(name, tensors.n_parameters, request.torch_dtype)
    mapping = {key: tensors.take(key, *tensors.shape(key)) for key in tensors.names}
    transformer = transformer_from(mapping, config, name)
    if request.processing == "folded":
        transformer = folded(transformer)
    told = content.get("provenance")
    found = content_hash(where, [where / WEIGHTS])
    check_pin(request.weights, found, name)
    return Model(
        name=request.name("folder", name, weights=found[:PIN]),
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        transformer=transformer,
        construction=tokenizer_of(where, name, config.d_vocab),
        provenance={
            **(told if isinstance(told, dict) else {}),
            "weights": found,
            "processing": request.processing,
        },
    )
