"""A checkpoint on disk: where it is, what its safetensors hold, tensor by tensor.

Nothing is downloaded, nothing is unpickled. Tensors are mapped into memory, so that only what is
read is loaded.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from circuitbench.core.errors import ModelUnavailable
from circuitbench.core.extras import needs_extra

FOLDER_VARIABLE = "CIRCUITBENCH_WEIGHTS"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_DIGITS = re.compile(r"[0-9a-f]{7,40}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def find_folder(source: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint: a path, a name in ``$CIRCUITBENCH_WEIGHTS``, or the hub's cache.

    Raises :class:`ModelUnavailable` where it is not on this machine.
    """
    path = local_folder(source)
    if path is None and not source.startswith((".", "/", "~")):
        return _in_hub_cache(source, revision)
    if revision is not None:
        raise ModelUnavailable(f"{source} is a folder, which has no revision {revision!r}")
    return existing(path, source, "config.json", "no checkpoint")


def local_folder(source: str) -> Path | None:
    """A folder by its path, or by its name here or in ``$CIRCUITBENCH_WEIGHTS``; None if none.

    Its name may be the one that records have (see :func:`folder_name`).
    """
    root = os.environ.get(FOLDER_VARIABLE)
    places = [Path(source).expanduser(), *([Path(root) / source] if root else [])]
    found = next((place for place in places if place.is_dir()), None)
    if found is None and "/" not in source:
        parents = (place.parent for place in places if place.parent.is_dir())
        inside = (child for parent in parents for child in sorted(parent.iterdir()))
        return next((f for f in inside if f.is_dir() and folder_name(f) == source), None)
    return found


def folder_name(folder: Path) -> str:
    """A folder's name as part of a model's name: no path, no character a record refuses."""
    name = re.sub(r"[^A-Za-z0-9._+-]|\.\.+", "-", folder.resolve().name)
    return re.sub(r"^[^A-Za-z0-9]+", "", name) or "model"


def existing(path: Path | None, source: str, file: str, otherwise: str) -> Path:
    """``path``, if it is a folder that holds ``file``; ``otherwise`` says what it is if not."""
    if path is None:
        raise ModelUnavailable(f"no folder {source}")
    if not (path / file).is_file():
        raise ModelUnavailable(f"{source} has no {file}, so it holds {otherwise}")
    return path


def _in_hub_cache(name: str, revision: str | None) -> Path:
    with needs_extra(f"model {name!r}"):
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

    names = (name,) if "/" in name else (name, f"openai-community/{name}")
    try:
        for repository in names:
            config = try_to_load_from_cache(repository, "config.json", revision=revision)
            if isinstance(config, str):
                return Path(config).parent
            if revision is not None and _DIGITS.fullmatch(revision):
                config = try_to_load_from_cache(repository, "config.json", revision="main")
                if isinstance(config, str):
                    known = Path(config).parent.parent
                    found = [f for f in known.glob(f"{revision}*") if (f / "config.json").is_file()]
                    if len(found) == 1:
                        return found[0]
    except HFValidationError:
        raise ModelUnavailable(f"{name!r} is neither a folder nor a name on the hub") from None
    at = "" if revision is None else f" --revision {revision}"
    raise ModelUnavailable(
        f"{name} is no folder, and {'its revision ' + revision if revision else 'it'} is not in "
        f"the Hugging Face cache; download it with 'hf download {name}{at}'"
    )


def commit_of(folder: Path) -> str | None:
    """The hub's commit that a folder of its cache is a snapshot of; None for other folders."""
    found = folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name)
    return folder.name if found else None


def read_json(path: Path) -> dict[str, Any]:
    """An object in a JSON file; raises :class:`ModelUnavailable` naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ModelUnavailable(
            f"{path.name} of {path.parent.name} cannot be read: {error}"
        ) from None
    if not isinstance(content, dict):
        raise ModelUnavailable(f"{path.name} of {path.parent.name} holds no JSON object")
    return content


def shards_of(folder: Path, name: str) -> list[Path]:
    """The safetensors files of a checkpoint; raises :class:`ModelUnavailable` if it has none."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = read_json(index).get("weight_map")
        if not isinstance(files, dict) or not all(_is_plain(f) for f in files.values()):
            raise ModelUnavailable(f"{index.name} of {name} holds no weight_map of file names")
        shards = [folder / file for file in sorted(set(files.values()))]
    else:
        shards = sorted(folder.glob("*.safetensors"))
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise ModelUnavailable(f"{name} is incomplete: {', '.join(missing)} is missing")
    if shards:
        return shards
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
    if pickles:
        raise ModelUnavailable(
            f"{name} has its weights as {pickles[0]}, a pickle, which could run code; only "
            "safetensors are read (save_pretrained(..., safe_serialization=True) makes them)"
        )
    raise ModelUnavailable(f"{name} has a config.json but no weights (*.safetensors)")


def _is_plain(file: object) -> bool:
    return isinstance(file, str) and Path(file).name == file


def digest(files: Iterable[Path]) -> str:
    """SHA-256 of some files' names and bytes."""
    whole = hashlib.sha256()
    for path in sorted(files):
        with path.open("rb") as file:
            whole.update(
                f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode()
            )
    return whole.hexdigest()


@dataclass
class Tensors:
    """The tensors of some safetensors files by name, each looked up when it is taken.

    Args:
        name: of the model, for messages.
        files: where they are.
    """

    name: str
    files: Sequence[Path]
    taken: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._where: dict[str, Any] = {}
        for path in self.files:
            try:
                opened = safe_open(str(path), "pt")
            except (OSError, SafetensorError) as error:
                raise ModelUnavailable(
                    f"{path.name} of {self.name} is no safetensors file ({error}): truncated, or a "
                    "file of another kind under that name"
                ) from None
            keys: list[str] = opened.keys()  # type: ignore[no-untyped-call]  # by safetensors
            self._where |= dict.fromkeys(keys, opened)

    def __contains__(self, key: str) -> bool:
        return key in self._where

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tensors."""
        return tuple(self._where)

    def shape(self, key: str) -> tuple[int, ...]:
        """Of a tensor, without reading it; raises :class:`ModelUnavailable` if there is none."""
        if key not in self._where:
            raise ModelUnavailable(f"{self.name} has no weight {key}")
        return tuple(self._where[key].get_slice(key).get_shape())

    @property
    def n_parameters(self) -> int:
        """How many numbers there are."""
        return sum(math.prod(self.shape(key)) for key in self._where)

    def take(self, key: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor of this shape, as ``dtype``.

        Raises :class:`ModelUnavailable` where it is missing, has another shape, or holds NaN or
        infinity.
        """
        if self.shape(key) != shape:
            raise ModelUnavailable(
                f"{key} of {self.name} has shape {list(self.shape(key))}; expected {list(shape)}"
            )
        tensor: Tensor = self._where[key].get_tensor(key)
        self.taken.add(key)
        if not tensor.is_floating_point():
            raise ModelUnavailable(
                f"{key} of {self.name} is stored as {tensor.dtype}: quantised weights are not read"
            )
        if not torch.isfinite(tensor.sum(dtype=torch.float32)):
            raise ModelUnavailable(f"{key} of {self.name} holds NaN or infinity")
        return tensor.to(dtype)


def free_memory() -> int | None:
    """Bytes that programs can still have; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return None
