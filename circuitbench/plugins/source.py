"""Read what a plug-in's source says of it, importing nothing: neither it nor its parents."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

FOLLOWED = 5  # re-exports (`from .method import Method`) followed on the way to a definition


class Unreadable(Exception):
    """Why the source of a plug-in cannot be read; the message is one line."""


def definition(target: str) -> Definition:
    """The class or function that ``module:object`` names, as it stands in its source.

    Raises:
        Unreadable: there is no such module or definition, or it is not Python source.
    """
    module, _, name = target.partition(":")
    module, name = module.strip(), name.partition("[")[0].strip()
    for _ in range(FOLLOWED):
        tree = _tree(module)
        node = _defined(tree, name)
        if node is not None:
            return node
        elsewhere = _imported(tree, module, name)
        if elsewhere is None:
            raise Unreadable(f"{module} defines no class or function {name!r}")
        module, name = elsewhere
    raise Unreadable(f"{target} is imported from too far away")


@cache
def _tree(module: str) -> ast.Module:
    try:
        path = _spec(module).origin
        return ast.parse(Path(path or "").read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise Unreadable(f"no source of {module} can be read ({type(error).__name__})") from error


def _spec(module: str) -> ModuleSpec:
    """Where a module lies. ``find_spec("a.b")`` would import ``a``; this asks level by level."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):  # half-initialised, or no name of a module at all
        spec = None
    full = top
    for part in rest:
        full = f"{full}.{part}"
        places = None if spec is None else spec.submodule_search_locations
        spec = None if places is None else PathFinder.find_spec(full, list(places))
    if spec is None or not spec.has_location:
        raise Unreadable(f"no module {module} is installed as a file")
    return spec


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, those under ``if`` and ``try`` too."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _statements(node.body)
            yield from _statements(node.orelse)


def _defined(tree: ast.Module, name: str) -> Definition | None:
    """The last definition of a (dotted) name, which is the one that counts at run time."""
    body, found = tree.body, None
    for part in name.split("."):
        named = [n for n in _statements(body) if isinstance(n, Definition) and n.name == part]
        if not named:
            return None
        found = named[-1]
        body = found.body
    return found


def _imported(tree: ast.Module, module: str, name: str) -> tuple[str, str] | None:
    """The module and the name that ``name`` was imported from, if it was."""
    for node in _statements(tree.body):
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            if (alias.asname or alias.name) == name:
                origin = node.module or ""
                if node.level:
                    origin = ".".join(filter(None, [_parent(module, node.level), origin]))
                return origin, alias.name
    return None


def _parent(module: str, level: int) -> str:
    """The package that ``level`` dots mean inside ``module``."""
    is_package = _spec(module).submodule_search_locations is not None
    parts = module.split(".")
    return ".".join(parts[: len(parts) - level + is_package])
