"""What the health gate hands back: a card of checks, as data, as text and as a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitbench.core.extras import needs_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Check:
    """One figure against its limit; ``relation`` is ``>=``, ``<=`` or ``==``."""

    name: str
    value: float
    relation: str
    limit: float
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the limit is kept; a value that is not a number never passes."""
        if not math.isfinite(self.value):
            return False
        if self.relation == ">=":
            return self.value >= self.limit
        if self.relation == "<=":
            return self.value <= self.limit
        return self.value == self.limit


@dataclass(frozen=True)
class RoleReport:
    """A role and what its heads do: ``alone`` and ``in_context`` hold one effect per head."""

    name: str
    heads: tuple[str, ...]
    needed: int
    sign: int
    shows: str
    alone: tuple[float, ...]
    in_context: tuple[float, ...]


@dataclass(frozen=True)
class Card:
    """Everything the gate found; :meth:`as_dict` is JSON-able.

    ``effects [n_layers][n_heads]`` are single-head effects in units of the gap, None where a head
    was not tried alone; ``truth`` is the same grid of 0 and 1.
    """

    task: str
    model: str
    ablation: str
    prompts: int
    seed: int
    checks: tuple[Check, ...]
    roles: tuple[RoleReport, ...]
    effects: tuple[tuple[float | None, ...], ...]
    truth: tuple[tuple[int, ...], ...]
    source: str
    kind: str
    valid_under: tuple[str, ...]
    blind_spots: tuple[str, ...]
    dials: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """The card as plain JSON values."""
        checks = [asdict(check) | {"passed": check.passed} for check in self.checks]
        return asdict(self) | {"passed": self.passed, "checks": checks}


def render(card: Card) -> str:
    """The card as markdown."""
    lines = [
        f"## {card.task} on {card.model}: {'passed' if card.passed else 'FAILED'}",
        "",
        f"{card.ablation} ablation, {card.prompts} prompts, seed {card.seed}. {_truth(card)} "
        "Effects are in units of the gap between all heads and none.",
        "",
        "| check | value | limit | | |",
        "|---|---:|---:|---|---|",
    ]
    for check in card.checks:
        lines.append(
            f"| {check.name} | {check.value:.3g} | {check.relation} {check.limit:g} | "
            f"{'ok' if check.passed else 'FAILED'} | {check.detail} |"
        )
    if card.roles:
        lines += ["", "| role | heads | needed | alone | best context | ablating one shows |"]
        lines += ["|---|---|---:|---:|---:|---|"]
    for role in card.roles:
        lines.append(
            f"| {role.name} | {' '.join(role.heads)} | {role.needed} of {len(role.heads)} | "
            f"{_span(role.alone)} | {_span(role.in_context)} | {role.shows} |"
        )
    provenance = {k: v for k, v in card.provenance.items() if k != "dials"}
    for title, facts in (("Dials", card.dials), ("Provenance", provenance)):
        if facts:
            lines += ["", f"{title}: " + ", ".join(f"{k} {v}" for k, v in facts.items()) + "."]
    if card.blind_spots:
        lines += ["", "Blind spots of single-head ablation:", ""]
        lines += [f"- {spot}" for spot in card.blind_spots]
    return "\n".join(lines) + "\n"


def _truth(card: Card) -> str:
    if not card.roles:
        return "Truth: none is known."
    valid = f"Valid under {', '.join(card.valid_under)} ablation."
    return f"Truth: {card.kind}; {card.source}. {valid}"


def _span(effects: tuple[float, ...]) -> str:
    """Smallest and largest effect, once where they agree."""
    low, high = (f"{round(x, 2) + 0.0:.2f}" for x in (min(effects), max(effects)))
    return low if low == high else f"{low} to {high}"


def figure(card: Card) -> Figure:
    """Single-head effects beside the truth, two heat maps ``layers x heads``.

    Heads that were not tried alone are left blank. Draws without a display.
    """
    with needs_extra("a figure"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    effects, truth = np.array(card.effects, dtype=float), np.array(card.truth, dtype=float)
    height = max(2.5, 0.25 * len(effects))
    drawing = Figure(figsize=(2.4 + 0.5 * effects.shape[1], height), layout="constrained")
    FigureCanvasAgg(drawing)
    left, right = drawing.subplots(1, 2, sharey=True)
    top = float(np.nanmax(np.abs(effects))) or 1.0
    shown = left.imshow(effects, cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto")
    right.imshow(truth, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    left.set(title=f"{card.task} on {card.model}: one head ablated ({card.ablation})")
    right.set(title="truth")
    left.set(xlabel="head", ylabel="layer")
    right.set(xlabel="head")
    drawing.colorbar(shown, ax=left, label="effect / gap")
    return drawing
