"""Reading and writing what ``torch.save`` makes; nothing in a file is ever run."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import torch

from circuitbench.core.errors import InvalidCircuitFile
from circuitbench.files.fields import found


def load(data: bytes) -> Any:
    """What a file holds: tensors, numbers, text, lists and dicts.

    Raises :class:`InvalidCircuitFile` for anything that ``torch.load(weights_only=True)``
    refuses: a pickle that would run code, a file of another kind, a truncated one.
    """
    try:
        with warnings.catch_warnings():  # old files make torch warn of its own past
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # it raises whatever the bytes lead it to
        raise InvalidCircuitFile(
            "not a file of plain tensors: torch.load(weights_only=True) refuses it "
            f"({type(error).__name__}), and nothing else is read"
        ) from error


def dump(content: Any) -> bytes:
    """The file that ``torch.save`` makes of ``content``."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def scores_tensor(array: np.ndarray) -> torch.Tensor:
    """Scores as float32, which the tools use, or as float64 where that would lose digits."""
    with np.errstate(over="ignore"):
        exact = np.array_equal(array.astype(np.float32).astype(float), array, equal_nan=True)
    return torch.from_numpy(array.astype(np.float32 if exact else float))


def numbers(value: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """A tensor of this shape as float64; raises :class:`InvalidCircuitFile`."""
    tensor = _tensor(value, where)
    if tuple(tensor.shape) != shape:
        raise InvalidCircuitFile(f"{where} has shape {list(tensor.shape)}; expected {list(shape)}")
    return np.array(tensor.detach().to(torch.float64).numpy())


def memberships(value: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """A tensor of this shape that holds true and false, or 0 and 1, as bool."""
    array = numbers(value, shape, where)
    if not np.isin(array, (0, 1)).all():
        wrong = array[~np.isin(array, (0, 1))][0]
        raise InvalidCircuitFile(f"{where} must hold true or false, not {wrong}")
    return array.astype(bool)


def _tensor(value: Any, where: str) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise InvalidCircuitFile(f"{where} must be a tensor, not {found(value)}")
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise InvalidCircuitFile(f"{where} must be a plain dense tensor")
    if value.is_complex():
        raise InvalidCircuitFile(f"{where} must hold real numbers, not complex ones")
    return value
