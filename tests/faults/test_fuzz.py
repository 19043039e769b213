"""A little of ``python tests/kits/fuzz.py``."""

from __future__ import annotations

import fuzz
import pytest


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_rubbish_meets_documented_errors(name: str) -> None:
    assert fuzz.fuzz(name, 200).total() >= 200
