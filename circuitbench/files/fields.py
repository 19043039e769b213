"""Checks of single fields of a parsed file; each names the field, what was found, what belongs."""

from __future__ import annotations

from typing import Any

from circuitbench.core.errors import InvalidCircuitFile

_WORDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number"}


def found(value: Any) -> str:
    """A value from a file in a few words, for a message."""
    if isinstance(value, dict | list | tuple | set):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def entry(content: dict[Any, Any], key: str, kind: type, where: str = "") -> Any:
    """``content[key]``, of this kind; ``where`` is the path of ``content``, ending in a dot.

    Raises :class:`InvalidCircuitFile` where it is missing or of another kind.
    """
    if key not in content:
        raise InvalidCircuitFile(f"{where}{key} is missing")
    return of_kind(content[key], kind, f"{where}{key}")


def of_kind(value: Any, kind: type, where: str) -> Any:
    """``value`` if it is of this kind; raises :class:`InvalidCircuitFile`."""
    if type(value) is not kind:
        raise InvalidCircuitFile(f"{where} must be {_WORDS[kind]}, not {found(value)}")
    return value


def number(value: Any, where: str) -> float:
    """``value`` as a float, NaN and infinity included; raises :class:`InvalidCircuitFile`."""
    if type(value) is float:
        return value
    if type(value) is not int:
        raise InvalidCircuitFile(f"{where} must be a number, not {found(value)}")
    try:
        return float(value)
    except OverflowError as error:
        raise InvalidCircuitFile(f"{where} is too large a number") from error


def membership(value: Any, where: str) -> bool:
    """``value`` as true or false (0 and 1 too); raises :class:`InvalidCircuitFile`."""
    if type(value) is bool:
        return value
    if type(value) in (int, float) and value in (0, 1):
        return bool(value)
    raise InvalidCircuitFile(f"{where} must be true or false, not {found(value)}")
