"""The README's tables are those that the records give."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> Any:
    path = ROOT / "experiments" / "tables" / "readme.py"
    found = importlib.util.spec_from_file_location("readme_tables", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)

    sys.modules["readme_tables"] = module  # where dataclasses look
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["five-methods", "reference-run"])
def test_the_readmes_tables_are_fresh(script: Any, name: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    marker = f"<!-- table: {name} -->\n"
    assert text.count(marker) == 1
    stands = text.partition(marker)[2].partition("\n<!-- end of table -->")[0]
    assert stands == script.made(script.SOURCES[name]), (
        "stale; run: python experiments/tables/readme.py"
    )


def test_a_stale_table_is_replaced_and_nothing_else(script: Any) -> None:
    before = "a\n<!-- table: reference-run -->\n| old |\n<!-- end of table -->\nb"
    text = script.updated(before)
    assert text.startswith(
        "a\n<!-- table: reference-run -->\nOverall: no training\n\n| # | Method | AP |"
    )
    assert text.endswith("|\n<!-- end of table -->\nb")
    assert "| old |" not in text
