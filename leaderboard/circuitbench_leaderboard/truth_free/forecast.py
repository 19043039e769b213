"""How well each number that needs no truth predicts the truth, tier by tier.

Correlations of what one can measure anywhere with what only the truth can tell, how noisy each
number is, how many methods it tells apart, and what choosing by it would earn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from circuitbench.core.errors import InvalidSpec
from circuitbench.evaluation.metrics import metric
from circuitbench.evaluation.prediction import (
    Spread,
    chosen_by,
    mean_over_runs,
    noise,
    over_everything,
    over_methods,
    told_apart,
    within_places,
)
from circuitbench.results.run_row import RunRow
from circuitbench_leaderboard.entries import Entry, Grid, gather, widest_grid
from circuitbench_leaderboard.groups import tier_of, tiers_in_order
from circuitbench_leaderboard.sources import (
    ablation_of,
    choose_source,
    main_ablation,
    source_of,
)
from circuitbench_leaderboard.standing import plantings, resamples, value_of
from circuitbench_leaderboard.truth_free.proxies import HEADS, UNITS, Proxy, Read, Unit

CONTROLS = "Control"
"""The family of methods that look at nothing: they make any prediction look easy."""

LEAST_METHODS = 4
"""On a tier; three can be ordered in six ways, so a correlation over them is mostly luck."""


@dataclass(frozen=True)
class Answers:
    """What the methods of one tier answered on the runs that all of them finished.

    Args:
        unit: heads or edges.
        tier: its name.
        entries: the methods in their settings, all tracks.
        grid: tasks x seeds.
    """

    unit: Unit
    tier: str
    entries: tuple[Entry, ...]
    grid: Grid

    @property
    def name(self) -> str:
        """For humans: the tier, and ``, edges`` where it is about these."""
        return self.tier if self.unit == HEADS else f"{self.tier}, {self.unit.name}"

    def numbers(self, of: Read) -> np.ndarray:
        """A number of each method's runs, ``[methods, tasks, seeds]``, NaN where it has none."""
        shape = (len(self.entries), len(self.grid.tasks), len(self.grid.seeds))
        found = np.full(shape, np.nan)
        for e, entry in enumerate(self.entries):
            for t, task in enumerate(self.grid.tasks):
                for s, seed in enumerate(self.grid.seeds):
                    value = of(entry.finished[task][seed])
                    found[e, t, s] = np.nan if value is None else value
        return found

    @cached_property
    def weights(self) -> np.ndarray:
        """Resamples of what was drawn, ``[runs, repetitions]``; none of a single run."""
        if self.grid.size < 2:
            return np.empty((self.grid.size, 0))
        return resamples(plantings(self.entries, self.grid))

    @cached_property
    def serious(self) -> np.ndarray:
        """Which methods are no controls, ``[methods]``."""
        return np.array([entry.family != CONTROLS for entry in self.entries])


@dataclass(frozen=True)
class Forecast:
    """How well one proxy predicts on one tier.

    Args:
        proxy: which.
        share: of the runs that have it (an empty circuit has no completeness, say).
        methods, places, everywhere: by the key of a truth, Spearman's correlation over methods,
            over methods on one run, and over methods x runs.
        serious: that on one run, controls left out.
        chosen: by the key of a truth, its mean over the methods that the proxy prefers.
        reseed, between, reliability: see :class:`circuitbench.evaluation.prediction.Noise`.
        apart: share of the pairs of methods it tells apart.
        same, opposite: of the pairs that the truth of rankings tells apart, the share that it
            tells apart the same way, and the other way.
    """

    proxy: Proxy
    share: float
    methods: dict[str, Spread | None]
    places: dict[str, Spread | None]
    everywhere: dict[str, Spread | None]
    serious: dict[str, Spread | None]
    chosen: dict[str, Spread | None]
    reseed: float | None
    between: float | None
    reliability: float | None
    apart: float | None
    same: float | None
    opposite: float | None


@dataclass(frozen=True)
class TierForecast:
    """All proxies of heads, or of edges, on one tier, the best first.

    Args:
        answers: what they stand on.
        forecasts: of each proxy that any run has.
        truths: of the truths themselves: how noisy, how many told apart.
        best, chance: by the key of a truth, its mean over the best method on each run, and over
            one at random.
    """

    answers: Answers
    forecasts: tuple[Forecast, ...]
    truths: tuple[Forecast, ...]
    best: dict[str, Spread | None]
    chance: dict[str, Spread | None]


@dataclass(frozen=True)
class Report:
    """Everything the page says. ``source`` is the version and commit that the runs are of."""

    source: str
    ablation: str
    tiers: tuple[TierForecast, ...]

    @property
    def by_unit(self) -> dict[Unit, tuple[TierForecast, ...]]:
        """The tiers of heads and those of edges, where there are any."""
        found = {
            unit: tuple(tier for tier in self.tiers if tier.answers.unit == unit) for unit in UNITS
        }
        return {unit: tiers for unit, tiers in found.items() if tiers}


def report(runs: Sequence[RunRow], commit: str | None = None) -> Report:
    """What the records say of the numbers that need no truth.

    Runs of one version and commit, as on the board, under the ablation that most of them have.

    Raises:
        InvalidSpec: no tier has :data:`LEAST_METHODS` methods that finished the same runs.
    """
    ours = [run for run in runs if not run.external and run.status == "done" and not run.truthless]
    source = choose_source(ours, commit)
    ours = [run for run in ours if source in ("", source_of(run))]
    ablation = main_ablation(ours)
    ours = [run for run in ours if ablation_of(run) == ablation]
    by_tier: dict[str, list[RunRow]] = {}
    for run in ours:
        by_tier.setdefault(tier_of(run), []).append(run)
    found = []
    for unit in UNITS:
        for tier in tiers_in_order(by_tier):
            answers = _answers(unit, tier, by_tier[tier])
            if answers is not None:
                found.append(forecast(answers))
    if not found:
        raise InvalidSpec(
            f"no tier has {LEAST_METHODS} methods that finished the same runs of known circuits; "
            "make some with 'circuitbench sweep --tier easy --methods random,acdc,relp,atp-star'"
        )
    return Report(source, ablation, tuple(found))


def _answers(unit: Unit, tier: str, runs: Sequence[RunRow]) -> Answers | None:
    read = value_of(metric(unit.ranking))
    entries = [entry for entry in gather(runs) if entry.values(read)]
    values = [entry.values(read) for entry in entries]
    grid = widest_grid(values)
    complete = [e for e, v in zip(entries, values, strict=True) if grid.covered(v) == grid.size]
    if len(complete) < LEAST_METHODS or not grid.size:
        return None
    return Answers(unit, tier, tuple(complete), grid)


def forecast(answers: Answers) -> TierForecast:
    """Every proxy against every truth on one tier."""
    unit = answers.unit
    truths = {key: answers.numbers(value_of(metric(key))) for key in unit.truths}
    flat = {key: values.reshape(len(values), -1) for key, values in truths.items()}
    by_truth = told_apart(flat[unit.ranking], answers.weights)

    def of(proxy: Proxy, values: np.ndarray) -> Forecast:
        ours = values.reshape(len(values), -1)
        weights, serious = answers.weights, answers.serious
        spread = noise(values)
        sides = told_apart(ours, weights)
        decided = by_truth != 0
        return Forecast(
            proxy,
            float(np.isfinite(values).mean()),
            {key: over_methods(ours, flat[key], weights) for key in unit.truths},
            {key: within_places(ours, flat[key], weights) for key in unit.truths},
            {key: over_everything(ours, flat[key], weights) for key in unit.truths},
            {key: within_places(ours[serious], flat[key][serious], weights) for key in unit.judged},
            {key: chosen_by(ours, flat[key], weights) for key in unit.judged},
            None if spread is None else spread.reseed,
            None if spread is None else spread.between,
            None if spread is None else spread.reliability,
            float((sides != 0).mean()) if weights.size else None,
            float((sides == by_truth)[decided].mean()) if decided.any() else None,
            float((sides == -by_truth)[decided].mean()) if decided.any() else None,
        )

    measured = [(proxy, answers.numbers(proxy.read)) for proxy in unit.proxies()]
    found = [of(proxy, values) for proxy, values in measured if np.isfinite(values).any()]
    found.sort(key=lambda f: 2.0 if (main := f.places[unit.ranking]) is None else -main.value)
    known = [
        of(Proxy(key, metric(key).title, metric(key).about, value_of(metric(key))), values)
        for key, values in truths.items()
        if np.isfinite(values).any()
    ]
    best = {key: mean_over_runs(flat[key].max(axis=0), answers.weights) for key in unit.judged}
    chance = {key: mean_over_runs(flat[key].mean(axis=0), answers.weights) for key in unit.judged}
    return TierForecast(answers, tuple(found), tuple(known), best, chance)
