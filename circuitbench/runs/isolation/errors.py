"""Errors on their way from one process to another: kind, message, traceback."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any, TypeVar

from circuitbench.core import errors
from circuitbench.core.errors import CircuitBenchError, RunFailed
from circuitbench.core.extras import MissingExtra
from circuitbench.runs.failure import MESSAGE, one_line, shown, told, traceback_of, without_folders

_OURS: dict[str, type[CircuitBenchError]] = {
    "MissingExtra": MissingExtra,
    **{
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, CircuitBenchError)
    },
}


class MethodFailed(RunFailed):
    """A method raised what is no error of ours; the message begins with its type."""


def described(error: BaseException) -> dict[str, str]:
    """``error`` as JSON-able data."""
    kind = next((k.__name__ for k in type(error).__mro__ if _OURS.get(k.__name__) is k), None)
    return {
        "ours": kind or "",
        "kind": type(error).__name__[:100],
        "text": one_line(error),
        "traceback": traceback_of(error),
    }


def from_method(described: Mapping[str, Any]) -> CircuitBenchError:
    """On our side: what a method raised, whoever wrote the description."""
    kind = _OURS.get(str(described.get("ours")), MethodFailed)
    text = shown(str(described.get("text", "")), MESSAGE + 120)
    return told(_made(kind, without_folders(text)), str(described.get("traceback", "")))


def from_oracle(described: Mapping[str, Any]) -> Exception:
    """On a method's side: what the oracle raised, of the same type where Python knows it."""
    text = str(described["text"])
    if described["ours"]:
        return _made(_OURS[described["ours"]], text)
    kind = getattr(builtins, described["kind"], None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = RuntimeError
    return _made(kind, text.partition(": ")[2])


_E = TypeVar("_E", bound=Exception)


def _made(kind: type[_E], text: str) -> _E:
    """An error of this kind and message, whatever its constructor takes."""
    error = kind.__new__(kind, text)
    Exception.__init__(error, text)
    return error
