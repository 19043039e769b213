"""Whether what a plug-in says of itself can be read, and agrees with what it does."""

from __future__ import annotations

import warnings

from circuitbench.checks.contracts.contract import UndescribedPlugin
from circuitbench.core.errors import InvalidPlugin
from circuitbench.core.info import Info, attached
from circuitbench.plugins.info import Unreadable, read_info

READ = "Write @Info(...) above the class or function, with literal values (docs/plugins.md)."
GRANULARITY = "Give Info the granularity that the message names."


def checked_info(plugin: object) -> Info | None:
    """The Info of a class or function, if its source says the same; warns where it has none.

    Raises:
        InvalidPlugin: lists could not read it, or would read something else.
    """
    module, name = getattr(plugin, "__module__", ""), getattr(plugin, "__qualname__", "")
    info = attached(plugin)
    if info is None:
        warnings.warn(
            f"{name} is decorated with no Info: lists show its name and the family 'other'",
            UndescribedPlugin,
            stacklevel=2,
        )
        return None
    if module == "__main__" or "<locals>" in name:
        return info  # nothing can be registered from there
    try:
        read = read_info(f"{module}:{name}")
    except Unreadable as error:
        raise InvalidPlugin(str(error)) from error
    if read != info:
        raise InvalidPlugin(f"the source of {name} says {read}, the imported object {info}")
    return info


def check_granularity(plugin: object, who: str, edges: bool) -> None:
    """Raise :class:`InvalidPlugin` if the Info says other than that there are edges, or none."""
    info = attached(plugin)
    if info is not None and (info.granularity == "edges") != edges:
        raise InvalidPlugin(
            f"Info: {who} {'edges' if edges else 'no edges'}, so granularity is "
            f"{'edges' if edges else 'heads'!r}, not {info.granularity!r}"
        )
