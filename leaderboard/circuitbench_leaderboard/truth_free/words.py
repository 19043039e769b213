"""What to trust, in plain words made from the figures."""

from __future__ import annotations

from collections.abc import Sequence

from circuitbench.evaluation.metrics import metric
from circuitbench.evaluation.prediction import Spread
from circuitbench_leaderboard.truth_free.forecast import Report, TierForecast
from circuitbench_leaderboard.truth_free.proxies import HEADS

TRUSTED, HINT = 0.5, 0.0
"""Where the lower end of every tier's interval is above the first, a number may be trusted to
choose between circuits; above the second it is a hint."""

VERDICTS = {
    "trust": "trust it",
    "hint": "a hint",
    "no": "do not choose by it",
    "misleading": "misleading somewhere",
}


def verdict(tiers: Sequence[TierForecast], key: str, truth: str) -> str:
    """What a proxy is good for on all of these tiers, a key of :data:`VERDICTS`.

    By its correlation with a truth between the answers to one task: the lower ends of the intervals
    on every tier are above :data:`TRUSTED`, above :data:`HINT`; or on some tier the upper end is
    below 0.
    """
    spreads = [f.places[truth] for tier in tiers for f in tier.forecasts if f.proxy.key == key]
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
    """What to trust, heads first."""
    said = []
    for unit, tiers in found.by_unit.items():
        said += [_verdict_line(tiers, truth) for truth in unit.judged]
        said += [line for tier in tiers for line in _of_tier(tier)]
    return said


def _verdict_line(tiers: Sequence[TierForecast], truth: str) -> str:
    unit = tiers[0].answers.unit
    titles = {f.proxy.key: f.proxy.title for tier in tiers for f in tier.forecasts}
    order = [p.key for p in unit.proxies() if p.key in titles]
    by = {v: [titles[k] for k in order if verdict(tiers, k, truth) == v] for v in VERDICTS}
    where = f"tier {tiers[0].answers.tier}"
    if len(tiers) > 1:
        where = f"each of the {len(tiers)} tiers"
    name, things = metric(truth).title, unit.judged[truth]
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
    return said


def _of_tier(tier: TierForecast) -> list[str]:
    unit = tier.answers.unit
    on = f"On {tier.answers.tier}" if unit == HEADS else f"Over {unit.name} on {tier.answers.tier}"
    lines = []
    for truth in unit.judged:
        title = metric(truth).title
        usable = [(s.value, f) for f in tier.forecasts if (s := f.places[truth]) is not None]
        if not usable:
            lines.append(f"{on} {title} does not differ between methods.")
            continue
        first = max(usable, key=lambda pair: pair[0])[1]
        line = f"{on}, {first.proxy.title} goes with {title} best: {interval(first.places[truth])}"
        line += f" between the answers to one task, {interval(first.methods[truth])} over methods."
        earned = [(s.value, f) for f in tier.forecasts if (s := f.chosen[truth]) is not None]
        if earned:
            top = max(earned, key=lambda pair: pair[0])[1]
            line += (
                f" Who takes on each task the answer with the best {top.proxy.title} gets {title} "
                f"{interval(top.chosen[truth])}; the best answer has {interval(tier.best[truth])}, "
                f"one at random {interval(tier.chance[truth])}."
            )
        lines.append(line)
    known = [f for f in tier.forecasts if f.reliability is not None]
    noisy = [f.proxy.title for f in known if (f.reliability or 0.0) < 0.5]
    if noisy:
        lines.append(f"{on} one run says more of its seed than of the method by {_listed(noisy)}.")
    wrong = max(tier.forecasts, key=lambda f: f.opposite or 0.0)
    if wrong.opposite:
        lines.append(
            f"{on} {wrong.proxy.title} is most often surely wrong: of the pairs of methods that "
            f"{metric(unit.ranking).title} tells apart, it tells {wrong.opposite:.0%} apart the "
            f"other way, {wrong.same or 0:.0%} the right way."
        )
    return lines


def interval(spread: Spread | None) -> str:
    """An estimate with its interval."""
    if spread is None:
        return "nothing"
    if spread.interval is None:
        return f"{spread.value:.2f}"
    low, high = spread.interval
    return f"{spread.value:.2f} ({low:.2f} to {high:.2f})"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{'; '.join(words[:-1])} and {words[-1]}"
