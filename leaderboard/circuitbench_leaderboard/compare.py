"""Where two methods, or two folders of results, differ: run by run, with tests."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.core.seeding import generator
from circuitbench.evaluation.metrics import DEFAULT, Metric, metric, of_kind, ranking_metric
from circuitbench.evaluation.statistics import holm, paired_test, probability_of_improvement
from circuitbench.results.index import read_runs
from circuitbench.results.record import canonical
from circuitbench.results.run_row import RunRow
from circuitbench_leaderboard.entries import TaskOnModel, flat_settings, gather
from circuitbench_leaderboard.formats import escape_markdown


@dataclass(frozen=True)
class Difference:
    """The matched runs of one group, by one metric.

    Args:
        group: ``task / model``, with the method where folders are compared; ``all`` for all.
        pairs: matched runs that have the metric on both sides.
        a, b: mean of each side over those runs.
        p_value: two-sided sign-flip test, Holm-corrected over the groups (``all`` is a
            question of its own and is not corrected).
        improvement: P(a random run of b beats one of a on the same task and model), 0.5 = no
            difference; follows the direction of the metric.
    """

    group: str
    pairs: int
    a: float
    b: float
    p_value: float
    improvement: float

    @property
    def difference(self) -> float:
        """``b - a``."""
        return self.b - self.a


@dataclass(frozen=True)
class Comparison:
    """Two sides, matched run by run.

    Args:
        a, b: names of the sides.
        by: key of the metric compared.
        differences: ``all`` first, then each group; empty if no run matches.
        identical: matched runs whose metrics are all equal, to the last digit.
        matched: matched runs.
        only_a, only_b: runs without a partner, one line each.
        versions: version -> what each side has, where the sides differ.
        settings: likewise, of runs without a partner that differ in settings alone.
    """

    a: str
    b: str
    by: str
    differences: tuple[Difference, ...]
    identical: int
    matched: int
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    versions: Mapping[str, tuple[str, str]]
    settings: Mapping[str, tuple[str, str]]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def text(self) -> str:
        """A table of differences and what could not be compared."""
        name_a, name_b = escape_markdown(self.a), escape_markdown(self.b)
        by = metric(self.by)
        lower = " (lower is better)" if by.better == "lower" else ""
        lines = [f"{by.title}{lower} of {name_a} (A) and {name_b} (B)", ""]
        if self.differences:
            lines += [
                "| Task / model | Runs | A | B | B - A | P(B beats A) | p |",
                "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            ]
        lines += [
            f"| {escape_markdown(d.group)} | {d.pairs} | {d.a:.3f} | {d.b:.3f} | "
            f"{d.difference:+.3f} | {d.improvement:.2f} | {_p_value(d.p_value)} |"
            for d in self.differences
        ]
        lines += ["", f"{self.matched} runs matched, {self.identical} with identical metrics."]
        if not self.matched:
            why = "the settings differ" if self.settings else "no task, model and seed in common"
            lines.append(f"Nothing to compare: {why}.")
        if self.differences:
            lines.append(
                "p: sign-flip test on matched runs, Holm-corrected over the groups; "
                "with fewer than 6 runs it cannot fall below 0.05."
            )
        lines += [
            f"{escape_markdown(key)}: A has {escape_markdown(a)}, B has {escape_markdown(b)}"
            for key, (a, b) in {**self.versions, **self.settings}.items()
        ]
        for side, runs in (("A", self.only_a), ("B", self.only_b)):
            if runs:
                lines += ["", f"Only in {side}:", *(f"- {escape_markdown(run)}" for run in runs)]
        return "\n".join(lines) + "\n"


def compare(
    a: str,
    b: str,
    results: Path | str = "results",
    by: str = DEFAULT,
    warn: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Compare two results folders, or two methods in the folder ``results``.

    Folders match runs of equal spec, whatever their versions; methods match runs of equal task,
    model and seed. Names of methods are those the leaderboard shows.

    Raises:
        UnknownName: no such method in ``results``, or no such metric.
        InvalidSpec: the metric has no direction, one is a folder and the other is not, or there
            is nothing to compare.
    """
    chosen = ranking_metric(by)
    folders = [Path(side).is_dir() for side in (a, b)]
    if all(folders):
        sides = [_by_key(_read(side, warn), _spec_key) for side in (a, b)]
        return _compare(a, b, chosen, sides[0], sides[1], _with_method)
    if any(folders):
        folder, other = (a, b) if folders[0] else (b, a)
        raise InvalidSpec(
            f"{folder} is a folder and {other} is not; compare two folders, or two methods"
        )
    known = {entry.label: entry.runs for entry in gather(_read(results, warn))}
    for side in (a, b):
        if side not in known:
            raise UnknownName("method", side, known)
    return _compare(a, b, chosen, _by_key(known[a], _run_key), _by_key(known[b], _run_key), _task)


def _compare(
    a: str,
    b: str,
    by: Metric,
    side_a: Mapping[Hashable, RunRow],
    side_b: Mapping[Hashable, RunRow],
    group_of: Callable[[RunRow], str],
) -> Comparison:
    keys = sorted((k for k in side_a if k in side_b), key=lambda k: (group_of(side_a[k]), str(k)))
    pairs = [(side_a[key], side_b[key]) for key in keys]
    groups: dict[str, list[tuple[float, float]]] = {}
    for left, right in pairs:
        values = (left.values.get(by.key), right.values.get(by.key))
        if values[0] is not None and values[1] is not None:
            groups.setdefault(group_of(left), []).append((values[0], values[1]))
    alone_a = [side_a[k] for k in side_a if k not in side_b]
    alone_b = [side_b[k] for k in side_b if k not in side_a]
    return Comparison(
        a,
        b,
        by.key,
        tuple(_differences(groups, by)),
        sum(_metrics(left) == _metrics(right) for left, right in pairs),
        len(pairs),
        tuple(sorted(map(_with_seed, alone_a))),
        tuple(sorted(map(_with_seed, alone_b))),
        _apart(_versions(side_a.values()), _versions(side_b.values())),
        _settings_apart(alone_a, alone_b),
    )


def _differences(groups: Mapping[str, list[tuple[float, float]]], by: Metric) -> list[Difference]:
    if not groups:
        return []
    tables = {group: np.array(rows).T for group, rows in groups.items()}
    p_values = holm(np.array([_test(table, by, group) for group, table in tables.items()]))
    everything = np.concatenate(list(tables.values()), axis=1)
    total = Difference(
        "all",
        everything.shape[1],
        a=float(everything[0].mean()),
        b=float(everything[1].mean()),
        p_value=_test(everything, by, "all"),
        improvement=_improvement(tables.values(), by),
    )
    parts = [
        Difference(
            group,
            table.shape[1],
            a=float(table[0].mean()),
            b=float(table[1].mean()),
            p_value=float(p),
            improvement=_improvement([table], by),
        )
        for (group, table), p in zip(tables.items(), p_values, strict=True)
    ]
    return [total, *parts]


def _improvement(tables: Iterable[np.ndarray], by: Metric) -> float:
    signed = [by.sign * table for table in tables]
    return probability_of_improvement([b for _, b in signed], [a for a, _ in signed])


def _test(table: np.ndarray, by: Metric, group: str) -> float:
    return paired_test(table[0], table[1], generator(0, "compare", by.key, group))


def _read(folder: Path | str, warn: Callable[[str], None]) -> list[RunRow]:
    runs, problems = read_runs(folder, warn)
    for problem in problems:
        warn(f"left out {problem}")
    if not runs:
        raise InvalidSpec(f"no records in {folder}")
    return runs


def _by_key(runs: Sequence[RunRow], key: Callable[[RunRow], Hashable]) -> dict[Hashable, RunRow]:
    """Finished runs by key; of several (same spec, other versions) the newest."""
    finished = [run for run in runs if run.status == "done"]
    return {key(r): r for r in sorted(finished, key=lambda r: (r.created, r.run_id))}


def _spec_key(run: RunRow) -> Hashable:
    return canonical(run.spec)


def _run_key(run: RunRow) -> Hashable:
    return run.task, run.model_name, run.seed


def _task(run: RunRow) -> str:
    return str(TaskOnModel.of(run))


def _with_method(run: RunRow) -> str:
    return f"{run.method}, {_task(run)}"


def _with_seed(run: RunRow) -> str:
    return f"{_with_method(run)}, seed {run.seed}"


def _metrics(run: RunRow) -> dict[str, float | None]:
    return {m.key: run.values.get(m.key) for m in of_kind("quality")}


def _versions(runs: Iterable[RunRow]) -> dict[str, set[str]]:
    return _seen(run.versions for run in runs)


def _settings_apart(a: Sequence[RunRow], b: Sequence[RunRow]) -> dict[str, tuple[str, str]]:
    """What keeps runs of the same method, task, model and seed from being partners."""
    shared = set(map(_with_seed, a)) & set(map(_with_seed, b))
    sides = ([r for r in side if _with_seed(r) in shared] for side in (a, b))
    return _apart(*map(_settings, sides))


def _settings(runs: Iterable[RunRow]) -> dict[str, set[str]]:
    return _seen(flat_settings(run.spec) for run in runs)


def _seen(mappings: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            found.setdefault(key, set()).add(str(value))
    return found


def _apart(a: Mapping[str, set[str]], b: Mapping[str, set[str]]) -> dict[str, tuple[str, str]]:
    sides = {
        key: tuple(", ".join(sorted(side.get(key, ()))) or "none" for side in (a, b))
        for key in sorted({*a, *b})
    }
    return {key: (left, right) for key, (left, right) in sides.items() if left != right}


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
