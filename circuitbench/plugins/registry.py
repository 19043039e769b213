"""Plug-ins by name, found through entry points; listing imports nothing.

A third party registers a method, task or model with an entry point in one of the groups
``circuitbench.methods``, ``circuitbench.tasks``, ``circuitbench.models``. Ours register the
same way and get no preference: two plug-ins of one name are refused, naming both origins.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from circuitbench.core.errors import InvalidPlugin, InvalidSpec, UnknownName
from circuitbench.core.extras import missing_extra
from circuitbench.core.version import __version__
from circuitbench.plugins.behaviours import behaviours, info_of_file
from circuitbench.plugins.info import Info, Unreadable, read_info, undescribed
from circuitbench.plugins.memory import remember

if TYPE_CHECKING:  # listing plug-ins must not pay for importing torch
    from circuitbench.models.base import Model, ModelFactory
    from circuitbench.plugins.method import Method
    from circuitbench.tasks.base import Task

Kind = Literal["method", "task", "model"]
KINDS: tuple[Kind, ...] = ("method", "task", "model")


@dataclass(frozen=True)
class Plugin:
    """What is known of a plug-in without importing it: name, ``module:object``, distribution."""

    kind: Kind
    name: str
    target: str
    origin: str


def list_plugins(kind: Kind) -> list[Plugin]:
    """All registered plug-ins of a kind, by name. Imports none of them."""
    found = [_plugin(kind, entry) for entry in _entries(kind)]
    if kind == "task":
        found += [_shipped(path) for path in behaviours().values()]
    return sorted(found, key=lambda p: (p.name, p.target))


def describe(kind: Kind, name: str) -> Info:
    """What the plug-in ``name`` says of itself, read from its source; imports nothing.

    A plug-in that says nothing, or not so that it can be read, and a name that is not installed
    (or installed twice) give the name as title and the family ``other``.
    """
    matches = [entry for entry in _entries(kind) if entry.name == name]
    if kind == "task" and name in behaviours() and not matches:
        return info_of_file(behaviours()[name])
    try:
        return read_info(matches[0].value) if len(matches) == 1 else undescribed(name)
    except Unreadable:
        return undescribed(name)


def info_of(method: str, task: str, model: str) -> dict[str, dict[str, Any]]:
    """What a record keeps of its plug-ins: ``{"method": {...}, "task": {...}, "model": {...}}``.

    ``model`` may carry a variant (``planted@3``). Names that are not installed are described by
    themselves, so nothing is raised.
    """
    names: dict[Kind, str] = {"method": method, "task": task, "model": plugin_of(model)[0]}
    return {kind: describe(kind, name).as_dict() for kind, name in names.items()}


def find(kind: Kind, name: str) -> Any:
    """Import and return what ``name`` stands for.

    Raises:
        UnknownName: no plug-in has this name; the message names the nearest.
        InvalidPlugin: two plug-ins have it, or importing it failed.
        MissingExtra: importing it needs an optional package that is not installed.
    """
    return load_entry(kind, name, _entries(kind))


def load_entry(kind: str, name: str, entries: Iterable[EntryPoint]) -> Any:
    """Import what ``name`` stands for among ``entries``; raises as :func:`find` does."""
    known = list(entries)
    matches = [entry for entry in known if entry.name == name]
    if not matches:
        raise UnknownName(kind, name, {entry.name for entry in known})
    if len(matches) > 1:
        raise registered_twice(kind, name, [f"{m.value} ({origin(m)})" for m in matches])
    try:
        return matches[0].load()
    except Exception as error:  # anything a third party's import may raise
        missing = missing_extra(error, f"{kind} {name!r}")
        if missing is not None:
            raise missing from error
        raise InvalidPlugin(
            f"{kind} {name!r} could not be imported from {matches[0].value} "
            f"({origin(matches[0])}): {type(error).__name__}: {error}"
        ) from error


def registered_twice(kind: str, name: str, origins: Iterable[str]) -> InvalidPlugin:
    """The refusal of two plug-ins of one name; names where both come from."""
    return InvalidPlugin(
        f"{kind} {name!r} is registered twice: by {' and '.join(origins)}; uninstall one"
    )


def method_class(name: str) -> type[Method]:
    """The class behind a method's name."""
    return cast("type[Method]", find("method", name))


def load_task(name: str, truth: str | None = None, control: str | None = None) -> Task:
    """The task of this name, or of a file: ``./mine.yaml``, ``pairs.csv``, ``pairs.jsonl``.

    Args:
        name: of a plug-in, of a behaviour that ships with us, or the path of a file (perhaps with
            ``@`` and the hash of its content, as a record names it).
        truth: which of the circuits that a file names is scored, or ``none``.
        control: a text file to cut control spans from, instead of the task's own.

    Raises:
        UnknownName: there is no such task or truth.
        InvalidSpec: the file is not what it should be, or a task that is no file was given a
            truth or a control text.
        InvalidPlugin: the task cannot be imported, or there are two of its name.
    """
    from circuitbench.tasks.text import task as files

    registered = [entry for entry in _entries("task") if entry.name == name]
    if files.is_file(name):
        loaded = files.read_task(name)
    elif name in behaviours() and not registered:
        loaded = files.read_shipped(name)
    elif name in behaviours():
        origins = [_shipped(behaviours()[name]).target, *map(origin, registered)]
        raise registered_twice("task", name, origins)
    else:
        if not registered:
            raise UnknownName("task", name, {p.name for p in list_plugins("task")})
        for option, value in (("truth", truth), ("control text", control)):
            if value is not None:
                raise InvalidSpec(f"task {name} has its own {option}; only files take another")
        return remember(name, cast("Task", find("task", name)()))
    if truth is not None:
        loaded = loaded.with_truth(truth)
    loaded = loaded if control is None else loaded.with_control(Path(control))
    return remember(name, loaded)


def load_model(name: str) -> Model:
    """Build or load ``name``, ``name@variant`` (for embedded models, the seed) or ``hf:...``."""
    base, variant = plugin_of(name)
    return remember(name, cast("ModelFactory", find("model", base))(variant))


def plugin_of(model: str) -> tuple[str, str]:
    """The plug-in and the variant that a model's name stands for.

    ``planted@3`` is variant ``3`` of ``planted``; ``hf:org/name@raw`` is everything behind the
    colon, of ``hf``.
    """
    scheme, colon, rest = model.partition(":")
    if colon and "@" not in scheme and any(entry.name == scheme for entry in _entries("model")):
        return scheme, rest
    base, _, variant = model.partition("@")
    return base, variant


def origin(entry: EntryPoint) -> str:
    """The distribution that registered ``entry``, with its version."""
    return "unknown distribution" if entry.dist is None else _named(entry.dist)


@cache  # each look parses the distribution's metadata
def _named(dist: Distribution) -> str:
    return f"{dist.name} {dist.version}"


@cache
def _entries(kind: Kind) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=f"circuitbench.{kind}s"))


def look_where(path: Sequence[str]) -> None:
    """Find modules and plug-ins on another ``sys.path`` from now on."""
    if set(filter(None, path)) != set(filter(None, sys.path)):
        _entries.cache_clear()
    sys.path[:] = path


def _shipped(path: Path) -> Plugin:
    target = path.relative_to(Path(__file__).parents[2]).as_posix()
    return Plugin("task", path.stem, target, f"circuitbench {__version__}")


def _plugin(kind: Kind, entry: EntryPoint) -> Plugin:
    return Plugin(kind, entry.name, entry.value, origin(entry))
