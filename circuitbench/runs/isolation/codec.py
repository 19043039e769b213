"""Values as JSON and raw bytes: what a question and its answer may hold, and nothing else.

Numbers, text, lists, tuples, mappings, arrays and tensors (exactly, to the last bit), heads, edges,
the dataclasses of :data:`PLAIN` and our own backward rules. Batches and oracles go as numbers: they
stay where they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from circuitbench.core.circuit import Circuit, Edge, Head, Role
from circuitbench.core.errors import CircuitBenchError
from circuitbench.oracle import Batch, Damages, Oracle
from circuitbench.oracle.derivatives import Derivatives
from circuitbench.oracle.paths import GradPath, Straight
from circuitbench.oracle.rules import RULES, Rule
from circuitbench.runs.isolation.channel import BrokenMessage

_KIND = "$"
_DTYPES = {
    name: np.dtype(name)
    for name in (
        *("bool", "int8", "uint8", "int16", "int32", "int64"),
        *("float16", "float32", "float64"),
    )
}
PLAIN: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Circuit, Damages, Derivatives, GradPath, Role, Straight)
}
_SCALARS = (bool, int, float, str, type(None))


class Encoder:
    """Turns values into JSON-able ones; arrays gather in :attr:`buffers`.

    Args:
        handle: the number of a batch or oracle, with whatever its other side should know of it.
    """

    def __init__(self, handle: Callable[[Any], Mapping[str, Any]]) -> None:
        self._handle = handle
        self.buffers: list[memoryview | bytes] = []

    def encode(self, value: Any) -> Any:
        """``value`` as JSON-able data; raises ``TypeError`` for what may not be sent."""
        if type(value) in _SCALARS:
            return value
        if isinstance(value, torch.Tensor):
            return self._array("tensor", value.detach().cpu().numpy())
        if isinstance(value, np.ndarray):
            return self._array("array", value)
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, Head):
            return {_KIND: "head", "of": [int(value.layer), int(value.head)]}
        if isinstance(value, Edge):
            return {_KIND: "edge", "of": [str(value.sender), str(value.receiver)]}
        name = type(value).__name__
        if PLAIN.get(name) is type(value):
            members = {f.name: self.encode(getattr(value, f.name)) for f in fields(value)}
            return {_KIND: "data", "name": name, "of": members}
        if isinstance(value, Rule):
            if type(RULES.get(value.name)) is not type(value):
                raise TypeError(f"a rule of one's own ({name}) needs --in-process")
            return {_KIND: "rule", "name": value.name, "dropped": value.dropped}
        if isinstance(value, Batch):
            return {_KIND: "batch", **self._handle(value)}
        if isinstance(value, Oracle):
            return {_KIND: "oracle", **self._handle(value)}
        if isinstance(value, list):
            return [self.encode(item) for item in value]
        if isinstance(value, tuple | set | frozenset):
            kind = "tuple" if isinstance(value, tuple) else "set"
            return {_KIND: kind, "of": [self.encode(item) for item in value]}
        if isinstance(value, Mapping):
            pairs = [[self.encode(k), self.encode(v)] for k, v in value.items()]
            return {_KIND: "mapping", "of": pairs}
        if isinstance(value, bool | int | float | str):  # subclasses of them
            return next(kind(value) for kind in (int, float, str) if isinstance(value, kind))
        raise TypeError(f"a {type(value).__name__} cannot be sent to or from an oracle")

    def _array(self, kind: str, array: np.ndarray) -> dict[str, Any]:
        if array.dtype.name not in _DTYPES:
            raise TypeError(f"an array of {array.dtype} cannot be sent to or from an oracle")
        data = np.ascontiguousarray(array)
        self.buffers.append(data.tobytes())
        return {_KIND: kind, "dtype": array.dtype.name, "shape": list(array.shape)}


class Decoder:
    """The way back. Every array owns its memory.

    Args:
        data: the bytes that came with a message.
        handle: the batch or oracle that a number stands for.
    """

    def __init__(self, data: memoryview, handle: Callable[[str, Mapping[str, Any]], Any]) -> None:
        self._data, self._handle, self._taken = data, handle, 0

    def decode(self, value: Any) -> Any:
        """What :meth:`Encoder.encode` was given; raises :class:`BrokenMessage` if it can't be."""
        try:
            return self._decode(value)
        except (
            *(LookupError, TypeError, ValueError, AttributeError, RecursionError),
            CircuitBenchError,
        ) as error:
            raise BrokenMessage(f"a value that is none ({type(error).__name__})") from error

    def _decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        kind = value[_KIND]
        if kind in ("tensor", "array"):
            array = self._array(value)
            return torch.from_numpy(array) if kind == "tensor" else array
        if kind in ("batch", "oracle"):
            return self._handle(kind, value)
        if kind == "rule":
            dropped = value["dropped"]
            rule = RULES[value["name"]]
            return rule if dropped is None else rule.dropping(int(dropped))
        members = value["of"]
        if kind == "head":
            return Head(*map(int, members))
        if kind == "edge":
            return Edge(*map(str, members))
        if kind == "data":
            return PLAIN[value["name"]](**{k: self._decode(item) for k, item in members.items()})
        if kind == "tuple":
            return tuple(self._decode(item) for item in members)
        if kind == "set":
            return frozenset(self._decode(item) for item in members)
        if kind == "mapping":
            return {self._decode(k): self._decode(v) for k, v in members}
        raise ValueError(kind)

    def _array(self, value: Mapping[str, Any]) -> np.ndarray:
        dtype, shape = _DTYPES[value["dtype"]], tuple(map(int, value["shape"]))
        if any(n < 0 for n in shape) or len(shape) > 8:
            raise ValueError(shape)
        size = math.prod(shape) * dtype.itemsize
        start, self._taken = self._taken, self._taken + size
        if self._taken > len(self._data):
            raise ValueError(size)
        return np.frombuffer(self._data[start : self._taken], dtype).reshape(shape).copy()
