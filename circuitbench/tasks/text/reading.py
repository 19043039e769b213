"""YAML from strangers: safely, within limits, and with the line of whatever is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from circuitbench.core.errors import InvalidSpec, UnknownName

SIZE = 1 << 20  # bytes of a file
ITEMS = 100_000  # values of a file, every use of an alias counted
DEPTH = 20

M = TypeVar("M", bound=BaseModel)


def read_bytes(path: Path) -> bytes:
    """A file's content; raises :class:`InvalidSpec` if it can't be read or is over a megabyte."""
    try:
        if path.stat().st_size > SIZE:
            raise InvalidSpec(f"{path} is larger than {SIZE:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise InvalidSpec(f"cannot read {path}: {error.strerror}") from error


def decoded(content: bytes, where: str) -> str:
    """Bytes as text; raises :class:`InvalidSpec` if they are not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidSpec(f"{where} is not UTF-8 text (byte {error.start})") from error


def read_yaml(content: bytes, where: str, model: type[M]) -> M:
    """A YAML document as a pydantic model.

    Nothing but plain values is made of it. Aliases are counted as often as they are used, keys
    are unique.

    Args:
        content: of the file.
        where: its name, for messages.
        model: what it must hold.

    Raises:
        InvalidSpec: naming every field at fault, and the line it stands on.
    """
    text = decoded(content, where)
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise InvalidSpec(f"{where} is empty")
        _check(node, where)
        values = loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" line {mark.line + 1}"
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InvalidSpec(f"{where}{line} is not valid YAML: {problem}") from error
    except (ValueError, RecursionError) as error:  # a date that is none, say
        raise InvalidSpec(f"{where} is not valid YAML: {error}") from error
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise InvalidSpec(f"{where} must hold 'key: value' lines, not a {type(values).__name__}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidSpec(explain(error, where, model, node)) from error


def explain(
    error: ValidationError, where: str, model: type[BaseModel], node: yaml.Node | None = None
) -> str:
    """Pydantic's findings in one line: each field, its line where known, what was expected."""
    lines: dict[str, None] = {}
    for found in error.errors(include_url=False):
        # A value that may be one of several things fails as each of them; say where, once.
        path = [x for x in found["loc"] if isinstance(x, int) or not _is_type(x)]
        name = ".".join(str(x + 1) if isinstance(x, int) else x for x in path)
        line = _line(node, path)
        at = f" (line {line})" if line else ""
        if found["type"] == "extra_forbidden" and len(path) == 1:
            said = str(UnknownName("key", str(path[0]), model.model_fields))
        elif found["type"] == "extra_forbidden":
            said = f"unknown key {path[-1]!r} in {'.'.join(map(str, path[:-1]))}"
        elif found["type"] == "missing":
            said = f"{name} is missing"
        elif found["type"] == "value_error":
            said = f"{name}: {found['ctx']['error']}" if name else str(found["ctx"]["error"])
        elif isinstance(found["input"], bool) and "str" in found["type"]:
            said = f"{name} must be text, not {found['input']}; YAML reads yes, no, on and off so:"
            said += " put the word in quotes"
        else:
            said = f"{name}: {found['msg'][:1].lower()}{found['msg'][1:]}, not {_short(found)}"
        lines.setdefault(said + at)
    return f"{where}: {'; '.join(lines)}"


def _short(found: Any) -> str:
    text = repr(found["input"])
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_type(part: str) -> bool:
    """Whether a part of pydantic's path names an alternative, not a key of the file."""
    return part in ("str", "int") or part[:1].isupper() or "[" in part


def _line(node: yaml.Node | None, path: Sequence[int | str]) -> int | None:
    """The line of the value at ``path``, or of the deepest part of it that is there."""
    if node is None:
        return None
    line = node.start_mark.line + 1 if path else None
    for part in path:
        child = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    child, line = value, key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            child = node.value[part] if part < len(node.value) else None
            line = line if child is None else child.start_mark.line + 1
        if child is None:
            break
        node = child
    return line


def _check(root: yaml.Node, where: str) -> None:
    """Refuse documents that blow up, that contain themselves, or that name a key twice."""
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def size(node: yaml.Node, depth: int) -> int:
        line = node.start_mark.line + 1
        if id(node) in above:
            raise InvalidSpec(f"{where} line {line}: a value contains itself")
        if depth > DEPTH:
            raise InvalidSpec(f"{where} line {line}: nested more than {DEPTH} deep")
        if id(node) not in sizes:
            children: list[yaml.Node] = []
            if isinstance(node, yaml.SequenceNode):
                children = list(node.value)
            elif isinstance(node, yaml.MappingNode):
                seen: set[str] = set()
                for key, value in node.value:
                    if not isinstance(key, yaml.ScalarNode):
                        raise InvalidSpec(f"{where} line {line}: a key must be text")
                    if key.value in seen:
                        at = key.start_mark.line + 1
                        raise InvalidSpec(f"{where} line {at}: key {key.value!r} is there twice")
                    seen.add(key.value)
                    children.append(value)
            above.add(id(node))
            sizes[id(node)] = 1 + sum(size(child, depth + 1) for child in children)
            above.discard(id(node))
            if sizes[id(node)] > ITEMS:
                raise InvalidSpec(f"{where} holds more than {ITEMS:,} values, aliases included")
        return sizes[id(node)]

    size(root, 0)
