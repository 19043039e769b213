"""What a run has cost, counted the same way for every method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from circuitbench.core.errors import InvalidSpec
from circuitbench.oracle.process_memory import peak_bytes


@dataclass
class Meter:
    """Counters of one run; the first five depend only on what was asked, never on how.

    Args:
        queries: budget spent: a mask is 1, a gradient by a mask is 3 (a backward pass counts
            as two forward passes).
        gradients: masks differentiated.
        forwards: forward passes of one batch that the question needs at least when each mask is
            run by itself: one for the task prompts and one for the control text.
        backwards: backward passes of one batch, counted likewise.
        tokens: positions in those forward passes.
        flops: floating-point operations of the matrix products really done (2 per
            multiply-add), after all reuse; 0 where the engine cannot know (hook fallback).
        seconds: wall-clock time inside the oracle.
        memo_hits: masks answered without any computation.
    """

    queries: int = 0
    gradients: int = 0
    forwards: int = 0
    backwards: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    memo_hits: int = 0

    def as_dict(self) -> dict[str, Any]:
        """All counters and ``peak_memory_bytes`` (of the whole run so far), JSON-able."""
        counts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**counts, "peak_memory_bytes": peak_bytes()}

    def at_least(self, counts: Mapping[str, float]) -> None:
        """Raise counters to what is known to have been spent, on an earlier day say.

        None is ever lowered. Raises :class:`InvalidSpec` for what is no counter or no number.
        """
        for name, count in counts.items():
            if (
                name not in _COUNTERS
                or not isinstance(count, int | float)
                or not 0 <= count < _MOST
            ):
                raise InvalidSpec(f"a meter cannot have {name!r} at {count!r}")
            setattr(self, name, max(getattr(self, name), type(getattr(self, name))(count)))

    def copy(self) -> Meter:
        """The counters as they stand now."""
        return Meter(**{f.name: getattr(self, f.name) for f in fields(Meter)})

    def since(self, earlier: Meter) -> Meter:
        """The counters' growth since ``earlier`` (a :meth:`copy`)."""
        return Meter(
            **{f.name: getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)}
        )


_MOST = 2**63
_COUNTERS = frozenset(f.name for f in fields(Meter))
