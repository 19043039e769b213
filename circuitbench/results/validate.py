"""Whether a folder of results can be trusted: files, and what the records claim."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from circuitbench.results.content import faults
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
    differing duplicates. Content: see
    :func:`circuitbench.results.content.faults`. Raises :class:`InvalidSpec` when there is
    no such folder.
    """
    records, problems = read_folder(folder)
    good = []
    for record in records:
        found = faults(record)
        if not found:
            good.append(record)
        problems += [Problem(record.path or Path(), fault) for fault in found]
    return good, sorted(problems, key=lambda problem: (str(problem.path), problem.message))
