"""The one registry of numbers that a run can be judged by, ours and third parties'.

A metric is computed when a record is read, never stored in it, so a new one has a value for
every old record. Tables, page, ``compare``, ties and best marks follow its direction.

A third party registers a :class:`Metric` under the entry-point group ``circuitbench.metrics``;
two of one key are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from circuitbench.core.errors import (
    CircuitBenchError,
    InvalidPlugin,
    InvalidSpec,
    UnknownName,
)
from circuitbench.evaluation.metric import BUILT_IN, Kind
from circuitbench.evaluation.metric import Metric as Metric
from circuitbench.evaluation.metric_catalogue import OURS as OURS
from circuitbench.evaluation.outcome import EXAMPLE, Outcome
from circuitbench.plugins.registry import load_entry, origin, registered_twice

GROUP = "circuitbench.metrics"
# What a misspelt name in a metric raises; anything else may be the example's fault.
_REFERS_TO_NOTHING = (LookupError, AttributeError, NameError, TypeError, UnknownName)


def metrics() -> Mapping[str, Metric]:
    """All metrics by key: ours in the order of the tables, then third parties'.

    Raises:
        InvalidPlugin: two metrics have one key; one cannot be imported, is no :class:`Metric`,
            or refers to something that no run has.
        MissingExtra: one needs an optional package that is not installed.
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
    for found in (*OURS, *map(_imported, entry_points(group=GROUP))):
        other = loaded.get(found.key)
        if other is not None:
            raise registered_twice("metric", found.key, [other.origin, found.origin])
        loaded[found.key] = found
        _try(found)
    return loaded


def _imported(entry: EntryPoint) -> Metric:
    loaded = load_entry("metric", entry.name, [entry])
    if not isinstance(loaded, Metric):
        raise InvalidPlugin(
            f"metric {entry.name!r}: {entry.value} ({origin(entry)}) is a "
            f"{type(loaded).__name__}, not a circuitbench Metric"
        )
    return replace(loaded, origin=origin(entry))


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


DEFAULT = OURS[0].key
