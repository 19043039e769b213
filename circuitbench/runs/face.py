"""Runs from Python: by name or with objects of your own, to be interrupted and gone on with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from circuitbench.core.errors import CorruptRecord, InvalidPlugin, InvalidSpec
from circuitbench.evaluation.metrics import DEFAULT, ranking_metric
from circuitbench.models.base import Model
from circuitbench.models.digest import weights_digest
from circuitbench.plugins.given import fingerprint, name_of, registered_name
from circuitbench.plugins.hyperparameters import hyperparameters
from circuitbench.plugins.memory import remembered
from circuitbench.plugins.method import Method
from circuitbench.results import Record, check_folder, file_name, read_record
from circuitbench.results.comparison import SideBySide, side_by_side
from circuitbench.results.result import Result
from circuitbench.runs.isolation.limits import Limits
from circuitbench.runs.once import loading, run_and_write
from circuitbench.runs.prepare import Prepared, load_method, prepare
from circuitbench.runs.progress import Progress
from circuitbench.runs.progress_bar import shown_progress
from circuitbench.runs.run import run as run_prepared
from circuitbench.runs.spec import build_spec, configure, dotted
from circuitbench.runs.training import training_tools
from circuitbench.runs.trainings import forget, tools_of
from circuitbench.tasks.base import Task


def run(
    method: str | Method | type[Method] | None = None,
    *,
    task: str | Task | None = None,
    model: str | Model | None = None,
    results: Path | str | None = None,
    progress: Progress | bool | None = None,
    checkpoints: Path | str | None = None,
    tensorboard: Path | str | None = None,
    reraise: bool = False,
    isolated: bool = False,
    timeout: float | None = None,
    memory: int | None = None,
    **settings: Any,
) -> Result:
    """Run one method on one task and return what came of it.

    Objects that are no installed plug-ins are run like any other. Their record names them by
    module and class, holds a hash of their source (of a model, of its weights), and no command
    that would repeat the run.

    Args:
        method: name of a registered method; or a method, or its class, of your own.
        task: name of a registered task; or a task of your own.
        model: ``name`` or ``name@variant``; or a model of your own; None: the task's default.
        results: folder for the record. A run that is finished there is read, not repeated. One
            that was interrupted goes on when the same call is made again: from its discovery if
            it had one, a learner's from the last checkpoint of its training.
        progress: called with the stage and the fraction of it that is done; or True for a bar,
            False for none; None: a bar in notebooks.
        checkpoints: folder to save a learner's training in, and to go on from; None: with
            ``results`` in there until the run has ended.
        tensorboard: folder for TensorBoard events of a learner's training.
        reraise: raise what the method raised, instead of returning a failed run.
        isolated: run the method, which is then a registered one by name, in a process of its own
            as the command line does (docs/isolation.md).
        timeout: seconds that an isolated method may take.
        memory: bytes that an isolated method may take.
        **settings: the other fields of :class:`~circuitbench.runs.spec.RunSpec`: ``seed``,
            ``budget``, ``ablation``, ``hyperparameters`` ...

    Raises:
        UnknownName, InvalidSpec, InvalidPlugin, ModelUnavailable: the request is wrong.
    """
    limits = Limits(timeout, memory)
    if isolated and method is not None and not isinstance(method, str):
        raise InvalidSpec("a process of its own finds a method by its name; hand that over")
    if limits != Limits() and not isolated:
        raise InvalidSpec("timeout and memory are for a method with isolated=True")
    with loading(not isolated, limits) as method_of:
        prepared = _prepare(method, task, model, settings, method_of)
        folder = None if results is None else Path(results)
        if folder is not None:
            check_folder(folder)
            finished = _finished(prepared, folder)
            if finished is not None:
                return Result(finished)
        folders = [None if path is None else Path(path) for path in (checkpoints, tensorboard)]
        title = f"{prepared.spec.method} on {prepared.spec.task}"
        with shown_progress(title, progress) as shown:
            if folder is None:
                tools = training_tools(prepared.method, prepared.spec.method, *folders)
                return Result(run_prepared(prepared, shown, tools=tools, reraise=reraise))
            tools = tools_of(prepared, folder, *folders)
            record = run_and_write(prepared, folder, shown, tools=tools, reraise=reraise)
        forget(folder, record)
    return Result(record)


def compare(
    *sides: str | Method | type[Method] | Result | Record | Iterable[Result | Record],
    by: str = DEFAULT,
    seeds: Iterable[int] = (0,),
    progress: Progress | bool | None = None,
    **settings: Any,
) -> SideBySide:
    """Several methods side by side, best first.

    Args:
        *sides: methods (run here, with every seed), or results and records of runs.
        by: the metric that orders them.
        seeds: of the runs that are made here.
        progress: see :func:`run`.
        **settings: of the runs that are made here, see :func:`run`: ``task``, ``results`` ...

    Raises:
        UnknownName, InvalidSpec: there is no such method or metric, or no run that every method
            finished.
    """
    ranking_metric(by)
    found: list[Result | Record] = []
    for side in sides:
        if isinstance(side, Result | Record):
            found.append(side)
        elif isinstance(side, str | Method | type):
            runs = ({**settings, "seed": seed} for seed in seeds)
            found += [run(side, progress=progress, **each) for each in runs]
        else:
            found += side
    return side_by_side(found, by)


def _prepare(
    method: str | Method | type[Method] | None,
    task: str | Task | None,
    model: str | Model | None,
    settings: Mapping[str, Any],
    method_of: Callable[..., Method],
) -> Prepared:
    """Everything of a run, found by name where it has one, taken as it is where not."""
    spec = dict(settings)
    hows: dict[str, Any] = {"method_of": method_of}
    unregistered: dict[str, str | None] = {}
    if method is not None and not isinstance(method, str):
        instance = _instance(method, spec)
        name = registered_name("method", type(instance))
        if name is not None:
            spec["hyperparameters"] = _changes(instance, name)
        else:
            name = name_of(type(instance))
            unregistered["method"] = fingerprint(instance)
            hows["method_of"] = lambda _, **__: instance
        method = name
    if task is not None and not isinstance(task, str):
        name = remembered(task) or (None if vars(task) else registered_name("task", type(task)))
        if name is None:
            name = name_of(type(task))
            unregistered["task"] = fingerprint(task)
        given_task, task = task, name
        hows["task_of"] = lambda *_: given_task
    if model is not None and not isinstance(model, str):
        if remembered(model) is None:
            weights = model.transformer
            unregistered["model"] = None if weights is None else weights_digest(weights)[:16]
        given_model, model = model, model.name
        hows["model_of"] = lambda _: given_model
    named = {"method": method, "task": task, "model": model}
    layers = ({key: value for key, value in named.items() if value is not None}, spec)
    return prepare(build_spec(*layers), unregistered=unregistered, **hows)


def _instance(method: Method | type[Method], settings: dict[str, Any]) -> Method:
    """A fresh instance: what one learned before is no part of the run."""
    changes = settings.pop("hyperparameters", None)
    if isinstance(method, type):
        made: Method = configure(method, changes or {}, method.__name__)
        return made
    if changes:
        raise InvalidSpec(
            f"{type(method).__name__} was handed over with its hyperparameters; "
            "change them there, or hand over the class"
        )
    if not isinstance(method, Method) or not dataclasses.is_dataclass(method):
        raise InvalidPlugin(
            f"{type(method).__name__} must be a dataclass with discover(oracle, rng)"
        )
    copy: Method = dataclasses.replace(method)
    return copy


def _changes(method: Method, name: str) -> dict[str, Any]:
    """In which hyperparameters it differs from the registered method as it comes."""
    usual = dotted(hyperparameters(load_method(name)))
    return {k: v for k, v in dotted(hyperparameters(method)).items() if usual.get(k) != v}


def _finished(prepared: Prepared, folder: Path) -> Record | None:
    """The record of this run, if it is there and done."""
    if None in prepared.identity.get("unregistered", {}).values():
        return None  # code that cannot be read may have changed
    with suppress(CorruptRecord):
        record = read_record(folder / file_name(prepared.identity, prepared.run_id))
        if record.status == "done":
            return record
    return None
