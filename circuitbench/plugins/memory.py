"""By which name an object was loaded, so that it can be called so again."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

_NAMES: dict[int, tuple[weakref.ref[Any], str]] = {}


def remember(name: str, thing: T) -> T:
    """Keep in mind that ``thing`` is what ``name`` stands for; returns it."""
    key = id(thing)
    with suppress(TypeError):  # an object of slots: nobody will know
        _NAMES[key] = weakref.ref(thing, lambda _: _NAMES.pop(key, None)), name
    return thing


def remembered(thing: object) -> str | None:
    """The name that ``thing`` was loaded by, None if it was not."""
    kept, name = _NAMES.get(id(thing), (None, ""))
    return name if kept is not None and kept() is thing else None
