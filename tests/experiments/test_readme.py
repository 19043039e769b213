"""The README's tables are those that the records give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scripts import load_script

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> Any:
    return load_script("readme")


@pytest.mark.parametrize(
    "name", ["five-methods", "hard-and-trained", "edges", "ablations", "wanted"]
)
def test_the_readmes_tables_are_fresh(script: Any, name: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    marker = f"<!-- table: {name} -->\n"
    assert text.count(marker) == 1
    stands = text.partition(marker)[2].partition("\n<!-- end of table -->")[0]
    assert stands == script.made(script.SOURCES[name]), (
        "stale; run: python experiments/tables/readme.py"
    )


def test_a_stale_table_is_replaced_and_nothing_else(script: Any) -> None:
    before = "a\n<!-- table: hard-and-trained -->\n| old |\n<!-- end of table -->\nb"
    text = script.updated(before)
    assert text.startswith(
        "a\n<!-- table: hard-and-trained -->\nTier hard: no training\n\n| # | Method | AP |"
    )
    assert "\n\nTier trained: no training\n\n" in text
    assert text.endswith("|\n<!-- end of table -->\nb")
    assert "| old |" not in text
