"""What a method may take, and how it is written down."""

from __future__ import annotations

import re
from dataclasses import dataclass

from circuitbench.core.errors import InvalidSpec

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Limits:
    """What a method may take, from its loading to its answer.

    Args:
        seconds: of wall-clock time; None is no limit.
        memory: bytes beyond what an idle process has; None is no limit.
    """

    seconds: float | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise InvalidSpec(f"timeout must be a number of seconds above 0, not {self.seconds}")
        if self.memory is not None and self.memory < 1:
            raise InvalidSpec(f"memory must be 1 byte or more, not {self.memory}")


def parse_bytes(text: str) -> int:
    """``"4G"`` or ``"500M"`` as bytes; raises :class:`InvalidSpec` on anything else."""
    match = re.fullmatch(r"([0-9]{1,15})([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise InvalidSpec(f"memory looks like 500M or 4G, not {text!r}")
    return int(match[1]) * _UNITS[match[2].upper()]
