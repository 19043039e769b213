"""The hyperparameters of a method: the fields of its dataclass."""

from __future__ import annotations

import dataclasses
from typing import Any

from circuitbench.core.errors import InvalidPlugin
from circuitbench.plugins.method import Elsewhere, Method


def hyperparameters(method: Method) -> dict[str, Any]:
    """Every field of a method that ``--set`` could change, with its value; groups as mappings.

    Raises :class:`InvalidPlugin` if the method is no dataclass.
    """
    if isinstance(method, Elsewhere):
        return dict(method.stated_hyperparameters)
    if not dataclasses.is_dataclass(method):
        raise InvalidPlugin(
            f"{type(method).__name__} must be a dataclass whose fields are its hyperparameters"
        )
    values = {
        f.name: getattr(method, f.name) for f in dataclasses.fields(method) if f.init and f.compare
    }
    return {
        name: dataclasses.asdict(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type)
        else value
        for name, value in values.items()
    }
