"""Trainings that have not ended: where a folder of records keeps them, and until when."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from circuitbench.plugins.method import Learner, TrainingTools
from circuitbench.results import Record
from circuitbench.runs.prepare import Prepared
from circuitbench.runs.training import training_tools

CHECKPOINTS = ".checkpoints"


def tools_of(
    prepared: Prepared, out: Path, checkpoints: Path | None, tensorboard: Path | None
) -> TrainingTools:
    """The tools of one run; a learner saves its training beside the records if nowhere else.

    What it saves there is removed by :func:`forget` once the run has ended.
    """
    method = prepared.method
    if isinstance(method, Learner) and checkpoints is None:
        checkpoints = out / CHECKPOINTS / prepared.run_id
    return training_tools(method, prepared.spec.method, checkpoints, tensorboard)


def forget(out: Path, record: Record) -> None:
    """Remove the training that a run saved beside its record, unless it may still go on.

    A run that was out of time goes on from there if it is given more.
    """
    if record.status != "timeout":
        shutil.rmtree(out / CHECKPOINTS / record.run_id, ignore_errors=True)
        with suppress(OSError):
            (out / CHECKPOINTS).rmdir()
