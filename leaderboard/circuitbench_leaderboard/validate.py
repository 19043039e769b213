"""Whether a folder of results can be trusted: files, and what the records claim."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from circuitbench.core.circuit import Circuit, Edge, Head, Role
from circuitbench.core.discovery import Discovery, TracePoint
from circuitbench.core.errors import CircuitBenchError
from circuitbench.evaluation import evaluate
from circuitbench.results import Problem, Record, read_folder

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Report:
    """What was found: the number of good records, and every problem with its file."""

    folder: Path
    n_records: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no problem at all."""
        return not self.problems

    def text(self) -> str:
        """One line per problem, then a summary."""
        good = f"{self.n_records} valid record{'' if self.n_records == 1 else 's'}"
        bad = f"{len(self.problems)} problem{'' if len(self.problems) == 1 else 's'}"
        lines = [str(problem) for problem in self.problems]
        return "\n".join([*lines, f"{self.folder}: {good}, {bad}"]) + "\n"


def validate(folder: Path | str) -> Report:
    """Check every record under ``folder`` as :func:`checked_records` does, and count."""
    records, problems = checked_records(folder)
    return Report(Path(folder), len(records), tuple(problems))


def checked_records(folder: Path | str) -> tuple[list[Record], list[Problem]]:
    """The records under ``folder`` that hold together, and what is wrong with the others.

    Files: readable, right schema, right checksum and run id, safe names, no duplicates. Content:
    a finished run has scores of the model's shape, its committed heads exist, its trace goes by
    rising queries, it stayed within its budget, and its metrics of heads (and of edges, where it
    holds the true ones) are those that its own scores give against its own truth. (The areas of
    its curve are not recomputed, as a stored trace is rounded; nor is what needs the model.)
    Raises :class:`InvalidSpec` when there is no such folder.
    """
    records, problems = read_folder(folder)
    good = []
    for record in records:
        faults = list(_faults(record))
        if not faults:
            good.append(record)
        problems += [Problem(record.path or Path(), fault) for fault in faults]
    return good, sorted(problems, key=lambda problem: (str(problem.path), problem.message))


def _faults(record: Record) -> Iterator[str]:
    if record.status != "done":
        if not record.reason:
            yield f"status {record.status} without a reason"
        return
    try:
        yield from _content_faults(record)
    except (CircuitBenchError, LookupError, TypeError, ValueError, AttributeError) as error:
        yield f"discovery or truth cannot be read ({type(error).__name__}: {error})"


def _content_faults(record: Record) -> Iterator[str]:
    shape = (int(record.model["n_layers"]), int(record.model["n_heads"]))
    scores = np.asarray(record.discovery["scores"], dtype=float)
    if scores.shape != shape:
        yield f"scores have shape {scores.shape}, the model has {shape}"
        return
    trace = [
        TracePoint(int(point["queries"]), np.asarray(point["scores"], dtype=float))
        for point in record.discovery.get("trace") or ()
    ]
    queries = [point.queries for point in trace]
    if any(after <= before for before, after in pairwise(queries)):
        yield "the trace does not go by rising queries"
        return
    spent, budget = record.costs["discovery"]["queries"], record.spec.get("budget")
    if budget is not None and spent > budget:
        yield f"{spent} queries were spent of a budget of {budget}"
    if queries and queries[-1] > spent:
        yield f"the trace ends after {queries[-1]} queries, but {spent} were spent"
    selected = frozenset(Head.parse(text) for text in record.discovery["selected"])
    edges = record.discovery.get("edges")
    found = None if edges is None else {Edge.parse(text): score for text, score in edges.items()}
    again = evaluate(Discovery(scores, selected, found, trace), _truth(record.truth), *shape)
    groups = ["ranking", "selection", "roles", "role_groups"]
    if "edges" in record.truth:  # records from before edge methods lack it
        groups.append("edges")
    for group in groups:
        for place in _unequal(again[group], record.metrics.get(group), f"metrics.{group}"):
            yield f"{place} is not what the record's scores and truth give"


def _truth(stored: Mapping[str, Any]) -> Circuit:
    roles = {
        name: Role(tuple(Head.parse(text) for text in role["heads"]), role["needed"], role["sign"])
        for name, role in stored["roles"].items()
    }
    edges = stored.get("edges")
    return Circuit(
        roles,
        stored["source"],
        stored["kind"],
        edges=None if edges is None else frozenset(map(Edge.parse, edges)),
    )


def _unequal(expected: Any, found: Any, place: str) -> Iterator[str]:
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        # Metrics that a later version adds are not held against an older record.
        for key in sorted(set(expected) & set(found)):
            yield from _unequal(expected[key], found[key], f"{place}.{key}")
    elif isinstance(expected, float) and isinstance(found, int | float):
        if not math.isclose(expected, found, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
            yield place
    elif expected != found:
        yield place
