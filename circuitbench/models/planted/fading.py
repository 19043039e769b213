"""Dials that make a planted circuit fade, as circuits of trained models do, instead of collapse.

In the plain presets copies share work evenly and attention is all or nothing. Here copies carry
unequal shares, some serve half of the tokens only, copies write more than is needed (so that
losing one shows little and losing two shows much), stand-ins repair part of a loss, some heads
work against the answer, and what is left of a signal is read in proportion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitbench.core.errors import InvalidSpec


@dataclass(frozen=True)
class Fading:
    """How a circuit fades. Ranges are ``(least, most)``; a value per role is drawn from each.

    Args:
        softness: attention scores by which roles read each other's signals, relative to
            ``PlantedConfig.sharpness``; the lower, the more gradual.
        spread: standard deviation of the logarithm of copies' shares; 0 makes them equal.
        least: smallest share of a copy, relative to an equal one.
        excess: what copies write together beyond what is needed.
        partial: probability that a copy serves only half of the names (or numbers).
        repair: what stand-ins give back of what their role wrote.
        hurt: what heads against the answer write, relative to those for it.
        leak: what look-alikes write of what the heads they look like do.
        paths: share of the answer that each of several parallel circuits writes; they sum to 1.
    """

    softness: float = 0.4
    spread: float = 0.6
    least: float = 0.4
    excess: tuple[float, float] = (0.0, 0.0)
    partial: float = 0.0
    repair: tuple[float, float] = (0.0, 1.0)
    hurt: tuple[float, float] = (0.2, 0.4)
    leak: float = 0.0
    paths: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for name in ("excess", "repair", "hurt"):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= 1:
                raise InvalidSpec(f"{name} must be a range inside [0, 1], not {low, high}")
        if not 0.2 <= self.softness <= 1:
            raise InvalidSpec(f"softness must be between 0.2 and 1, not {self.softness}")
        if not 0 < self.least <= 1:
            raise InvalidSpec(f"least must be above 0 and at most 1, not {self.least}")
        if not self.paths or min(self.paths) <= 0 or abs(sum(self.paths) - 1) > 1e-9:
            raise InvalidSpec(f"paths must be positive shares that sum to 1, not {self.paths}")


@dataclass(frozen=True)
class Division:
    """How copies divide a role's work.

    Args:
        strength: ``[n]``; what each copy writes, 1 being what the role's readers need.
        serves: ``[n, tokens]``; how much more or less than that for every token.
    """

    strength: np.ndarray
    serves: np.ndarray

    def copy(self, i: int, factor: float = 1.0) -> Division:
        """The part of one copy, times ``factor``."""
        return Division(self.strength[i : i + 1] * factor, self.serves[i : i + 1])

    @property
    def needed(self) -> int:
        """Fewest copies that write what is needed, the strongest first."""
        sums = np.sort(self.strength)[::-1].cumsum()
        return min(int(np.searchsorted(sums, 1.0 - 1e-9)) + 1, len(sums))


def divide(n: int, tokens: int, fading: Fading, excess: bool, rng: np.random.Generator) -> Division:
    """Draw how ``n`` copies divide a role's work over ``tokens`` tokens.

    Every token gets the same in total, from the copies that serve it.

    Args:
        n, tokens: sizes.
        fading: the dials.
        excess: whether copies may write more than is needed (not where logits add up).
        rng: of the draws.
    """
    shares = np.exp(fading.spread * rng.standard_normal(n))
    shares = np.maximum(shares / shares.sum(), fading.least / n)
    shares /= shares.sum()
    serves = np.ones((n, tokens))
    for i in np.flatnonzero(rng.random(n) < fading.partial):
        serves[i, rng.choice(tokens, tokens - tokens // 2, replace=False)] = 0.0
    serves[:, serves.sum(0) == 0] = 1.0
    total = 1.0 + (rng.uniform(*fading.excess) if excess else 0.0)
    written = shares[:, None] * serves
    written = written / written.sum(0) * total
    return Division(shares * total, written / (shares * total)[:, None])
