"""How well numbers that need no truth go with the truth of rankings, tier by tier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from circuitbench_leaderboard.figures.style import (
    COLOURS,
    MARKERS,
    MUTED,
    Drawing,
    house_style,
    legend_beside,
    new_axes,
)
from circuitbench_leaderboard.tables.cells import Row
from circuitbench_leaderboard.truth_free.forecast import TierForecast
from circuitbench_leaderboard.truth_free.tables import verdicts

ROOM = 0.7
"""Of the distance between two lines: what the tiers of one number share."""


def correlations(found: Sequence[TierForecast]) -> Drawing:
    """Each number's correlation with average precision between the answers to one task.

    Of heads or of edges, in the order of the table of verdicts; whiskers are 95 % intervals.
    """
    unit = found[0].answers.unit
    key = f"truth-free-{unit.name}"
    shown = verdicts(found, unit.ranking)
    names = [row.fields[0].text for row in shown.rows]
    tiers = [tier.answers.tier for tier in found]
    with house_style(key):
        figure, axes = new_axes(6.8, 1.2 + 0.34 * len(names))
        axes.axvline(0, color=MUTED, linewidth=1)
        for t, tier in enumerate(tiers):
            shift = ROOM * ((t + 0.5) / len(tiers) - 0.5)
            for line, row in enumerate(shown.rows):
                field = row.fields[1 + t]
                if not isinstance(field.raw, float):
                    continue
                low, high = field.interval or (field.raw, field.raw)
                axes.errorbar(
                    field.raw,
                    line + shift,
                    xerr=np.array([[max(0, field.raw - low)], [max(0, high - field.raw)]]),
                    color=COLOURS[t % len(COLOURS)],
                    marker=MARKERS[t % len(MARKERS)],
                    markersize=4.5,
                    linewidth=1.2,
                    label=tier if line == _first(shown.rows, t) else None,
                )
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(-1.02, 1.02)
        axes.set_xlabel(f"Spearman's correlation with average precision over {unit.name}")
        legend_beside(axes)
        said = "; ".join(
            f"{row.fields[0].text}: "
            + ", ".join(f"{tier} {row.fields[1 + t].text}" for t, tier in enumerate(tiers))
            for row in shown.rows
        )
        return Drawing(
            key,
            f"Correlation with average precision over {unit.name}, between answers to one task",
            said,
            figure,
        )


def _first(rows: Sequence[Row], tier: int) -> int:
    """The first line that has a number on this tier: it carries the legend's label."""
    return next(i for i, row in enumerate(rows) if isinstance(row.fields[1 + tier].raw, float))
