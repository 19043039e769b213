"""A worker: does one job after another, and keeps loaded what the next may need.

Jobs: ``resolve`` (specs to identities, nothing is run) and ``run`` (a spec to a record on disk).
Methods are in processes of their own; what is done here is ours, and tasks and models.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from circuitbench.models.base import Model
from circuitbench.plugins.method import Learner, Method, TrainingTools
from circuitbench.plugins.registry import load_model, look_where
from circuitbench.results import read_record
from circuitbench.runs.isolation.channel import Channel, Closed
from circuitbench.runs.isolation.errors import described
from circuitbench.runs.isolation.host import in_own_processes
from circuitbench.runs.isolation.limits import Limits
from circuitbench.runs.isolation.nursery import Nursery, adopt
from circuitbench.runs.once import run_and_write
from circuitbench.runs.prepare import prepare
from circuitbench.runs.spec import RunSpec
from circuitbench.runs.trainings import forget, tools_of

MODELS = 4  # that a worker keeps loaded

Say = Callable[[str, float | None], None]


def begin(end: socket.socket, request: Mapping[str, Any]) -> None:
    """In a process that was just made: take on what the driver has, then work until it hangs up."""
    adopt(Nursery.forked())  # before there is anything that a method should not see
    look_where(request["path"])
    os.chdir(request["cwd"])
    if request["device"] is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(request["device"])
    torch.set_num_threads(request["threads"])
    channel, worker = Channel(end), Worker()

    def say(stage: str, fraction: float | None) -> None:
        channel.send({"progress": [stage, fraction]})

    try:
        while True:
            job, _ = channel.receive()
            channel.send(worker.do(job, say))
    except Closed:
        pass


class Worker:
    """Does jobs; what a job raises is its result."""

    def __init__(self) -> None:
        self._model: Callable[[str], Model] = lru_cache(MODELS)(load_model)
        self._stated: dict[str, Method] = {}

    def do(self, job: Mapping[str, Any], say: Say) -> dict[str, Any]:
        """``{"done": ...}``, or ``{"failed": ...}`` with the error."""
        try:
            return {"done": getattr(self, f"_{job['do']}")(job, say)}
        except Exception as error:
            return {"failed": described(error)}
        except SystemExit as error:  # a task or a model that exits when it is imported
            return {"failed": described(error)}

    def _resolve(self, job: Mapping[str, Any], say: Say) -> list[dict[str, Any]]:
        """Each spec's identity and versions, or why it has none."""
        return [self._resolved(spec, job) for spec in job["specs"]]

    def _resolved(self, fields: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
        try:
            with in_own_processes() as load:

                def stated(name: str, **hyperparameters: Any) -> Method:
                    key = json.dumps([name, hyperparameters], sort_keys=True, default=str)
                    if key not in self._stated:
                        self._stated[key] = load(name, **hyperparameters)
                    return self._stated[key]

                prepared = prepare(RunSpec(**fields), self._model, stated)
        except (Exception, SystemExit) as error:
            return {"failed": described(error)}
        return {
            "identity": prepared.identity,
            "versions": prepared.versions,
            "learner": isinstance(prepared.method, Learner),
        }

    def _run(self, job: Mapping[str, Any], say: Say) -> str:
        """Where the record is."""
        out = Path(job["out"])
        folders = (job[key] and Path(job[key]) for key in ("checkpoints", "tensorboard"))
        unmeasured = job["unmeasured"] and read_record(job["unmeasured"])
        with in_own_processes(Limits(**job["limits"])) as method_of:
            say("loading", None)
            prepared = prepare(RunSpec(**job["spec"]), self._model, method_of)
            learns = isinstance(prepared.method, Learner)  # others have no use for folders
            tools = tools_of(prepared, out, *folders) if learns else TrainingTools()
            record = run_and_write(prepared, out, say, tools=tools, unmeasured=unmeasured)
        forget(out, record)
        return str(record.path)
