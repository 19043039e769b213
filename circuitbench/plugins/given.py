"""Plug-ins handed over as objects: what they are called, and what tells two of them apart."""

from __future__ import annotations

import hashlib
import inspect
import re
from typing import Any

from circuitbench.core.errors import CircuitBenchError
from circuitbench.plugins.registry import Kind, find, list_plugins


def registered_name(kind: Kind, cls: type[Any]) -> str | None:
    """The name that a class is registered under, None if it is not; imports no other plug-in."""
    for plugin in list_plugins(kind):
        if plugin.target.rpartition(":")[2] == cls.__qualname__:
            try:
                if find(kind, plugin.name) is cls:
                    return plugin.name
            except CircuitBenchError:  # not it, then
                continue
    return None


def name_of(cls: type[Any]) -> str:
    """``module:Class`` for a class that is not registered, as a record can hold it."""
    module = cls.__module__.rpartition(".")[2].strip("_") or "unknown"
    qualname = re.sub(r"[^\w.]", "", cls.__qualname__.replace("<locals>.", ""))
    return f"{module}:{qualname}"[:100]


def fingerprint(thing: object) -> str | None:
    """16 hex digits of an object's source and values; None where its source cannot be read.

    Two plug-ins of one name but other code, or other values, are told apart by it.
    """
    try:
        source = inspect.getsource(type(thing))
    except (OSError, TypeError):
        return None
    values = vars(thing) if hasattr(thing, "__dict__") else {}
    text = source + repr(sorted(values.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
