"""What a discovery costs, with a share of the training that made it possible.

The unit is a forward pass of one batch of prompts; a backward pass counts as two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

DISCOVERIES = (10, 100, 1_000)


def passes(counts: Mapping[str, Any]) -> int:
    """Passes by the counters of a :class:`~circuitbench.Meter`."""
    return int(counts["forwards"] + 2 * counts["backwards"])


def amortised(training: float, discovery: float, discoveries: int) -> float:
    """Passes per discovery where a training serves so many."""
    return discovery + training / discoveries


def paid_back(training: float, discovery: float, other: float) -> int | None:
    """After how many discoveries a training costs no more than another method all along.

    The least N with ``training + N * discovery <= N * other``; None where there is none, because a
    single discovery is no cheaper. No training is paid back at once, with 0.

    Args:
        training: passes, once.
        discovery: passes of one discovery after it.
        other: passes of one discovery of a method that does not learn.
    """
    if training <= 0:
        return 0
    saved = other - discovery
    return math.ceil(training / saved) if saved > 0 else None
