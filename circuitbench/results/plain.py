"""Any value a run produces as plain JSON data, or a clear refusal."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from circuitbench.core.circuit import Edge, Head
from circuitbench.core.errors import InvalidSpec, RunFailed


def plain(value: Any, where: str = "value") -> Any:
    """``value`` as plain JSON data: dicts, lists, strings, finite numbers, booleans, None.

    Arrays and tensors become nested lists, sets become sorted lists, heads ``"l.h"``. Raises
    :class:`RunFailed` for NaN, infinity and text that is no Unicode, :class:`InvalidSpec` for what
    JSON cannot hold; both name the place, e.g. ``discovery.info.loss``.
    """
    if isinstance(value, str):
        return _text(value, where)
    if value is None or isinstance(value, bool | int):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, np.ndarray | np.generic) or _is_tensor(value):
        return plain(value.tolist(), where)
    if isinstance(value, Head | Edge | Path):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RunFailed(f"{where} is {value}; a record holds finite numbers only")
        return value
    if isinstance(value, Mapping):
        return {
            _text(str(key), where): plain(item, f"{where}.{key}") for key, item in value.items()
        }
    if isinstance(value, set | frozenset):
        return [plain(item, where) for item in sorted(value)]
    if isinstance(value, list | tuple):
        # Grids of scores are most of a record; one pass over a row of them is enough.
        if all(type(item) is float for item in value) and all(map(math.isfinite, value)):
            return list(value)
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise InvalidSpec(f"{where} is a {type(value).__name__}, which a record cannot hold")


def bounded(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A stranger's mapping as :func:`plain` data of a size that records can take.

    Raises :class:`RunFailed` beyond 1,000,000 bytes of JSON, 32 levels, whole numbers of 64 bits,
    or for text that is no Unicode.
    """
    try:
        _check_levels(value, where, LEVELS)
        content: dict[str, Any] = plain(dict(value), where)
        size = len(json.dumps(content, ensure_ascii=False).encode())
    except RecursionError as error:
        raise RunFailed(f"{where} has more than {LEVELS} levels") from error
    except ValueError as error:
        raise RunFailed(f"{where} cannot be kept: {error}") from error
    if size > BYTES:
        raise RunFailed(f"{where} takes {size:,} bytes of JSON; at most {BYTES:,} are kept")
    return content


def _text(text: str, where: str) -> str:
    """``text``, unless it holds half of a surrogate pair: no file, table or page can take that."""
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        raise RunFailed(f"{where} holds text that is no Unicode") from error
    return text


def _check_levels(value: Any, where: str, left: int) -> None:
    if left < 0:
        raise RunFailed(f"{where} has more than {LEVELS} levels")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_levels(key, where, left - 1)
            _check_levels(item, where, left - 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _check_levels(item, where, left - 1)
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise RunFailed(f"{where} holds a whole number of more than 64 bits")


def may_overflow(text: bytes) -> bool:
    """Whether JSON text may hold a number too large for a float, like ``1e999`` (300 digits on).

    Looking at the text is many times faster than at the numbers; :func:`check_finite` decides.
    """
    return _LARGE.search(text) is not None or b"0" * 300 in text.translate(_DIGITS_ALIKE)


def check_finite(value: Any, where: str) -> None:
    """Raise :class:`RunFailed` naming the place if parsed JSON holds infinity."""
    if isinstance(value, dict):
        for key, item in value.items():
            check_finite(item, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            check_finite(item, f"{where}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise RunFailed(f"{where} is {value}; a record holds finite numbers only")


BYTES, LEVELS = 1_000_000, 32  # of what a method adds to its answer
_LARGE = re.compile(rb"e\+?\d{3,}[\s,\]}]|E\+?\d{3,}[\s,\]}]")
_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"000000000")


def _is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")  # whoever made a tensor has imported it
    return torch is not None and isinstance(value, torch.Tensor)
