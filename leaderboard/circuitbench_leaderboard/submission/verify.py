"""Some runs of a submission, repeated by whoever doubts it: the numbers are the same or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from circuitbench.core.errors import CircuitBenchError, InvalidSpec
from circuitbench.core.seeding import generator
from circuitbench.evaluation.metrics import of_kind
from circuitbench.results import Record, versions, write_atomically
from circuitbench.results.run_row import RunRow
from circuitbench.results.validate import checked_records
from circuitbench.runs.once import run
from circuitbench.runs.spec import SPEC_KEYS
from circuitbench_leaderboard.entries import TaskOnModel
from circuitbench_leaderboard.groups import preset_of
from circuitbench_leaderboard.sources import source_of
from circuitbench_leaderboard.submission.manifest import (
    MANIFEST,
    VERIFICATION,
    Cell,
    Manifest,
    Outcome,
    Verification,
    digest_of,
)

TOLERANCE = 1e-3
"""How far a metric may be off: other processors and libraries round otherwise."""

Repeat = Callable[[Record], Record]


@dataclass(frozen=True)
class Verified:
    """The verification, and the file it was written to."""

    verification: Verification
    path: Path

    def text(self) -> str:
        """One line per repeated run, then the outcome."""
        lines = []
        for cell in self.verification.cells:
            said = "; ".join(cell.differs) or "the same"
            lines.append(f"{cell.task} / {cell.model}, seed {cell.seed}: {said}")
        same = sum(not cell.differs for cell in self.verification.cells)
        total = len(self.verification.cells)
        return "\n".join(
            [*lines, f"{self.verification.outcome}: {same} of {total} runs gave the same numbers"]
        )


def repeat(record: Record) -> Record:
    """Run it again as its spec says, the method in a process of its own."""
    settings = {key: record.spec[key] for key in SPEC_KEYS if key in record.spec}
    return run(**settings)


def sample(records: list[Record], number: int) -> list[Record]:
    """One run of each task on a model, drawn by ``number``; plantings of a preset are one model."""
    cells: dict[TaskOnModel, list[Record]] = {}
    for record in records:
        task = TaskOnModel(record.task, preset_of(record.model_name))
        cells.setdefault(task, []).append(record)
    chosen = []
    for task, own in sorted(cells.items()):
        rng = generator(number, "verify", *task)
        own = sorted(own, key=lambda record: (record.seed, record.run_id))
        chosen.append(own[int(rng.integers(len(own)))])
    return chosen


def verify(
    folder: Path | str,
    number: int,
    *,
    again: Repeat = repeat,
    progress: Callable[[str, float | None], None] = lambda stage, share: None,
) -> Verified:
    """Repeat one run of each task and compare its metrics; writes ``verification.yaml``.

    A run is the same if each metric of quality is within :data:`TOLERANCE` and discovery and
    training asked as many queries.

    Args:
        folder: the submission.
        number: draws which seed of each task is repeated; the verifier's, unknown before.
        again: repeats a run.
        progress: told which run, and the share that is done.

    Raises:
        InvalidSpec: the folder is no submission, or its archive is not what it says.
    """
    folder = Path(folder)
    if number < 0:
        raise InvalidSpec(f"the number must be 0 or more, not {number}")
    manifest = Manifest.read(folder / MANIFEST)
    archive = folder / manifest.archive
    if digest_of(archive) != manifest.sha256:
        raise InvalidSpec(f"{archive} is not the archive of {MANIFEST}: its SHA-256 differs")
    records, problems = checked_records(archive.parent)
    if problems:
        raise InvalidSpec(f"{folder} holds what cannot be used, the first: {problems[0]}")
    _as_stated(records, manifest, folder)
    chosen = sample(records, number)
    cells = []
    for i, record in enumerate(chosen):
        progress(f"{record.task} / {record.model_name}, seed {record.seed}", i / len(chosen))
        cells.append(_cell(record, again))
    outcome: Outcome = "claimed" if any(cell.differs for cell in cells) else "verified"
    found = Verification(
        outcome=outcome,
        number=number,
        source=_source(),
        sha256=manifest.sha256,
        cells=cells,
    )
    write_atomically(folder / VERIFICATION, found.text())
    return Verified(found, folder / VERIFICATION)


def _as_stated(records: list[Record], manifest: Manifest, folder: Path) -> None:
    rows = [RunRow.of(record) for record in records]
    stated = (manifest.method, manifest.source)
    others = {(row.method, source_of(row)) for row in rows} - {stated}
    if others or len(rows) != manifest.runs:
        what = ", ".join(" by ".join(other) for other in sorted(others)) or f"{len(rows)} runs"
        raise InvalidSpec(f"{folder} holds {what}, its {MANIFEST} states something else")


def _cell(record: Record, again: Repeat) -> Cell:
    recorded, repeated, differs = _numbers(record), {}, []
    try:
        made = again(record)
        if made.status == "done":
            repeated = _numbers(made)
            differs = _differences(recorded, repeated)
        else:
            differs = [f"{made.ending}: {made.reason}"]
    except CircuitBenchError as error:  # no such method, model or task here
        differs = [f"could not be repeated: {error}"]
    return Cell(
        task=record.task,
        model=record.model_name,
        seed=record.seed,
        run_id=record.run_id,
        recorded=recorded,
        repeated=repeated,
        differs=differs,
    )


def _numbers(record: Record) -> dict[str, float]:
    values = RunRow.of(record).values
    keys = [m.key for m in of_kind("quality")] + ["queries", "training_queries"]
    return {key: float(values[key]) for key in keys if values.get(key) is not None}


def _differences(recorded: dict[str, float], repeated: dict[str, float]) -> list[str]:
    lines = []
    for key in sorted({*recorded, *repeated}):
        a, b = recorded.get(key), repeated.get(key)
        if a is None or b is None or abs(a - b) > TOLERANCE:
            lines.append(f"{key} was {_text(a)}, is {_text(b)}")
    return lines


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def _source() -> str:
    ours = versions()
    commit = str(ours.get("commit") or "unknown")
    return f"{ours.get('circuitbench') or 'unknown'} @ {commit[:9]}"
