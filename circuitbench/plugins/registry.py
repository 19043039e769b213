"""Plug-ins by name, found through entry points; listing imports nothing.

A third party registers a method, task or model with an entry point in one of the groups
``circuitbench.methods``, ``circuitbench.tasks``, ``circuitbench.models``. Ours register the
same way and get no preference: two plug-ins of one name are refused, naming both origins.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal, cast

from circuitbench.core.errors import InvalidPlugin, UnknownName

if TYPE_CHECKING:  # listing plug-ins must not pay for importing torch
    from circuitbench.models.base import Model, ModelFactory
    from circuitbench.plugins.method import Method
    from circuitbench.tasks.base import Task

Kind = Literal["method", "task", "model"]


@dataclass(frozen=True)
class Plugin:
    """What is known of a plug-in without importing it: name, ``module:object``, distribution."""

    kind: Kind
    name: str
    target: str
    origin: str


def list_plugins(kind: Kind) -> list[Plugin]:
    """All registered plug-ins of a kind, by name. Imports none of them."""
    return sorted(
        (_describe(kind, entry) for entry in _entries(kind)), key=lambda p: (p.name, p.target)
    )


def find(kind: Kind, name: str) -> Any:
    """Import and return what ``name`` stands for.

    Raises:
        UnknownName: no plug-in has this name; the message names the nearest.
        InvalidPlugin: two plug-ins have it, or importing it failed.
    """
    matches = [entry for entry in _entries(kind) if entry.name == name]
    if not matches:
        raise UnknownName(kind, name, {entry.name for entry in _entries(kind)})
    if len(matches) > 1:
        origins = " and ".join(
            f"{p.target} ({p.origin})" for p in (_describe(kind, m) for m in matches)
        )
        raise InvalidPlugin(f"{kind} {name!r} is registered twice: by {origins}; uninstall one")
    try:
        return matches[0].load()
    except Exception as error:  # anything a third party's import may raise
        plugin = _describe(kind, matches[0])
        raise InvalidPlugin(
            f"{kind} {name!r} could not be imported from {plugin.target} ({plugin.origin}): "
            f"{type(error).__name__}: {error}"
        ) from error


def method_class(name: str) -> type[Method]:
    """The class behind a method's name."""
    return cast("type[Method]", find("method", name))


def load_task(name: str) -> Task:
    """An instance of the task of this name."""
    return cast("Task", find("task", name)())


def load_model(name: str) -> Model:
    """Build or load ``name`` or ``name@variant`` (for embedded models, the seed)."""
    base, _, variant = name.partition("@")
    return cast("ModelFactory", find("model", base))(variant)


def _entries(kind: Kind) -> list[EntryPoint]:
    return list(entry_points(group=f"circuitbench.{kind}s"))


def _describe(kind: Kind, entry: EntryPoint) -> Plugin:
    dist = entry.dist
    origin = f"{dist.name} {dist.version}" if dist is not None else "unknown distribution"
    return Plugin(kind, entry.name, entry.value, origin)
