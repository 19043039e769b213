"""What a metric is: one number of a run, computed when its record is read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from circuitbench.core.errors import InvalidPlugin, RunFailed
from circuitbench.evaluation.against_truth.ranking import TiedRanking
from circuitbench.evaluation.outcome import Outcome

Better = Literal["higher", "lower", "neither"]
Kind = Literal["quality", "edges", "function", "cost"]
Need = Literal["truth", "edges", "family", "measurements", "degrees", "edge_degrees"]
Value = Callable[[Outcome], float | None]

LARGEST = 1e150  # of a value: tables take means and variances
BUILT_IN = "circuitbench"


@dataclass(frozen=True)
class Metric:
    """One number of a run.

    Args:
        key: its name on the command line and in data: small letters, digits, ``_``.
        title: column heading.
        compute: gives the number, or None where it does not exist.
        about: one sentence for tooltips and captions.
        kind: which tables have it: ``quality`` the main ones, ``edges``, ``function`` (needs no
            truth), ``cost`` (what a run spent: shown, never marked as best).
        better: which way is better. ``neither`` (best in the middle, say, or worth nothing
            alone) cannot rank and is never marked.
        unit: of the number; empty for a plain ratio.
        needs: what a run must have; without it the value is None and ``compute`` is not called.
        chance: what a random answer gets on the same run in expectation.
        digits: decimals shown.
        minor: left out of tables where room is scarce.
        on_ranking: for a metric of a ranking alone: its value for any ranking of the heads, so
            that its curve over queries can be drawn.
        origin: the distribution that brings it; set on loading.

    Raises:
        InvalidPlugin: one of these is not what it must be.
    """

    key: str
    title: str
    compute: Value
    about: str = ""
    kind: Kind = "quality"
    better: Better = "higher"
    unit: str = ""
    needs: tuple[Need, ...] = ()
    chance: Value | None = None
    digits: int = 3
    minor: bool = False
    on_ranking: Callable[[TiedRanking], float | None] | None = None
    origin: str = BUILT_IN

    def __post_init__(self) -> None:
        if not (isinstance(self.key, str) and re.fullmatch(r"[a-z][a-z0-9_]*", self.key)):
            raise InvalidPlugin(
                f"not a metric key: {self.key!r}; expected small letters, digits and _"
            )
        for name, value, valid in (
            ("kind", self.kind, get_args(Kind)),
            ("better", self.better, get_args(Better)),
            *(("need", need, get_args(Need)) for need in self.needs),
        ):
            if value not in valid:
                raise InvalidPlugin(
                    f"metric {self.key!r}: unknown {name} {value!r}; valid: {', '.join(valid)}"
                )
        for compute in (self.compute, self.chance, self.on_ranking):
            if compute is not None and not callable(compute):
                raise InvalidPlugin(f"metric {self.key!r}: {compute!r} cannot be called")

    @property
    def sign(self) -> int:
        """1 where higher is better, -1 where lower is, 0 where neither is."""
        return {"higher": 1, "lower": -1, "neither": 0}[self.better]

    @property
    def is_cost(self) -> bool:
        """Whether it is what a run spent rather than what it found."""
        return self.kind == "cost"

    def of(self, outcome: Outcome) -> float | None:
        """The value for one run; None where it does not exist.

        Raises:
            RunFailed: ``compute`` gave something else than a finite number or None, or one whose
                square no float can hold.
        """
        if not outcome.has.issuperset(self.needs):
            return None
        value = self.compute(outcome)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RunFailed(f"expected a number or None, not {value!r}")
        if not math.isfinite(value):
            raise RunFailed(f"{value} is not a finite number")
        if abs(value) > LARGEST:
            raise RunFailed(f"{value:g} is too large to be averaged; at most {LARGEST:g}")
        return float(value)
