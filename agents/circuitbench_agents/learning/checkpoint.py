"""Checkpoints: tensors as safetensors, everything else as JSON, replaced as one.

``checkpoint.json`` names its tensor file and that file's hash; it is replaced last, so a kill
at any moment leaves a complete checkpoint, the new one or the old.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from circuitbench import CorruptRecord, InvalidSpec

VERSION = 3
INDEX = "checkpoint.json"
EVERY = 25  # updates between two checkpoints


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: named tensors, the layout they fit, and the rest of the state.

    ``layout`` is what must agree before the tensors can be used: kind of policy, grid of
    heads, observation layout, number of tasks.
    """

    layout: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save(folder: Path, checkpoint: Checkpoint, label: str) -> None:
    """Write ``checkpoint`` into ``folder`` in place of the one there.

    Raises:
        InvalidSpec: the folder cannot be written.
    """
    name = f"{label}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {key: value.detach().cpu().clone() for key, value in checkpoint.tensors.items()}
        save_file(tensors, folder / f"{name}.part")
        os.replace(folder / f"{name}.part", folder / name)
        index = {
            "version": VERSION,
            "layout": dict(checkpoint.layout),
            "state": dict(checkpoint.state),
            "tensors": name,
            "sha256": _sha256(folder / name),
        }
        text = json.dumps(index, allow_nan=False)
        (folder / f"{INDEX}.part").write_text(text, encoding="utf-8")
        os.replace(folder / f"{INDEX}.part", folder / INDEX)
        for old in folder.glob("*.safetensors"):
            if old.name != name:
                old.unlink()
    except OSError as error:
        raise InvalidSpec(
            f"cannot write checkpoint to {folder}: {error.strerror or error}"
        ) from error


def exists(folder: Path) -> bool:
    """Whether there is a checkpoint in ``folder``."""
    return (folder / INDEX).is_file()


def load(folder: Path, layout: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read the checkpoint in ``folder``.

    Args:
        folder: where :func:`save` put it.
        layout: what it must fit; None takes any.

    Raises:
        CorruptRecord: missing, truncated or edited.
        InvalidSpec: a checkpoint of another layout; names what differs.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["version"] != VERSION:
            raise CorruptRecord(f"{path} is of version {index['version']}, not {VERSION}")
        tensor_path = folder / index["tensors"]
        if _sha256(tensor_path) != index["sha256"]:
            raise CorruptRecord(f"{tensor_path} does not match the hash in {path}")
        tensors = load_file(tensor_path)
        found = Checkpoint(index["layout"], tensors, index["state"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CorruptRecord(f"{path} is not a readable checkpoint: {error}") from error
    for key, wanted in (layout or {}).items():
        if found.layout.get(key) != wanted:
            raise InvalidSpec(
                f"the checkpoint in {folder} has {key} {found.layout.get(key)}, "
                f"but this run needs {wanted}"
            )
    return found


def same_origin(folder: Path, found: Checkpoint, origin: Mapping[str, Any]) -> None:
    """Refuse to go on with another training than the checkpoint's.

    Args:
        folder: where it was found, for the message.
        found: its state holds an ``origin`` too.
        origin: everything that shapes the training, in groups.

    Raises:
        InvalidSpec: naming by dotted name what differs.
    """
    theirs = _dotted(found.state["origin"])
    ours = _dotted(json.loads(json.dumps(origin)))
    differ = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
    if differ:
        raise InvalidSpec(
            f"the checkpoint in {folder} was trained with another {', '.join(differ)}; "
            "use another folder or its values"
        )


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back moments saved as ``index.key``; the hyperparameters stay the optimizer's own."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        moments.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def parts(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors named ``part.rest`` as one mapping per part."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        found.setdefault(part, {})[rest] = tensor
    return found


def _dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        members = _dotted(value).items() if isinstance(value, dict) else ()
        flat |= {f"{key}.{name}": member for name, member in members} or {key: value}
    return flat


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
