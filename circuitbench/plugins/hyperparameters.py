"""The hyperparameters of a method: the fields of its dataclass."""

from __future__ import annotations

import dataclasses
from typing import Any

from circuitbench.core.errors import InvalidPlugin
from circuitbench.plugins.method import Method


def hyperparameters(method: Method) -> dict[str, Any]:
    """Every field of a method that ``--set`` could change, with its value.

    Raises :class:`InvalidPlugin` if the method is no dataclass.
    """
    if not dataclasses.is_dataclass(method):
        raise InvalidPlugin(
            f"{type(method).__name__} must be a dataclass whose fields are its hyperparameters"
        )
    return {
        f.name: getattr(method, f.name) for f in dataclasses.fields(method) if f.init and f.compare
    }
