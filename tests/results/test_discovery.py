"""A stored trace ranks heads exactly as the method did."""

from __future__ import annotations

import numpy as np
import pytest

from circuitbench.core.discovery import Discovery, TracePoint
from circuitbench.results.discovery import plain_discovery, read_discovery


@pytest.mark.parametrize("gap", [0.0, 1e-3, 1e-8, 1e-11, 1e-15])
def test_rounding_a_trace_ties_nothing_and_unties_nothing(gap: float) -> None:
    scores = np.array([[1.0, 1.0 + gap], [1.0, np.pi]])
    stored = plain_discovery(Discovery(scores, frozenset(), trace=[TracePoint(3, scores)]))
    (point,) = read_discovery(stored).trace
    assert (np.sign(np.subtract.outer(point.scores, point.scores))
            == np.sign(np.subtract.outer(scores, scores))).all()  # fmt: skip
    assert point.scores == pytest.approx(scores, rel=1e-5)
    if gap in (0.0, 1e-3):
        assert stored["trace"][0]["scores"][1][1] == 3.14159
