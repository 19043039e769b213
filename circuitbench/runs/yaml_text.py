"""YAML from strangers: plain data of a bounded size, or a clear refusal."""

from __future__ import annotations

import math
from typing import Any

import yaml

from circuitbench.core.errors import InvalidSpec

CHARACTERS, VALUES, ALIASES, LEVELS = 1_000_000, 100_000, 100, 32


def plain_yaml(text: str, where: str) -> Any:
    """``text`` read as YAML: mappings by text, lists, text, finite numbers, booleans, None.

    Raises :class:`InvalidSpec`, beginning with ``where``, for anything else, and beyond a million
    characters, 100,000 values (aliases written out), 100 aliases or 32 levels.
    """
    if len(text) > CHARACTERS:
        raise InvalidSpec(f"{where} has {len(text):,} characters; at most {CHARACTERS:,} are read")
    try:
        _check_events(text, where)
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f" line {mark.line + 1}" if mark else ""
        reason = problem or " ".join(str(error).split())
        raise InvalidSpec(f"{where}{line} is not valid YAML: {reason}") from error
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        why = f"{type(error).__name__}: {error}"
        raise InvalidSpec(f"{where} is not valid YAML: {why}") from error
    _check(value, where)
    return value


def _check_events(text: str, where: str) -> None:
    """Stop reading where it gets too much: deep nesting takes time with the square of its depth."""
    aliases = level = 0
    for event in yaml.parse(text):
        aliases += isinstance(event, yaml.AliasEvent)
        level += isinstance(event, yaml.CollectionStartEvent)
        level -= isinstance(event, yaml.CollectionEndEvent)
        if aliases > ALIASES:
            raise InvalidSpec(f"{where} has more than {ALIASES} aliases")
        if level > LEVELS:
            raise InvalidSpec(f"{where} has more than {LEVELS} levels")


def _check(value: Any, where: str) -> None:
    """Walk all values, aliases written out, and refuse what is too much or no plain data."""
    left = [(value, 0)]
    seen = 0
    while left:
        item, level = left.pop()
        seen += 1
        if seen > VALUES:
            raise InvalidSpec(f"{where} holds more than {VALUES:,} values")
        if level > LEVELS:
            raise InvalidSpec(f"{where} has more than {LEVELS} levels")
        if isinstance(item, dict):
            for key in item:
                if not isinstance(key, str):
                    raise InvalidSpec(f"{where} has a key that is no text: {key!r:.80}")
            left += [(member, level + 1) for member in item.values()]
        elif isinstance(item, list):
            left += [(member, level + 1) for member in item]
        elif isinstance(item, float) and not math.isfinite(item):
            raise InvalidSpec(f"{where} holds {item}, which is no finite number")
        elif not isinstance(item, str | int | float | bool | None):
            kind = type(item).__name__
            raise InvalidSpec(f"{where} holds a {kind}; quote it if it is meant as text")
