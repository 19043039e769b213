"""Scripts of ``experiments/tables`` as modules, though they are in no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

TABLES = Path(__file__).parents[2] / "experiments" / "tables"


def load_script(name: str) -> ModuleType:
    """The module of ``experiments/tables/NAME.py``, run anew."""
    spec = importlib.util.spec_from_file_location(f"tables_{name}", TABLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module
