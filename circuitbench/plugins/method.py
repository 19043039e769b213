"""What a method is: something that asks the oracle and says which heads carry the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from circuitbench.core.circuit import Circuit
from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import InvalidSpec
from circuitbench.oracle import Oracle

# Told the fraction of the training that is done, and a line of figures.
Report = Callable[[float, str], None]

# Told one point of the learning curve: figures by name.
Plot = Callable[[Mapping[str, float | None]], None]

# What a method learnt on before it is asked: nothing, the model it is scored on, others only.
Track = Literal["none", "same-model", "other-models"]


def unreported(fraction: float, text: str) -> None:
    """The report that goes nowhere."""


def unplotted(point: Mapping[str, float | None]) -> None:
    """The learning curve that nobody keeps."""


@dataclass(frozen=True)
class Curriculum:
    """What a learner is trained on.

    Args:
        tasks: names of tasks; none means the one that is to be discovered.
        pool: prompts in the pool that training batches are drawn from, so that a repeated
            question costs no compute (it is still counted); never less than a batch. None
            draws every batch afresh.
        models: names of other models (``planted@150``); the tasks are then those of each of
            them. The one that is scored is refused. None means that one, and no other.
        labelled: whether the learner is told the true circuits of the tasks on those models
            (:attr:`TrainingTools.truths`); never that of the model it is scored on.
        spent: what a learner that brings what it learnt has cost whoever trained it, by the
            counters of a :class:`Meter`. It is handed no oracle, and the costs of its training are
            these. Only with ``models`` and ``tasks``, which say what it was trained on.
    """

    tasks: tuple[str, ...] = ()
    pool: int | None = None
    models: tuple[str, ...] = ()
    labelled: bool = False
    spent: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.spent and not (self.models and self.tasks):
            raise InvalidSpec("what was trained elsewhere must name its models and tasks")
        if self.labelled and not self.models:
            raise InvalidSpec("true circuits are told of other models only; name some in models")
        if self.pool is not None and self.pool < 1:
            raise InvalidSpec(f"pool must be 1 or more, not {self.pool}")


@dataclass(frozen=True)
class TrainingTools:
    """What a learner may use while it trains; none of it but the truths may change a number.

    Args:
        report: to be called now and then.
        checkpoints: a folder to save the training in, and to go on from if it holds one.
        tensorboard: a folder for TensorBoard events.
        run: the facts of the run that a checkpoint must agree in to be taken up, JSON-able.
        truths: the true circuit for each oracle, in their order, if the curriculum is labelled.
        plot: to be told the points of the learning curve, all with the same names; one that goes
            on from a checkpoint tells the earlier ones again.
    """

    report: Report = unreported
    checkpoints: Path | None = None
    tensorboard: Path | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    truths: tuple[Circuit, ...] = ()
    plot: Plot = unplotted


@runtime_checkable
class Method(Protocol):
    """The contract of the entry-point group ``circuitbench.methods``.

    A method is a dataclass whose fields are its hyperparameters, all with defaults. A field that
    is itself a dataclass is a group of them (``--set ppo.gamma=0.9``). The entry point's name is
    the method's name. See :func:`circuitbench.checks.contracts.check_method`.
    """

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """Ask ``oracle``, draw only from ``rng``, return a :class:`Discovery`."""
        ...


@runtime_checkable
class TrainableMethod(Method, Protocol):
    """A method that trains first, on the run's task; what that costs is metered apart."""

    def train(self, oracles: Sequence[Oracle], rng: np.random.Generator) -> None:
        """Learn on the training oracles (other prompts than those of ``discover``)."""
        ...


@runtime_checkable
class Learner(TrainableMethod, Protocol):
    """A trainable method that chooses what it trains on and is handed tools to do it."""

    def curriculum(self) -> Curriculum:
        """What the training oracles are to be."""
        ...

    def train(
        self,
        oracles: Sequence[Oracle],
        rng: np.random.Generator,
        tools: TrainingTools = TrainingTools(),
    ) -> None:
        """Learn on one oracle per task of the curriculum, and per model if it names some.

        There is none where all was :attr:`Curriculum.spent` before.
        """
        ...


def track_of(method: Method) -> Track:
    """What a method learns on; methods of different tracks are not compared in one ranking."""
    if not isinstance(method, TrainableMethod):
        return "none"
    others = isinstance(method, Learner) and method.curriculum().models
    return "other-models" if others else "same-model"


@runtime_checkable
class Elsewhere(Protocol):
    """What stands for a method that is in a process of its own; no plug-in is one."""

    stated_hyperparameters: Mapping[str, Any]
    shown: Sequence[str]  # what the method is shown beside answers
