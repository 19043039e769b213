"""The tables: verdicts, then for each tier correlations and use."""

from __future__ import annotations

from collections.abc import Sequence

from circuitbench.evaluation.metrics import metric
from circuitbench.evaluation.prediction import Spread
from circuitbench_leaderboard.tables.cells import (
    Column,
    Field,
    Row,
    Table,
    count,
    plain,
    spanned,
    worded,
)
from circuitbench_leaderboard.truth_free.forecast import Report, TierForecast
from circuitbench_leaderboard.truth_free.words import TRUSTED, VERDICTS, interval, verdict

_NUMBER = Column("metric", "Number", "Without any truth; turned so that higher is better.")


def tables(found: Report) -> list[Table]:
    """All tables, heads first: the verdicts, then per tier correlations, and use."""
    made = [
        verdicts(tiers, truth) for unit, tiers in found.by_unit.items() for truth in unit.judged
    ]
    for tier in found.tiers:
        made += [_correlations(tier), _use(tier)]
    return made


def verdicts(tiers: Sequence[TierForecast], truth: str) -> Table:
    """Every proxy on every tier of a unit against one truth, what to trust first."""
    unit = tiers[0].answers.unit
    names = [tier.answers.tier for tier in tiers]
    by_tier = [{f.proxy.key: f for f in tier.forecasts} for tier in tiers]
    order = list(VERDICTS)
    rows = []
    for proxy in unit.proxies():
        cells = [forecasts.get(proxy.key) for forecasts in by_tier]
        if any(cells):
            said = verdict(tiers, proxy.key, truth)
            fields = [_field(None if cell is None else cell.places[truth]) for cell in cells]
            lowest = min(f.raw if isinstance(f.raw, float) else 2.0 for f in fields)
            line = Row((worded(proxy.title), *fields, worded(VERDICTS[said])), ())
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
    title = f"What to trust, choosing between {unit.judged[truth]} ({metric(truth).title})"
    return Table(f"verdicts-{truth}", title, note, columns, tuple(row for *_, row in rows))


def _correlations(tier: TierForecast) -> Table:
    unit, grid = tier.answers.unit, tier.answers.grid
    truths = [key for key in unit.truths if any(f.places[key] for f in tier.forecasts)]
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
        for key in unit.judged
    ]
    columns.append(Column("share", "Runs that have it", numeric=True))
    rows = [
        Row(
            (
                worded(f.proxy.title),
                *(_field(s[key]) for key in truths for s in (f.places, f.methods, f.everywhere)),
                *(_field(f.serious[key]) for key in unit.judged),
                _percent(f.share),
            ),
            (),
        )
        for f in tier.forecasts
    ]
    note = (
        f"{count(len(tier.answers.entries), 'method')} of all tracks on "
        f"{count(len(grid.tasks), 'task')} x {count(len(grid.seeds), 'seed')}. "
        "One task: over methods within a task and seed, mean. Methods: over the methods' means. "
        "All runs: over methods x tasks x seeds at once: does a value mean the same elsewhere? "
        f"{' and '.join(metric(key).title for key in unit.degrees)} where the truth has degrees. "
        "Controls look at nothing and are easy to see through."
    )
    key, title = f"correlations-{_key(tier)}", f"Tier {tier.answers.name}: correlations"
    return Table(key, title, note, tuple(columns), tuple(rows))


def _use(tier: TierForecast) -> Table:
    unit = tier.answers.unit
    ranking = metric(unit.ranking).title
    columns = (
        _NUMBER,
        *(
            Column(f"chosen_{k}", f"{metric(k).title} if chosen by it", numeric=True)
            for k in unit.judged
        ),
        Column("apart", "Pairs told apart", numeric=True),
        Column("same", f"As {ranking} tells them", numeric=True),
        Column("opposite", "The other way", numeric=True),
        Column("reliability", "Reliability", numeric=True),
        Column("reseed", "Reseed noise", numeric=True),
        Column("between", "Between methods", numeric=True),
    )
    rows = [
        Row(
            (
                worded(f.proxy.title),
                *(_field(f.chosen[key]) for key in unit.judged),
                *map(_percent, (f.apart, f.same, f.opposite)),
                plain(f.reliability, 2),
                plain(f.reseed, 3),
                plain(f.between, 3),
            ),
            (),
        )
        for f in (*tier.truths, *tier.forecasts)
    ]
    note = (
        "If chosen by it: of the method it prefers on each task and seed; "
        + "; ".join(
            f"{metric(key).title} of the best answer is {interval(tier.best[key])}, of one at "
            f"random {interval(tier.chance[key])}"
            for key in unit.judged
        )
        + ". Pairs of methods are told apart "
        "where the 95 % interval of their mean difference does not hold 0; the next two are shares "
        f"of the pairs that {ranking} tells apart. Reseed noise: standard deviation of one run "
        "over seeds, without what a seed does to all methods alike; reliability is the methods' "
        "share of the variance of one run. What needs the truth stands first."
    )
    title = f"Tier {tier.answers.name}: noise and power"
    return Table(f"use-{_key(tier)}", title, note, columns, tuple(rows))


def _key(tier: TierForecast) -> str:
    return tier.answers.name.replace(", ", "-")


def _field(spread: Spread | None) -> Field:
    return Field("–", None) if spread is None else spanned(*spread, 2)


def _percent(share: float | None) -> Field:
    return Field("–", None) if share is None else Field(f"{share:.0%}", share)
