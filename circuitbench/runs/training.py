"""What a run hands a learner to train with: where it is saved, where it is shown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from circuitbench.core.errors import InvalidSpec
from circuitbench.core.extras import MissingExtra
from circuitbench.plugins.method import Learner, Method, TrainingTools
from circuitbench.results import check_folder

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
    if tensorboard is not None and find_spec("tensorboard") is None:
        raise MissingExtra("tensorboard", "--tensorboard")
    return TrainingTools(checkpoints=checkpoints, tensorboard=tensorboard)


def shaping(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's identity shapes its training: a checkpoint must agree in it.

    Values are hashed: enough to see that they differ, and nothing that tells a method which model
    it is asked about.
    """
    kept = {key: value for key, value in identity.items() if key not in AFTER_TRAINING}
    return {key: _digest(value) for key, value in kept.items()}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
