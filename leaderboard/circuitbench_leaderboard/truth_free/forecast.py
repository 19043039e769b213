"""Do the numbers that need no truth predict those that do? From records to tables and words.

Only a suite whose truth is known can say. Tier by tier: correlations of what one can measure
anywhere with what only the truth can tell, how noisy each number is, how many methods it tells
apart, and what choosing by it would earn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from circuitbench.core.errors import InvalidSpec
from circuitbench.evaluation.metrics import DEFAULT, Metric, metric
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
from circuitbench.evaluation.without_truth import MEASURED_ABLATIONS
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
from circuitbench_leaderboard.tables.cells import Column, Field, Row, Table, count

TRUTHS = (DEFAULT, "f1", "ndcg", "weighted_recall")
"""What is to be predicted: the ranking, the committed set, and both of them by degrees."""

JUDGED = {DEFAULT: "rankings of heads", "f1": "sets of heads"}
"""The truths that verdicts rest on, and what one chooses between by them."""

CONTROLS = "Control"
"""The family of methods that look at nothing: they make any prediction look easy."""

LEAST_METHODS = 4
"""On a tier; three can be ordered in six ways, so a correlation over them is mostly luck."""

TRUSTED, HINT = 0.5, 0.0
"""Where the lower end of every tier's interval is above the first, a number may be trusted to
choose between circuits; above the second it is a hint."""


@dataclass(frozen=True)
class Proxy:
    """A number that needs no truth, as a prediction: ``read`` turned so that higher is better."""

    key: str
    title: str
    about: str
    read: Callable[[RunRow], float | None]


def _towards_one(key: str) -> Callable[[RunRow], float | None]:
    def read(run: RunRow) -> float | None:
        value = run.values.get(key)
        return None if value is None else -abs(1 - value)

    return read


def _signed(found: Metric) -> Callable[[RunRow], float | None]:
    sign = -1 if found.better == "lower" else 1

    def read(run: RunRow) -> float | None:
        value = run.values.get(found.key)
        return None if value is None else sign * value

    return read


def proxies() -> tuple[Proxy, ...]:
    """All of them, in the order of the tables.

    Faithfulness counts by its distance from 1; CPR and what is better when higher as it is; CMD and
    incompleteness turned round.
    """
    found = []
    for ablation in MEASURED_ABLATIONS:
        key = f"faithfulness_{ablation}"
        found.append(
            Proxy(
                key,
                f"Faithfulness, {ablation}",
                f"How near the committed heads alone come to the model under {ablation} ablation.",
                _towards_one(key),
            )
        )
    for area in ("cpr", "cmd"):
        for ablation in MEASURED_ABLATIONS:
            own = metric(f"{area}_{ablation}")
            found.append(Proxy(own.key, f"{area.upper()}, {ablation}", own.about, _signed(own)))
    for key, title in (
        ("completeness", "Completeness"),
        ("minimality", "Minimality"),
        ("test_equivalence", "Test: equivalence"),
        ("test_independence", "Test: independence"),
        ("test_minimality", "Test: minimality"),
        ("test_sufficiency", "Test: sufficiency"),
        ("test_necessity", "Test: partial necessity"),
    ):
        own = metric(key)
        found.append(Proxy(key, title, own.about, _signed(own)))
    return tuple(found)


@dataclass(frozen=True)
class Answers:
    """What the methods of one tier answered on the runs that all of them finished.

    Args:
        tier: its name.
        entries: the methods in their settings, all tracks.
        grid: tasks x seeds.
    """

    tier: str
    entries: tuple[Entry, ...]
    grid: Grid

    def numbers(self, of: Callable[[RunRow], float | None]) -> np.ndarray:
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
        same, opposite: of the pairs that average precision tells apart, the share that it tells
            apart the same way, and the other way.
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
    """All proxies on one tier, the best first.

    Args:
        answers: what they stand on.
        forecasts: of each proxy that any run has.
        truths: of average precision and its likes themselves: how noisy, how many told apart.
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
    found = []
    for tier in tiers_in_order(tier_of(run) for run in ours):
        answers = _answers(tier, [run for run in ours if tier_of(run) == tier])
        if answers is not None:
            found.append(forecast(answers))
    if not found:
        raise InvalidSpec(
            f"no tier has {LEAST_METHODS} methods that finished the same runs of known circuits; "
            "make some with 'circuitbench sweep --tier easy --methods random,acdc,relp,atp-star'"
        )
    return Report(source, ablation, tuple(found))


def _answers(tier: str, runs: Sequence[RunRow]) -> Answers | None:
    entries = gather(runs)
    values = [entry.values(value_of(metric(DEFAULT))) for entry in entries]
    grid = widest_grid(values)
    complete = [e for e, v in zip(entries, values, strict=True) if grid.covered(v) == grid.size]
    if len(complete) < LEAST_METHODS or not grid.size:
        return None
    return Answers(tier, tuple(complete), grid)


def forecast(answers: Answers) -> TierForecast:
    """Every proxy against every truth on one tier."""
    truths = {key: answers.numbers(value_of(metric(key))) for key in TRUTHS}
    flat = {key: values.reshape(len(values), -1) for key, values in truths.items()}
    by_truth = told_apart(flat[DEFAULT], answers.weights)

    def of(proxy: Proxy, values: np.ndarray) -> Forecast:
        ours = values.reshape(len(values), -1)
        weights, serious = answers.weights, answers.serious
        spread = noise(values)
        sides = told_apart(ours, weights)
        decided = by_truth != 0
        return Forecast(
            proxy,
            float(np.isfinite(values).mean()),
            {key: over_methods(ours, flat[key], weights) for key in TRUTHS},
            {key: within_places(ours, flat[key], weights) for key in TRUTHS},
            {key: over_everything(ours, flat[key], weights) for key in TRUTHS},
            {key: within_places(ours[serious], flat[key][serious], weights) for key in JUDGED},
            {key: chosen_by(ours, flat[key], weights) for key in JUDGED},
            None if spread is None else spread.reseed,
            None if spread is None else spread.between,
            None if spread is None else spread.reliability,
            float((sides != 0).mean()) if weights.size else None,
            float((sides == by_truth)[decided].mean()) if decided.any() else None,
            float((sides == -by_truth)[decided].mean()) if decided.any() else None,
        )

    measured = [(proxy, answers.numbers(proxy.read)) for proxy in proxies()]
    found = [of(proxy, values) for proxy, values in measured if np.isfinite(values).any()]
    found.sort(key=lambda f: 2.0 if (main := f.places[DEFAULT]) is None else -main.value)
    known = [
        of(Proxy(key, metric(key).title, metric(key).about, value_of(metric(key))), values)
        for key, values in truths.items()
        if np.isfinite(values).any()
    ]
    best = {key: mean_over_runs(flat[key].max(axis=0), answers.weights) for key in JUDGED}
    chance = {key: mean_over_runs(flat[key].mean(axis=0), answers.weights) for key in JUDGED}
    return TierForecast(answers, tuple(found), tuple(known), best, chance)


# -- words ---------------------------------------------------------------------------------------


VERDICTS = {
    "trust": "trust it",
    "hint": "a hint",
    "no": "do not choose by it",
    "misleading": "misleading somewhere",
}


def verdict(found: Report, key: str, truth: str = DEFAULT) -> str:
    """What a proxy is good for over all tiers, a key of :data:`VERDICTS`.

    By its correlation with a truth between the answers to one task: the lower ends of the intervals
    on every tier are above :data:`TRUSTED`, above :data:`HINT`; or on some tier the upper end is
    below 0.
    """
    spreads = [
        f.places[truth] for tier in found.tiers for f in tier.forecasts if f.proxy.key == key
    ]
    known = [spread for spread in spreads if spread is not None]
    if not known:
        return "no"
    lows = [s.value if s.interval is None else s.interval[0] for s in known]
    highs = [s.value if s.interval is None else s.interval[1] for s in known]
    if min(highs) < 0:
        return "misleading"
    if min(lows) > TRUSTED:
        return "trust"
    return "hint" if min(lows) > HINT else "no"


def sentences(found: Report) -> list[str]:
    """What to trust, in plain words made from the figures."""
    said = [line for truth in JUDGED for line in _verdict_lines(found, truth)]
    return said + [line for tier in found.tiers for line in _of_tier(tier)]


def _verdict_lines(found: Report, truth: str) -> list[str]:
    titles = {f.proxy.key: f.proxy.title for tier in found.tiers for f in tier.forecasts}
    order = [p.key for p in proxies() if p.key in titles]
    by = {v: [titles[k] for k in order if verdict(found, k, truth) == v] for v in VERDICTS}
    where = "this tier" if len(found.tiers) == 1 else f"each of the {len(found.tiers)} tiers"
    name, things = metric(truth).title, JUDGED[truth]
    if by["trust"]:
        said = (
            f"To choose between {things} ({name}) without the truth, trust {_listed(by['trust'])}: "
            f"on {where} the correlation is above {TRUSTED} with 95 % confidence."
        )
    else:
        said = (
            f"To choose between {things} ({name}) without the truth, trust no single number: none "
            f"has a correlation above {TRUSTED} with 95 % confidence on {where}."
        )
    if by["hint"]:
        said += f" A hint, above 0 on {where}: {_listed(by['hint'])}."
    if by["no"]:
        said += f" Somewhere no better than chance: {_listed(by['no'])}."
    if by["misleading"]:
        said += f" Misleading, below 0 on some tier: {_listed(by['misleading'])}."
    return [said]


def _of_tier(tier: TierForecast) -> list[str]:
    name, lines = tier.answers.tier, []
    for truth in JUDGED:
        title = metric(truth).title
        usable = [(s.value, f) for f in tier.forecasts if (s := f.places[truth]) is not None]
        if not usable:
            lines.append(f"On {name} {title} does not differ between methods.")
            continue
        first = max(usable, key=lambda pair: pair[0])[1]
        line = (
            f"On {name}, {first.proxy.title} goes with {title} best: {_said(first.places[truth])}"
        )
        line += f" between the answers to one task, {_said(first.methods[truth])} over methods."
        earned = [(s.value, f) for f in tier.forecasts if (s := f.chosen[truth]) is not None]
        if earned:
            top = max(earned, key=lambda pair: pair[0])[1]
            line += (
                f" Who takes on each task the answer with the best {top.proxy.title} gets {title} "
                f"{_said(top.chosen[truth])}; the best answer has {_said(tier.best[truth])}, "
                f"one at random {_said(tier.chance[truth])}."
            )
        lines.append(line)
    known = [f for f in tier.forecasts if f.reliability is not None]
    noisy = [f.proxy.title for f in known if (f.reliability or 0.0) < 0.5]
    if noisy:
        lines.append(
            f"On {name} one run says more of its seed than of the method by {_listed(noisy)}."
        )
    wrong = max(tier.forecasts, key=lambda f: f.opposite or 0.0)
    if wrong.opposite:
        lines.append(
            f"On {name} {wrong.proxy.title} is most often surely wrong: of the pairs of methods "
            f"that AP tells apart, it tells {wrong.opposite:.0%} apart the other way, "
            f"{wrong.same or 0:.0%} the right way."
        )
    return lines


def _said(spread: Spread | None) -> str:
    if spread is None:
        return "nothing"
    if spread.interval is None:
        return f"{spread.value:.2f}"
    low, high = spread.interval
    return f"{spread.value:.2f} ({low:.2f} to {high:.2f})"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{'; '.join(words[:-1])} and {words[-1]}"


# -- tables --------------------------------------------------------------------------------------

_NUMBER = Column("metric", "Number", "Without any truth; turned so that higher is better.")


def tables(found: Report) -> list[Table]:
    """All tables: the verdicts, then per tier correlations, and use."""
    made = [verdicts(found, truth) for truth in JUDGED]
    for tier in found.tiers:
        made += [_correlations(tier), _use(tier)]
    return made


def verdicts(found: Report, truth: str) -> Table:
    """Every proxy on every tier against one truth, what to trust first."""
    names = [tier.answers.tier for tier in found.tiers]
    by_tier = [{f.proxy.key: f for f in tier.forecasts} for tier in found.tiers]
    order = list(VERDICTS)
    rows = []
    for proxy in proxies():
        cells = [forecasts.get(proxy.key) for forecasts in by_tier]
        if any(cells):
            said = verdict(found, proxy.key, truth)
            fields = [_field(None if cell is None else cell.places[truth]) for cell in cells]
            lowest = min(f.raw if isinstance(f.raw, float) else 2.0 for f in fields)
            line = Row((_words(proxy.title), *fields, _words(VERDICTS[said])), ())
            rows.append((order.index(said), -lowest, line))
    rows.sort(key=lambda row: row[:2])
    columns = (
        _NUMBER,
        *(Column(f"rho_{name}", name.capitalize(), numeric=True) for name in names),
        Column("verdict", "To choose by it"),
    )
    note = (
        f"Spearman's correlation with {metric(truth).title} over the methods' answers to one task "
        "on one planting, mean over tasks and seeds, with 95 % intervals over plantings, tasks and "
        f"prompts. {VERDICTS['trust'].capitalize()}: above {TRUSTED} with that confidence on every "
        "tier; a hint: above 0. A number that is the same for all answers counts as 0."
    )
    title = f"What to trust, choosing between {JUDGED[truth]} ({metric(truth).title})"
    return Table(f"verdicts-{truth}", title, note, columns, tuple(row for *_, row in rows))


def _correlations(tier: TierForecast) -> Table:
    truths = [key for key in TRUTHS if any(f.places[key] for f in tier.forecasts)]
    columns = [_NUMBER]
    for key in truths:
        title = metric(key).title
        columns += [
            Column(f"{key}_places", f"{title}: one task", numeric=True),
            Column(f"{key}_methods", f"{title}: methods", numeric=True),
            Column(f"{key}_everywhere", f"{title}: all runs", numeric=True),
        ]
    columns += [
        Column(f"{key}_serious", f"{metric(key).title}: one task, no controls", numeric=True)
        for key in JUDGED
    ]
    columns.append(Column("share", "Runs that have it", numeric=True))
    rows = [
        Row(
            (
                _words(f.proxy.title),
                *(_field(s[key]) for key in truths for s in (f.places, f.methods, f.everywhere)),
                *(_field(f.serious[key]) for key in JUDGED),
                _percent(f.share),
            ),
            (),
        )
        for f in tier.forecasts
    ]
    grid = tier.answers.grid
    note = (
        f"{count(len(tier.answers.entries), 'method')} of all tracks on "
        f"{count(len(grid.tasks), 'task')} x {count(len(grid.seeds), 'seed')}. "
        "One task: over methods within a task and seed, mean. Methods: over the methods' means. "
        "All runs: over methods x tasks x seeds at once: does a value mean the same elsewhere? "
        "nDCG and weighted recall where the truth has degrees. Controls look at "
        "nothing and are easy to see through."
    )
    name = tier.answers.tier
    return Table(
        f"correlations-{name}", f"Tier {name}: correlations", note, tuple(columns), tuple(rows)
    )


def _use(tier: TierForecast) -> Table:
    columns = (
        _NUMBER,
        *(
            Column(f"chosen_{k}", f"{metric(k).title} if chosen by it", numeric=True)
            for k in JUDGED
        ),
        Column("apart", "Pairs told apart", numeric=True),
        Column("same", "As AP tells them", numeric=True),
        Column("opposite", "The other way", numeric=True),
        Column("reliability", "Reliability", numeric=True),
        Column("reseed", "Reseed noise", numeric=True),
        Column("between", "Between methods", numeric=True),
    )
    rows = [
        Row(
            (
                _words(f.proxy.title),
                *(_field(f.chosen[key]) for key in JUDGED),
                *map(_percent, (f.apart, f.same, f.opposite)),
                _plain(f.reliability),
                _plain(f.reseed, 3),
                _plain(f.between, 3),
            ),
            (),
        )
        for f in (*tier.truths, *tier.forecasts)
    ]
    note = (
        "If chosen by it: of the method it prefers on each task and seed; "
        + "; ".join(
            f"{metric(key).title} of the best answer is {_said(tier.best[key])}, of one at random "
            f"{_said(tier.chance[key])}"
            for key in JUDGED
        )
        + ". Pairs of methods are told apart "
        "where the 95 % interval of their mean difference does not hold 0; the next two are shares "
        "of the pairs that AP tells apart. Reseed noise: standard deviation of one run over seeds, "
        "without what a seed does to all methods alike; reliability is the methods' share of the "
        "variance of one run. What needs the truth stands first."
    )
    name = tier.answers.tier
    return Table(f"use-{name}", f"Tier {name}: noise and power", note, columns, tuple(rows))


def _words(text: str) -> Field:
    return Field(text, text)


def _field(spread: Spread | None) -> Field:
    if spread is None:
        return Field("–", None)
    text = f"{spread.value:.2f}"
    if spread.interval is not None:
        text += " ({:.2f}–{:.2f})".format(*spread.interval)
    return Field(text, spread.value, spread.interval)


def _percent(share: float | None) -> Field:
    return Field("–", None) if share is None else Field(f"{share:.0%}", share)


def _plain(value: float | None, digits: int = 2) -> Field:
    return Field("–", None) if value is None else Field(f"{value:.{digits}f}", value)
