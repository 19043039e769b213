"""One prepared spec in, one record out; the stages fail apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from circuitbench.core.circuit import head_grid
from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import CircuitBenchError, TimedOut
from circuitbench.evaluation.answer_check import check_discovery
from circuitbench.oracle import Meter
from circuitbench.oracle.process_memory import start_afresh
from circuitbench.plugins.method import (
    Curriculum,
    Elsewhere,
    Learner,
    Method,
    TrainableMethod,
    TrainingTools,
    track_of,
)
from circuitbench.plugins.tiers import tier_of
from circuitbench.results import Record, hardware, plain, truth_of
from circuitbench.results.discovery import plain_discovery, read_discovery
from circuitbench.results.record import Stage, Status
from circuitbench.runs.degrees import degrees_of
from circuitbench.runs.failure import one_line, traceback_of, without_folders_in
from circuitbench.runs.prepare import Prepared, unmet
from circuitbench.runs.progress import Progress, silent
from circuitbench.runs.stages import discover, make_oracle, measure, train
from circuitbench.runs.unmeasured import INTERRUPTED

Keep = Callable[[Record], object]


def run(
    prepared: Prepared,
    progress: Progress = silent,
    *,
    tools: TrainingTools = TrainingTools(),
    keep: Keep = lambda record: None,
    unmeasured: Record | None = None,
    reraise: bool = False,
) -> Record:
    """Train if the method learns, discover, measure; always gives a record.

    Whatever a stage raises gives a record with status ``failed`` (or ``timeout``), the stage, the
    reason and the traceback. So does an exhausted budget, or an answer that is no
    :class:`Discovery` of finite numbers. A method that needs what this task or model cannot give
    (see :func:`circuitbench.runs.prepare.unmet`) asks nothing: the record is ``skipped``, with
    the reason.

    Args:
        prepared: what to run.
        progress: told the stage and how much of it is done.
        tools: where a training is saved and shown
            (see :func:`circuitbench.runs.training.training_tools`); no part of the identity.
        keep: handed the record with the discovery before it is measured, so that nothing
            after it can lose it; an error of ours that it raises is put up with.
        unmeasured: an earlier record of this run that
            :func:`~circuitbench.runs.unmeasured.is_unmeasured`: its discovery is
            measured, not repeated.
        reraise: raise what a stage raised, after ``keep`` got the failed record.
    """
    ongoing = _Ongoing(prepared, progress, tools)

    def keep_if_possible(record: Record) -> None:
        with suppress(CircuitBenchError):  # a folder that fails is met again by the caller
            keep(record)

    try:
        if reason := unmet(prepared):
            return ongoing.record("skipped", reason=reason)
        discovery = ongoing.go_on(unmeasured) if unmeasured else ongoing.discover()
        if prepared.spec.functional != "none":
            ongoing.stage = "measuring"
            keep_if_possible(ongoing.record("failed", "measuring", INTERRUPTED))
            ongoing.measure(discovery)
        return ongoing.record("done")
    except Exception as error:  # a plug-in may raise anything; a run must still leave a record
        status: Status = "timeout" if isinstance(error, TimedOut) else "failed"
        failed = ongoing.record(status, ongoing.stage, one_line(error), traceback_of(error))
        if reraise:
            keep_if_possible(failed)
            raise
        return failed


class _Ongoing:
    """A run as it goes: what is known so far makes a record at any moment."""

    def __init__(self, prepared: Prepared, progress: Progress, tools: TrainingTools) -> None:
        start_afresh()
        self.prepared, self.progress, self.tools = prepared, progress, tools
        self.stage: Stage = "loading"
        self.discovering, self.training, self.evaluation = Meter(), Meter(), Meter()
        self.outcome: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}
        self.costs: dict[str, Any] = {}
        self.hardware: dict[str, Any] = {**hardware(prepared.spec.device), **_isolation(prepared)}

    def discover(self) -> Discovery:
        """Load, train, discover."""
        prepared, spec = self.prepared, self.prepared.spec
        truth = prepared.task.truth(prepared.model)
        if truth is not None:
            head_grid(truth.heads, prepared.model.n_layers, prepared.model.n_heads)
            stored = truth_of(truth) | degrees_of(prepared, truth)
            self.outcome["truth"] = plain(stored, "truth")
        oracle = make_oracle(
            prepared, spec.task, prepared.task, "discovery", self.discovering, spec.budget
        )
        facts = {
            "accuracy": oracle.batch.accuracy,
            "clean_metric": oracle.clean_metric,
            "clean_control_loss": oracle.clean_control,
        }
        self.facts = plain(facts, "model")
        self.stage = "training"
        started = time.perf_counter()
        if isinstance(prepared.method, TrainableMethod):
            train(prepared, self.training, self.progress, self.tools)
        training_seconds = time.perf_counter() - started
        self.stage = "discovering"
        self.progress("discovering", None)
        started = time.perf_counter()
        discovery = discover(prepared, oracle)
        seconds = time.perf_counter() - started
        check_discovery(discovery, oracle.shape)
        kept = plain_discovery(discovery)
        self.outcome["discovery"] = {**kept, "info": without_folders_in(kept["info"])}
        self.costs = {
            "discovery": {**self.discovering.as_dict(), "method_seconds": seconds},
            "training": {**self.training.as_dict(), "method_seconds": training_seconds},
        }
        return discovery

    def go_on(self, record: Record) -> Discovery:
        """Take up everything that an earlier record of this run holds up to the discovery."""
        self.stage = "measuring"
        self.outcome = {"truth": record.truth, "discovery": record.discovery}
        self.facts = {
            key: record.model[key]
            for key in ("accuracy", "clean_metric", "clean_control_loss")
            if key in record.model
        }
        self.costs = {key: record.costs[key] for key in ("discovery", "training")}
        self.hardware = record.hardware  # the seconds above are that machine's
        return read_discovery(record.discovery)

    def measure(self, discovery: Discovery) -> None:
        """Ask the model about what was found."""
        self.progress("measuring", None)
        found = measure(self.prepared, discovery, self.evaluation)
        self.outcome["measurements"] = plain(found, "measurements")

    def record(
        self, status: Status, stage: Stage = "", reason: str = "", traceback: str = ""
    ) -> Record:
        """What is known now."""
        prepared = self.prepared
        spent = {"discovery": self.discovering.as_dict(), "training": self.training.as_dict()}
        return Record(
            spec=prepared.identity,
            status=status,
            stage=stage,
            reason=reason,
            traceback=traceback,
            info={**prepared.info, **_tier(prepared), "training": _trained_on(prepared.method)},
            **self.outcome,
            costs={**(self.costs or spent), "evaluation": self.evaluation.as_dict()},
            model={
                "n_layers": prepared.model.n_layers,
                "n_heads": prepared.model.n_heads,
                "provenance": without_folders_in(dict(prepared.model.provenance)),
                **self.facts,
            },
            versions=dict(prepared.versions),
            hardware=self.hardware,
            command=prepared.command,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def _isolation(prepared: Prepared) -> dict[str, Any]:
    """Where the method ran, and what it saw there for nothing."""
    method = prepared.method
    if isinstance(method, Elsewhere):
        return {"isolation": "process", "shown": list(method.shown)}
    return {"isolation": "in-process"}


def _tier(prepared: Prepared) -> dict[str, str]:
    """The tier of the run, if it belongs to one."""
    spec = prepared.spec
    found = tier_of(spec.task, prepared.model.name, spec.seed)
    return {} if found is None else {"tier": found}


def _trained_on(method: Method) -> dict[str, Any]:
    """The track of a method, and the other models that it learns on."""
    found = method.curriculum() if isinstance(method, Learner) else Curriculum()
    return {
        "track": track_of(method),
        "models": list(found.models),
        "labelled": found.labelled,
    }
