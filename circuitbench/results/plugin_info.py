"""What the plug-ins of a run say of themselves, as a record keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def info_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """``{"method": {...}, "task": {...}, "model": {...}}`` for the names in a spec."""
    return {kind: {"title": str(spec.get(kind))} for kind in ("method", "task", "model")}
