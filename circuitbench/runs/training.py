"""What a run hands a learner to train with: where it is saved, where it is shown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from circuitbench.core.errors import InvalidSpec
from circuitbench.core.extras import MissingExtra
from circuitbench.models.base import Model
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
    check_tensorboard(tensorboard)
    return TrainingTools(checkpoints=checkpoints, tensorboard=tensorboard)


def check_tensorboard(folder: Path | None) -> None:
    """Raise :class:`MissingExtra` if events are wanted that no installed package can write."""
    if folder is not None and find_spec("tensorboard") is None:
        raise MissingExtra("tensorboard", "--tensorboard")


def refuse_scored_name(method: str, others: Iterable[str], scored: str) -> None:
    """Refuse a model to train on that is the scored one by its name (``planted`` is seed 0)."""
    for name in others:
        if _full(name) == _full(scored):
            raise _is_scored(method, name)


def refuse_scored(method: str, other: Model, scored: Model) -> None:
    """Refuse a model to train on that is the scored one, by name or by weights.

    Raises :class:`InvalidSpec`.
    """
    refuse_scored_name(method, [other.name], scored.name)
    one, two = other.transformer, scored.transformer
    if one is not None and two is not None and torch.equal(one.W_E, two.W_E):
        raise _is_scored(method, other.name)


def _is_scored(method: str, name: str) -> InvalidSpec:
    return InvalidSpec(
        f"{method} is to train on other models, but {name} is the one it is scored on; "
        "leave it out of its models, or score it on another"
    )


def _full(name: str) -> str:
    """A model's name with its seed."""
    base, _, variant = name.partition("@")
    return f"{base}@{variant or 0}"


def shaping(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's identity shapes its training: a checkpoint must agree in it.

    Values are hashed: enough to see that they differ, and nothing that tells a method which model
    it is asked about.
    """
    kept = {key: value for key, value in identity.items() if key not in AFTER_TRAINING}
    return {key: _digest(value) for key, value in kept.items()}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
