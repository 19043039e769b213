"""Several methods side by side, on the runs that all of them have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circuitbench.core.display import Displayed, Row, Sheet
from circuitbench.core.errors import InvalidSpec
from circuitbench.evaluation.metrics import Metric, metrics, ranking_metric
from circuitbench.results.record import Record
from circuitbench.results.result import Result

Key = tuple[str, str, int]


@dataclass(frozen=True)
class SideBySide(Displayed):
    """Means over the runs (task, model, seed) that every method finished.

    Args:
        by: key of the metric that orders the methods.
        means: method -> metric -> mean; best method first.
        runs: how many runs the means are of.
        left_out: method -> how many of its runs are not among them, failed ones included.
    """

    by: str
    means: Mapping[str, Mapping[str, float]]
    runs: int
    left_out: Mapping[str, int]

    def __str__(self) -> str:
        rows = [self.sheet().columns, *self.sheet().rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([*lines, self.sheet().note])

    def sheet(self) -> Sheet:
        """One row per method, best values with a star."""
        shown = [m for m in metrics().values() if _shown(m, self.by, self.means)]
        best = {m.key: max(m.sign * values[m.key] for values in self.means.values()) for m in shown}
        rows: list[Row] = []
        for method, values in self.means.items():
            cells = [
                f"{values[m.key]:.{m.digits}f}"
                + (
                    " *"
                    if m.sign and not m.is_cost and m.sign * values[m.key] == best[m.key]
                    else ""
                )
                for m in shown
            ]
            rows.append((method, *cells))
        note = f"Means of {self.runs} run{'' if self.runs == 1 else 's'}; * best."
        for method, n in self.left_out.items():
            note += f" {method}: {n} more run{'' if n == 1 else 's'} not compared."
        title = f"{len(self.means)} methods by {metrics()[self.by].title}"
        return Sheet(title, rows, ("method", *(m.title for m in shown)), note=note)


def side_by_side(records: Iterable[Record | Result], by: str) -> SideBySide:
    """Compare runs by method; runs of one method with other settings are methods of their own.

    Raises:
        UnknownName, InvalidSpec: there is no such metric, or it has no direction; there are no
            runs, or none that every method finished and that has the metric.
    """
    ranking_metric(by)
    results = [Result(x) if isinstance(x, Record) else x for x in records]
    if not results:
        raise InvalidSpec("there is nothing to compare; give methods, results or records")
    sides: dict[str, dict[Key, Result]] = {}
    totals: dict[str, int] = {}
    for label, result in zip(_labels(results), results, strict=True):
        runs = sides.setdefault(label, {})
        totals[label] = totals.get(label, 0) + 1
        if result.status == "done":
            runs[result.task, result.model, result.seed] = result
    shared = sorted(set.intersection(*(set(runs) for runs in sides.values())))
    if not shared:
        failed = next((r for r in results if r.status != "done"), None)
        why = f"; {failed.method} {failed.record.ending}: {failed.reason}" if failed else ""
        raise InvalidSpec(f"no task, model and seed that every method finished{why}")
    means = {label: _means([runs[key] for key in shared]) for label, runs in sides.items()}
    if not all(by in values for values in means.values()):
        raise InvalidSpec(f"these runs have no {by}; pass by= a metric that they have")
    sign = metrics()[by].sign
    order = sorted(means, key=lambda label: (-sign * means[label][by], label))
    left_out = {label: n - len(shared) for label, n in totals.items() if n > len(shared)}
    return SideBySide(by, {label: means[label] for label in order}, len(shared), left_out)


def _means(results: Sequence[Result]) -> dict[str, float]:
    """Of every metric that all of the runs have."""
    keys = set.intersection(*(set(result.metrics) for result in results))
    return {
        key: sum(result.metrics[key] for result in results) / len(results)
        for key in metrics()
        if key in keys
    }


def _shown(metric: Metric, by: str, means: Mapping[str, Mapping[str, float]]) -> bool:
    everywhere = all(metric.key in values for values in means.values())
    usual = metric.kind in ("quality", "edges", "cost") and not metric.minor
    return everywhere and (metric.key == by or usual)


def _labels(results: Sequence[Result]) -> list[str]:
    """The method's name, with the hyperparameters in which the runs of it differ."""
    settings: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        settings.setdefault(result.method, []).append(_settings(result))
    labels = []
    for result in results:
        own, others = _settings(result), settings[result.method]
        apart = [k for k in own if any(other.get(k) != own[k] for other in others)]
        text = ", ".join(f"{key.removeprefix('hyperparameters.')}={own[key]}" for key in apart)
        labels.append(f"{result.method} ({text})" if text else result.method)
    return labels


def _settings(result: Result) -> dict[str, Any]:
    """Everything asked for but task, model and seed, by dotted name."""
    return _flat(
        {k: v for k, v in result.record.spec.items() if k not in ("task", "model", "seed")}
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
