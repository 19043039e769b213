"""The one registry of numbers that a run can be judged by, ours and third parties'.

A metric is computed when a record is read, never stored in it, so a new one has a value for
every old record. Tables, page, ``compare``, ties and best marks follow its direction.

A third party registers a :class:`Metric` under the entry-point group ``circuitbench.metrics``;
two of one key are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Literal, get_args

from circuitbench.core.errors import (
    CircuitBenchError,
    InvalidPlugin,
    InvalidSpec,
    RunFailed,
    UnknownName,
)
from circuitbench.evaluation.against_truth import ranking
from circuitbench.evaluation.against_truth.ranking import TiedRanking
from circuitbench.evaluation.against_truth.selection import Overlap
from circuitbench.evaluation.outcome import EXAMPLE, Outcome
from circuitbench.evaluation.without_truth import MEASURED_ABLATIONS

Better = Literal["higher", "lower", "neither"]
Kind = Literal["quality", "edges", "function", "cost"]
Need = Literal["truth", "edges", "measurements"]
Value = Callable[[Outcome], float | None]

GROUP = "circuitbench.metrics"
BUILT_IN = "circuitbench"
# What a misspelt name in a metric raises; anything else may be the example's fault.
_REFERS_TO_NOTHING = (LookupError, AttributeError, NameError, TypeError, UnknownName)


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
            RunFailed: ``compute`` gave something else than a finite number or None.
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
        return float(value)


def metrics() -> Mapping[str, Metric]:
    """All metrics by key: ours in the order of the tables, then third parties'.

    Raises:
        InvalidPlugin: two metrics have one key; one cannot be imported, is no :class:`Metric`,
            or refers to something that no run has.
    """
    return _load()


def metric(key: str) -> Metric:
    """The metric of this key; raises :class:`UnknownName` naming the nearest."""
    found = metrics().get(key)
    if found is None:
        raise UnknownName("metric", key, metrics())
    return found


def ranking_metric(key: str) -> Metric:
    """The metric of this key, to rank by; raises :class:`InvalidSpec` if it has no direction."""
    found = metric(key)
    if found.better == "neither":
        able = ", ".join(m.key for m in metrics().values() if m.better != "neither")
        raise InvalidSpec(f"neither higher nor lower {key} is better; to rank by: {able}")
    return found


def of_kind(kind: Kind) -> tuple[Metric, ...]:
    """The metrics of one kind, in order."""
    return tuple(m for m in metrics().values() if m.kind == kind)


def values_of(outcome: Outcome) -> tuple[dict[str, float], dict[str, str]]:
    """Every metric that exists for one run, by key; and why those that raised have no value."""
    values: dict[str, float] = {}
    errors: dict[str, str] = {}
    for key, found in metrics().items():
        try:
            value = found.of(outcome)
        except Exception as error:  # a third party's metric may raise anything
            errors[key] = " ".join(f"{type(error).__name__}: {error}".split())
            continue
        if value is not None:
            values[key] = value
    return values, errors


def curves_of(outcome: Outcome) -> dict[str, list[tuple[int, float]]]:
    """By the key of each metric of rankings, its curve over queries, ``(q, value)``.

    Where a metric has no value for a ranking, or raises, it has no curve.
    """
    curves = {}
    for key, found in metrics().items():
        if found.on_ranking is None:
            continue
        try:
            points = outcome.curve(found.on_ranking)
        except Exception:  # as above; values_of says so
            continue
        known = [(q, float(value)) for q, value in points if value is not None]
        if len(known) == len(points):
            curves[key] = known
    return curves


@cache
def _load() -> dict[str, Metric]:
    loaded: dict[str, Metric] = {}
    for found in (*_OURS, *map(_imported, entry_points(group=GROUP))):
        other = loaded.get(found.key)
        if other is not None:
            raise InvalidPlugin(
                f"metric {found.key!r} is registered twice: by {other.origin} and "
                f"{found.origin}; uninstall one"
            )
        loaded[found.key] = found
        _try(found)
    return loaded


def _imported(entry: EntryPoint) -> Metric:
    dist = entry.dist
    origin = f"{dist.name} {dist.version}" if dist is not None else "unknown distribution"
    try:
        loaded = entry.load()
    except Exception as error:  # anything a third party's import may raise
        raise InvalidPlugin(
            f"metric {entry.name!r} could not be imported from {entry.value} ({origin}): "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(loaded, Metric):
        raise InvalidPlugin(
            f"metric {entry.name!r}: {entry.value} ({origin}) is a {type(loaded).__name__}, "
            "not a circuitbench Metric"
        )
    return replace(loaded, origin=origin)


def _try(found: Metric) -> None:
    """Refuse a metric that refers to nothing: it would be an empty column of every table."""
    for compute in (found.of, found.chance):
        if compute is None:
            continue
        try:
            value = compute(EXAMPLE)
        except _REFERS_TO_NOTHING as error:
            detail = str(error) if isinstance(error, CircuitBenchError) else repr(error)
            raise InvalidPlugin(
                f"metric {found.key!r} ({found.origin}) refers to something no run has: {detail}"
            ) from error
        except Exception:
            continue
        if value is None and found.origin == BUILT_IN:
            raise InvalidPlugin(f"metric {found.key!r} has no value even for the example")


def _of_heads(
    key: str,
    title: str,
    about: str,
    measure: Callable[[TiedRanking], float | None],
    minor: bool = False,
) -> Metric:
    return Metric(
        key,
        title,
        lambda run: None if run.ranking is None else measure(run.ranking),
        about,
        needs=("truth",),
        chance=lambda run: None if run.ranking is None else measure(run.ranking.uninformed()),
        minor=minor,
        on_ranking=measure,
    )


def _of_edges(
    key: str, title: str, about: str, measure: Callable[[TiedRanking], float | None]
) -> Metric:
    return Metric(
        f"edge_{key}",
        title,
        lambda run: None if run.edge_ranking is None else measure(run.edge_ranking),
        about,
        kind="edges",
        needs=("edges",),
        chance=lambda run: (
            None if run.edge_ranking is None else measure(run.edge_ranking.uninformed())
        ),
    )


def _of_edge_set(
    key: str,
    title: str,
    about: str,
    measure: Callable[[Overlap], float | None],
    chance: Callable[[Overlap], float | None],
) -> Metric:
    rule = "of the committed edges; where none are committed, of the R best ranked"
    return Metric(
        f"edge_{key}",
        title,
        lambda run: None if run.edge_overlap is None else measure(run.edge_overlap),
        f"{about} {rule}, R being how many are true.",
        kind="edges",
        needs=("edges",),
        chance=lambda run: None if run.edge_overlap is None else chance(run.edge_overlap),
        minor=key in ("precision", "recall"),
    )


def _pessimistic(run: Outcome) -> float | None:
    ranked = run.edge_ranking
    if ranked is None or ranked.n_relevant == ranked.n_items:
        return None
    return ranking.pessimistic_auroc(ranked)


def _function_of_edges(ablation: str) -> tuple[Metric, ...]:
    """Faithfulness, CPR and CMD of circuits of edges under an ablation.

    MIB's areas, which are defined under resampling, stand in the tables; all else is minor.
    """
    needs: tuple[Need, ...] = ("measurements",)
    found = [
        Metric(
            f"edge_faithfulness_{ablation}",
            f"Edge faith. {ablation}",
            lambda run: run.measured("edges", "faithfulness", ablation, "value"),
            f"Share of the metric that the committed edges keep under {ablation} ablation.",
            kind="edges",
            better="neither",
            needs=needs,
            minor=True,
        )
    ]
    rules = (
        ("mib", "", "as MIB computes it"),
        ("mib_greedy", "_greedy", "as MIB computes it with the greedy option"),
        ("exact", "_exact", "exact: nothing pruned, from no edge to all"),
    )
    for rule, suffix, words in rules:
        for area, better in (("cpr", "neither"), ("cmd", "lower")):
            what = "faithfulness" if area == "cpr" else "the distance of faithfulness from 1"
            lower = "; lower is better" if area == "cmd" else ""
            found.append(
                Metric(
                    f"edge_{area}{suffix}_{ablation}",
                    f"Edge {area.upper()}{suffix.replace('_', ' ')} {ablation}",
                    partial(_area, rule=rule, ablation=ablation, area=area),
                    f"Area under {what} over numbers of edges, {ablation} ablation, "
                    f"{words}{lower}.",
                    kind="edges",
                    better="lower" if better == "lower" else "neither",
                    needs=needs,
                    minor=rule != "mib" or ablation != "resample",
                )
            )
    return tuple(found)


def _area(run: Outcome, rule: str, ablation: str, area: str) -> float | None:
    return run.measured("edges", rule, ablation, area)


def _auroc(ranked: TiedRanking) -> float | None:
    return ranking.auroc(ranked) if ranked.n_relevant < ranked.n_items else None


def _function(ablation: str) -> tuple[Metric, ...]:
    """Faithfulness, CPR and CMD under an ablation.

    Always together: CPR alone is unbounded and rewards overshooting.
    """
    needs: tuple[Need, ...] = ("measurements",)
    return (
        Metric(
            f"faithfulness_{ablation}",
            f"Faith. {ablation}",
            lambda run: run.measured("faithfulness", ablation, "value"),
            f"Share of the metric that the committed heads keep under {ablation} ablation.",
            kind="function",
            better="neither",
            needs=needs,
        ),
        Metric(
            f"cpr_{ablation}",
            f"CPR {ablation}",
            lambda run: run.measured("mib", ablation, "cpr"),
            f"Area under faithfulness over circuit sizes, {ablation} ablation (MIB).",
            kind="function",
            better="neither",
            needs=needs,
        ),
        Metric(
            f"cmd_{ablation}",
            f"CMD {ablation}",
            lambda run: run.measured("mib", ablation, "cmd"),
            f"Area between faithfulness and 1 over circuit sizes, {ablation} ablation; lower is "
            "better (MIB).",
            kind="function",
            better="lower",
            needs=needs,
        ),
    )


def _cost(
    key: str,
    title: str,
    compute: Value,
    about: str,
    unit: str = "",
    digits: int = 0,
    minor: bool = False,
) -> Metric:
    return Metric(
        key, title, compute, about, "cost", "lower", unit=unit, digits=digits, minor=minor
    )


def _passes(run: Outcome) -> float | None:
    forwards, backwards = run.cost("discovery", "forwards"), run.cost("discovery", "backwards")
    return None if forwards is None or backwards is None else forwards + 2 * backwards


def _mebibytes(run: Outcome) -> float | None:
    peak = run.cost("discovery", "peak_memory_bytes")
    return None if peak is None else peak * 2.0**-20


# Average precision leads: circuits are rare among heads, and unlike AUROC it does not reward
# sorting the many heads that nobody would look at.
_OURS: tuple[Metric, ...] = (
    _of_heads(
        "average_precision",
        "AP",
        "Average precision of the head ranking.",
        ranking.average_precision,
    ),
    _of_heads("auroc", "AUROC", "Area under the ROC curve; chance is 0.5.", _auroc),
    _of_heads(
        "r_precision",
        "R-prec.",
        "Share of true heads among the R best ranked, R being the circuit's size.",
        ranking.r_precision,
        minor=True,
    ),
    Metric(
        "f1",
        "F1",
        lambda run: run.overlap.f1,
        "F1 of the heads the method commits to.",
        needs=("truth",),
        chance=lambda run: run.overlap.chance_f1,
    ),
    Metric(
        "mcc",
        "MCC",
        lambda run: run.overlap.mcc,
        "Matthews correlation of the committed heads.",
        needs=("truth",),
        chance=lambda run: 0.0,
        minor=True,
    ),
    Metric(
        "group_recall",
        "Roles",
        lambda run: run.group_recall,
        "Share of roles of which enough heads are among the R best ranked.",
        needs=("truth",),
    ),
    Metric(
        "area",
        "AP area",
        lambda run: run.area(ranking.average_precision),
        "Area under average precision against log queries: good early is better than good late.",
        needs=("truth",),
        minor=True,
    ),
    _of_edges(
        "average_precision",
        "Edge AP",
        "Average precision of the edge ranking.",
        ranking.average_precision,
    ),
    _of_edges(
        "auroc", "Edge AUROC", "Area under the ROC curve over edges, as in scikit-learn.", _auroc
    ),
    Metric(
        "edge_auroc_pessimistic",
        "Edge AUROC (ACDC)",
        _pessimistic,
        "Area under ACDC's pessimistic staircase below the ROC curve over edges; a tie counts "
        "nothing, and one tie of all edges is worth 0.",
        kind="edges",
        needs=("edges",),
        minor=True,
    ),
    _of_edges(
        "r_precision",
        "Edge R-prec.",
        "Share of true edges among the R best ranked, R being how many are true.",
        ranking.r_precision,
    ),
    _of_edge_set("f1", "Edge F1", "F1", lambda found: found.f1, lambda found: found.chance_f1),
    _of_edge_set("mcc", "Edge MCC", "Matthews correlation", lambda found: found.mcc, lambda _: 0.0),
    _of_edge_set(
        "precision",
        "Edge prec.",
        "Precision",
        lambda found: found.precision,
        lambda found: found.chance_precision,
    ),
    _of_edge_set(
        "recall",
        "Edge recall",
        "Recall",
        lambda found: found.recall,
        lambda found: found.chance_recall,
    ),
    *(found for ablation in MEASURED_ABLATIONS for found in _function_of_edges(ablation)),
    *(found for ablation in MEASURED_ABLATIONS for found in _function(ablation)),
    _cost(
        "queries",
        "Queries",
        lambda run: run.cost("discovery", "queries"),
        "Oracle queries of the discovery: a mask is one, a gradient three.",
    ),
    Metric(
        "queries_to_90",
        "To 90 %",
        lambda run: run.queries_to_target,
        "Queries until 90 % of the circuit's heads were among as many best ranked; none where a "
        "run never got there.",
        kind="cost",
        better="lower",
        unit="queries",
        needs=("truth",),
        digits=0,
        minor=True,
    ),
    _cost(
        "passes",
        "Passes",
        _passes,
        "Forward-equivalents of the discovery: passes of one batch, a backward one counts as two.",
        minor=True,
    ),
    _cost(
        "training_queries",
        "Training",
        lambda run: run.cost("training", "queries"),
        "Oracle queries of training beforehand, metered apart.",
        unit="queries",
    ),
    _cost(
        "seconds",
        "Time",
        lambda run: run.cost("discovery", "method_seconds"),
        "Wall-clock time of the discovery.",
        unit="s",
        digits=1,
    ),
    _cost(
        "memory",
        "Memory",
        _mebibytes,
        "Peak memory of the whole run.",
        unit="MiB",
        minor=True,
    ),
)
DEFAULT = _OURS[0].key
