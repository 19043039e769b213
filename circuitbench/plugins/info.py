"""The :class:`Info` of a plug-in, read from its source: lists and pages import nothing."""

from __future__ import annotations

import ast

from circuitbench.core.errors import CircuitBenchError
from circuitbench.core.info import Info, attached
from circuitbench.plugins.source import Definition, Unreadable, definition

__all__ = ["Info", "Unreadable", "attached", "read_info", "undescribed"]


def undescribed(name: str) -> Info:
    """What stands for the Info of a plug-in that says nothing of itself."""
    return Info(title=name, family="other")


def read_info(target: str) -> Info:
    """The Info that decorates ``module:object`` in its source.

    Raises:
        Unreadable: there is no source, no Info, or it is not written down literally.
    """
    call = _decorator(definition(target))
    if call is None:
        raise Unreadable(f"{target} is decorated with no Info")
    try:
        arguments = [ast.literal_eval(value) for value in call.args]
        keywords = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        return Info(*arguments, **keywords)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise Unreadable(f"the Info of {target} is not literal ({error})") from error
    except CircuitBenchError as error:
        raise Unreadable(f"the Info of {target} is wrong: {error}") from error


def _decorator(node: Definition) -> ast.Call | None:
    """``@Info(...)`` or ``@anything.Info(...)`` above a definition."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call):
            called = decorator.func
            name = called.id if isinstance(called, ast.Name) else None
            name = called.attr if isinstance(called, ast.Attribute) else name
            if name == "Info":
                return decorator
    return None
