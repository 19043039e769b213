"""Whether a folder of results can be trusted: files, and what the records claim."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from circuitbench.core.circuit import head_grid
from circuitbench.core.errors import CircuitBenchError
from circuitbench.evaluation.answer_check import check_discovery
from circuitbench.evaluation.outcome import read_truth
from circuitbench.results.discovery import read_discovery
from circuitbench.results.record import Record
from circuitbench.results.store import Problem, read_folder


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

    Files: readable, of a schema that is known, right checksum and run id, safe names, no
    differing duplicates. Content: see :func:`faults`. Raises :class:`InvalidSpec` when there is
    no such folder.
    """
    records, problems = read_folder(folder)
    good = []
    for record in records:
        found = list(faults(record))
        if not found:
            good.append(record)
        problems += [Problem(record.path or Path(), fault) for fault in found]
    return good, sorted(problems, key=lambda problem: (str(problem.path), problem.message))


def faults(record: Record) -> Iterator[str]:
    """What does not hold together in one record, a line each.

    A run that is not done says why. One that is has scores of the model's shape, committed heads
    and scored edges that exist, a trace that goes by rising queries and ends within what was
    spent, a truth that fits the model, and stayed within its budget.
    """
    if record.status != "done":
        if not record.reason:
            yield f"status {record.status} without a reason"
        return
    if record.stage:
        yield f"done, yet it stopped while {record.stage}"
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
    discovery = read_discovery(record.discovery)
    queries = [point.queries for point in discovery.trace]
    if any(after <= before for before, after in pairwise(queries)):
        yield "the trace does not go by rising queries"
        return
    check_discovery(discovery, shape)
    head_grid(read_truth(record.truth).heads, *shape)
    spent, budget = record.costs["discovery"]["queries"], record.spec.get("budget")
    if budget is not None and spent > budget:
        yield f"{spent} queries were spent of a budget of {budget}"
    if queries and queries[-1] > spent:
        yield f"the trace ends after {queries[-1]} queries, but {spent} were spent"
