"""Run by name: the public face of a run, and where its record is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from circuitbench.core.errors import CircuitBenchError, CorruptRecord, InvalidSpec
from circuitbench.plugins.method import Method, TrainingTools
from circuitbench.results import Record, check_folder, file_name, read_record, write_record
from circuitbench.runs.isolation.host import in_own_processes
from circuitbench.runs.isolation.limits import Limits
from circuitbench.runs.learning_curve import learning_curve
from circuitbench.runs.prepare import Prepared, load_method, prepare
from circuitbench.runs.progress import Progress, silent
from circuitbench.runs.run import run as run_prepared
from circuitbench.runs.spec import build_spec
from circuitbench.runs.training import training_tools
from circuitbench.runs.unmeasured import is_unmeasured


def run(
    method: str | None = None,
    *,
    out: Path | str | None = None,
    progress: Progress = silent,
    checkpoints: Path | str | None = None,
    tensorboard: Path | str | None = None,
    reraise: bool = False,
    in_process: bool = False,
    timeout: float | None = None,
    memory: int | None = None,
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
        in_process: run the method in this process, with everything in reach; for debugging.
        timeout: seconds that the method may take; else the record says ``timeout``.
        memory: bytes that the method may take.
        **settings: the other fields of :class:`~circuitbench.runs.spec.RunSpec`: ``task``,
            ``model``, ``seed``, ``budget``, ``hyperparameters`` ...

    Raises:
        UnknownName, InvalidSpec, InvalidPlugin, ModelUnavailable: the request is wrong.
    """
    named = {} if method is None else {"method": method}
    spec = build_spec(settings, named)
    if out is not None:
        check_folder(out)
    with loading(in_process, Limits(timeout, memory)) as method_of:
        prepared = prepare(spec, method_of=method_of)
        folders = (None if path is None else Path(path) for path in (checkpoints, tensorboard))
        tools = training_tools(prepared.method, spec.method, *folders)
        if out is None:
            return run_prepared(prepared, progress, tools=tools, reraise=reraise)
        return run_and_write(prepared, Path(out), progress, tools=tools, reraise=reraise)


def loading(
    in_process: bool, limits: Limits, output: Callable[[bytes], None] = lambda text: None
) -> AbstractContextManager[Callable[..., Method]]:
    """What loads methods for as long as a block lasts: into this process, or each into its own.

    Raises :class:`InvalidSpec` for limits on what is in this process.
    """
    if not in_process:
        return in_own_processes(limits, output)
    if limits != Limits():
        raise InvalidSpec("a method in this process can have no limits; leave out --in-process")
    return nullcontext(load_method)


def run_and_write(
    prepared: Prepared,
    out: Path,
    progress: Progress = silent,
    *,
    tools: TrainingTools = TrainingTools(),
    reraise: bool = False,
    unmeasured: Record | None = None,
) -> Record:
    """Run, and keep the record in ``out`` (its ``path`` says where), with the learning curve.

    A run that was interrupted or failed after its discovery, and whose record is ``unmeasured``
    or lies in ``out``, goes on from there. Raises :class:`InvalidSpec` if the record cannot be
    written to ``out``; it is then saved elsewhere, and the message says where.
    """
    if unmeasured is None:
        unmeasured = _left_unmeasured(prepared, out)
    with learning_curve(out / file_name(prepared.identity, prepared.run_id)) as plot:
        record = run_prepared(
            prepared,
            progress,
            tools=replace(tools, plot=plot),
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
