"""What a board should be able to do, in figures: tell apart, predict, say what ablation does.

Figures only; :mod:`circuitbench_leaderboard.tables` makes tables of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from circuitbench.evaluation.metrics import DEFAULT, Metric, metric
from circuitbench.evaluation.statistics import disjoint_groups, rank_transfer
from circuitbench_leaderboard.entries import Entry, Grid, widest_grid
from circuitbench_leaderboard.standing import (
    PLACED_BY,
    Ranking,
    estimates,
    on_grid,
    places,
    plantings,
    resamples,
    value_of,
)

NEARLY_PERFECT = 0.99
MOST_PERFECT = 3
LEAST_GROUPS = 5
LEAST_TRANSFER = 0.7
FEWEST = 3
"""Methods; with fewer there is no ranking to speak of."""


@dataclass(frozen=True)
class Transfer:
    """Spearman's correlation of two rankings of ``methods``, with its 95 % interval."""

    rho: float
    interval: tuple[float, float]
    methods: int


@dataclass(frozen=True)
class Demand:
    """What is wanted of a tier, what was found, and whether it is so (None: cannot be said)."""

    wanted: str
    found: str
    met: bool | None


@dataclass(frozen=True)
class Moved:
    """Where a method stands under the board's ablation and under another.

    ``before`` and ``after`` are means of the metric, the others places within the track.
    """

    entry: Entry
    before: float
    after: float
    place_before: int
    place_after: int


@dataclass(frozen=True)
class Shift:
    """How a ranking moves when another ablation asks, on one tier and track.

    ``transfer`` is None where a correlation says nothing.
    """

    ablation: str
    tier: str
    track: str
    grid: Grid
    moved: tuple[Moved, ...]
    transfer: Transfer | None


def transfer(
    ours: Sequence[Entry], theirs: Sequence[Entry], by: Metric, grids: tuple[Grid, Grid]
) -> Transfer | None:
    """How well one ranking predicts another: the same methods, in the same order, on two grids.

    The interval is over resamples of what was drawn, on each side. None where a correlation says
    nothing: fewer than three methods, or one side ranks all alike.
    """
    if len(ours) < FEWEST:
        return None
    means = []
    for entries, grid in zip((ours, theirs), grids, strict=True):
        found = [on_grid(entry, value_of(by), grid) for entry in entries]
        table = np.array([x.ravel() for x in found if x is not None])
        assert len(table) == len(entries), "ranked entries have all runs of the grid"
        drawn = resamples(plantings(entries, grid))
        means.append(np.vstack([table.mean(axis=1), (table @ drawn).T]))
    found_rho = rank_transfer(means[0], means[1])
    return None if found_rho is None else Transfer(*found_rho, len(ours))


def between_tiers(ours: Ranking, theirs: Ranking, track: str) -> Transfer | None:
    """:func:`transfer` of the entries of a track that are ranked on both tiers."""
    sides = [
        {s.entry.label: s.entry for s in side.standings if s.rank and s.entry.track == track}
        for side in (ours, theirs)
    ]
    both = sorted(sides[0].keys() & sides[1].keys())
    first, second = ([side[label] for label in both] for side in sides)
    return transfer(first, second, ours.by, (ours.grid, theirs.grid))


def demands(by_tier: Mapping[str, Ranking], track: str) -> list[Demand]:
    """What is wanted of the tier ``hard``, for one track; nothing where it ranks too few."""
    hard = by_tier.get("hard")
    if hard is None or hard.by.key != DEFAULT:
        return []
    known = [
        e
        for s in hard.standings
        if s.rank is not None and s.entry.track == track and (e := s.estimates[DEFAULT])
    ]
    if len(known) < FEWEST:
        return []
    title = metric(DEFAULT).title
    perfect = sum(e.mean >= NEARLY_PERFECT for e in known)
    spans = [e.interval for e in known if e.interval is not None]
    groups = disjoint_groups(spans) if len(spans) == len(known) else None
    found = (
        None if (trained := by_tier.get("trained")) is None else between_tiers(hard, trained, track)
    )
    return [
        Demand(
            f"On hard, at most {MOST_PERFECT} methods at {title} {NEARLY_PERFECT} or more",
            f"{perfect} of {len(known)}",
            perfect <= MOST_PERFECT,
        ),
        Demand(
            f"On hard, at least {LEAST_GROUPS} groups told apart by disjoint 95 % intervals",
            "needs more than one seed" if groups is None else str(groups),
            None if groups is None else groups >= LEAST_GROUPS,
        ),
        Demand(
            "The ranking on hard (planted-graded is in it) against that on trained: Spearman "
            f"{LEAST_TRANSFER} or more",
            "too few methods on both" if found is None else said(found),
            None if found is None else found.rho >= LEAST_TRANSFER,
        ),
    ]


def said(found: Transfer) -> str:
    """A correlation with its interval, and of how many methods."""
    low, high = found.interval
    return f"{found.rho:.2f} ({low:.2f} to {high:.2f}), {found.methods} methods"


def shift(
    ablation: str, tier: str, track: str, ours: Sequence[Entry], theirs: Sequence[Entry], by: Metric
) -> Shift | None:
    """How the ranking of a track moves from the board's ablation to another on one tier.

    Compared on the widest grid that a method has finished under both, by those that have. None
    where these are too few. Who moves most stands first.
    """
    of = value_of(by)
    named = {entry.label: entry for entry in theirs if entry.track == track}
    pairs = [(e, named[e.label]) for e in ours if e.track == track and e.label in named]
    shared = [
        {
            task: {seed: v for seed, v in found.items() if seed in after.get(task, {})}
            for task, found in before.items()
        }
        for before, after in ((one.values(of), two.values(of)) for one, two in pairs)
    ]
    grid = widest_grid(shared)
    pairs = [p for p, v in zip(pairs, shared, strict=True) if grid.covered(v) == grid.size]
    if len(pairs) < FEWEST or not grid.size:
        return None
    sides = []
    for entries in zip(*pairs, strict=True):
        main = estimates(entries, of, grid, by.key, sign=0)
        near = PLACED_BY.get(by.key)
        ties = (
            main if near is None else estimates(entries, value_of(metric(near)), grid, near, sign=0)
        )
        ranks = places(main, ties, by, [track] * len(entries))
        sides.append([(e.mean, r) for e, r in zip(main, ranks, strict=True) if e and r])
    moved = [
        Moved(one, before, after, was, now)
        for (one, _), (before, was), (after, now) in zip(pairs, *sides, strict=True)
    ]
    moved.sort(key=lambda m: (-abs(m.place_after - m.place_before), m.place_before, m.entry.label))
    found = transfer([a for a, _ in pairs], [b for _, b in pairs], by, (grid, grid))
    return Shift(ablation, tier, track, grid, tuple(moved), found)
