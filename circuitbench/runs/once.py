"""Run by name: the public face of a run, and where its record is kept."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from circuitbench.core.errors import CircuitBenchError, CorruptRecord, InvalidSpec
from circuitbench.plugins.method import TrainingTools
from circuitbench.results import Record, check_folder, file_name, read_record, write_record
from circuitbench.runs.prepare import Prepared, prepare
from circuitbench.runs.progress import Progress, silent
from circuitbench.runs.run import is_unmeasured
from circuitbench.runs.run import run as run_prepared
from circuitbench.runs.spec import build_spec
from circuitbench.runs.training import training_tools


def run(
    method: str | None = None,
    *,
    out: Path | str | None = None,
    progress: Progress = silent,
    checkpoints: Path | str | None = None,
    tensorboard: Path | str | None = None,
    reraise: bool = False,
    **settings: Any,
) -> Record:
    """Run one method on one task and return its record.

    Args:
        method: name of a registered method.
        out: folder to write the record into; None writes nothing.
        progress: called with the stage and the fraction of it that is done.
        checkpoints: folder to save a learner's training in, and to go on from.
        tensorboard: folder for TensorBoard events of a learner's training.
        reraise: raise what the method raised, instead of returning a failed record.
        **settings: the other fields of :class:`~circuitbench.runs.spec.RunSpec`: ``task``,
            ``model``, ``seed``, ``budget``, ``hyperparameters`` ...

    Raises:
        UnknownName, InvalidSpec, InvalidPlugin, ModelUnavailable: the request is wrong.
    """
    named = {} if method is None else {"method": method}
    spec = build_spec(settings, named)
    if out is not None:
        check_folder(out)
    prepared = prepare(spec)
    folders = (None if folder is None else Path(folder) for folder in (checkpoints, tensorboard))
    tools = training_tools(prepared.method, spec.method, *folders)
    if out is None:
        return run_prepared(prepared, progress, tools=tools, reraise=reraise)
    return run_and_write(prepared, Path(out), progress, tools=tools, reraise=reraise)


def run_and_write(
    prepared: Prepared,
    out: Path,
    progress: Progress = silent,
    *,
    tools: TrainingTools = TrainingTools(),
    reraise: bool = False,
    unmeasured: Record | None = None,
) -> Record:
    """Run, and keep the record in ``out`` (its ``path`` says where).

    A run that was interrupted or failed after its discovery, and whose record is ``unmeasured``
    or lies in ``out``, goes on from there. Raises :class:`InvalidSpec` if the record cannot be
    written to ``out``; it is then saved elsewhere, and the message says where.
    """
    if unmeasured is None:
        unmeasured = _left_unmeasured(prepared, out)
    record = run_prepared(
        prepared,
        progress,
        tools=tools,
        keep=lambda kept: write_record(kept, out),
        unmeasured=unmeasured,
        reraise=reraise,
    )
    return record.at(_save(record, out))


def _left_unmeasured(prepared: Prepared, out: Path) -> Record | None:
    with suppress(CorruptRecord):  # there is none, or none to go on from
        record = read_record(out / file_name(prepared.identity, prepared.run_id))
        if is_unmeasured(record):
            return record
    return None


def _save(record: Record, out: Path) -> Path:
    """Write the record; if the folder fails now, save it elsewhere rather than lose it."""
    try:
        return write_record(record, out)
    except CircuitBenchError as error:
        refuge = Path(tempfile.mkdtemp(prefix="circuitbench-"))
        raise InvalidSpec(
            f"{error}; the record was saved to {write_record(record, refuge)}"
        ) from error
