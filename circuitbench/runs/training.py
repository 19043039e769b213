"""What a run hands a learner to train with: where it is saved, where it is shown."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from circuitbench.core.errors import InvalidSpec
from circuitbench.core.extras import MissingExtra
from circuitbench.plugins.method import Learner, Method, TrainingTools
from circuitbench.results import Record, check_folder
from circuitbench.runs.prepare import Prepared

# Where a folder of records keeps trainings that have not ended.
CHECKPOINTS = ".checkpoints"

# What of a run's identity comes after training, or is the method's own to compare.
AFTER_TRAINING = ("budget", "functional", "hyperparameters")


def training_tools(
    method: Method, name: str, checkpoints: Path | None, tensorboard: Path | None
) -> TrainingTools:
    """The tools of a training whose folders were named by a user (None: no such folder).

    Raises:
        InvalidSpec: a folder is named but the method takes none, or it cannot be written.
        MissingExtra: TensorBoard events without the package that writes them.
    """
    for option, folder in (("--checkpoints", checkpoints), ("--tensorboard", tensorboard)):
        if folder is None:
            continue
        if not isinstance(method, Learner):
            raise InvalidSpec(f"{name} is no learner, so it has no use for {option}; leave it out")
        check_folder(folder)
    check_tensorboard(tensorboard)
    return TrainingTools(checkpoints=checkpoints, tensorboard=tensorboard)


def check_tensorboard(folder: Path | None) -> None:
    """Raise :class:`MissingExtra` if events are wanted that no installed package can write."""
    if folder is not None and find_spec("tensorboard") is None:
        raise MissingExtra("tensorboard", "--tensorboard")


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


def shaping(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's identity shapes its training: a checkpoint must agree in it.

    Values are hashed: enough to see that they differ, and nothing that tells a method which model
    it is asked about.
    """
    kept = {key: value for key, value in identity.items() if key not in AFTER_TRAINING}
    return {key: _digest(value) for key, value in kept.items()}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
