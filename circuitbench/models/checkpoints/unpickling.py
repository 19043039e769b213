"""Pickles of plain data, and nothing else: whatever could run code is refused before it is met."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuitbench.core.errors import ModelUnavailable

_LARGEST = 16 << 20  # bytes of a config or a list of edges
_DTYPES = ("float16", "bfloat16", "float32", "float64", "int32", "int64", "bool")
# By what modules of transformer_lens the class of a config has been called.
_CONFIGS = (
    "transformer_lens.HookedTransformerConfig",
    "transformer_lens.config.HookedTransformerConfig",
)
PLAIN: dict[tuple[str, str], Any] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "slice"): slice,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "device"): torch.device,
    **{("torch", name): getattr(torch, name) for name in _DTYPES},
}


def read_pickle(path: Path) -> Any:
    """What a pickle of plain data holds: numbers, text, lists, dicts, sets, and configs as dicts.

    Raises :class:`ModelUnavailable` for one that holds anything else, or is no pickle.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelUnavailable(f"cannot read {path.name}: {error.strerror}") from None
    if len(data) > _LARGEST:
        raise ModelUnavailable(
            f"{path.name} has {len(data)} bytes; more than {_LARGEST} are refused"
        )
    unpickler = _Restricted(io.BytesIO(data))
    try:
        content = unpickler.load()
    except _Refused as refused:
        raise ModelUnavailable(
            f"{path.name} is a pickle that asks for {refused}: refused"
        ) from None
    except Exception as error:  # a broken pickle may raise anything
        raise ModelUnavailable(f"{path.name} is no pickle of plain data ({error})") from None
    return dict(vars(content)) if type(content) is unpickler.record else content


class _Refused(Exception):
    """Names what a pickle asked for."""


class _Restricted(pickle.Unpickler):
    """Finds the classes of :data:`PLAIN`; a config becomes an object that only holds values."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.record = type("Record", (), {})  # of this load alone

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in PLAIN:
            return PLAIN[module, name]
        if module in _CONFIGS and name == "HookedTransformerConfig":
            return self.record
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("storage outside the file")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pth`` file by name.

    Raises :class:`ModelUnavailable` for anything that ``torch.load(weights_only=True)`` refuses.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelUnavailable(f"there is no {path.name}") from None
    except Exception as error:  # it raises whatever the bytes lead it to
        raise ModelUnavailable(
            f"{path.name} holds more than tensors, or is damaged: torch.load(weights_only=True) "
            f"refuses it ({type(error).__name__}), and nothing else is read"
        ) from None
    if not isinstance(content, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()
    ):
        raise ModelUnavailable(f"{path.name} is no state dict of named tensors")
    return dict(content)
