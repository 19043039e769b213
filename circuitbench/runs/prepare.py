"""From names to things: everything of a run is found and checked before any work is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

from circuitbench.core.edges import edge_count
from circuitbench.core.errors import CircuitBenchError, InvalidPlugin
from circuitbench.core.info import attached
from circuitbench.core.seeding import generator
from circuitbench.models.base import Model
from circuitbench.oracle.engine.devices import Device, resolve_device
from circuitbench.plugins.hyperparameters import hyperparameters
from circuitbench.plugins.method import Curriculum, Elsewhere, Learner, Method
from circuitbench.plugins.registry import (
    describe,
    find,
    info_of,
    list_plugins,
    load_model,
    load_task,
    method_class,
    plugin_of,
)
from circuitbench.results import check_name, plain, run_id, versions
from circuitbench.runs.command import command_line
from circuitbench.runs.spec import RunSpec, configure
from circuitbench.runs.training import refuse_scored_name
from circuitbench.tasks.base import Task
from circuitbench.tasks.text.task import TextTask


@dataclass(frozen=True)
class Prepared:
    """A spec whose names are resolved: everything is loaded, nothing has been asked yet.

    ``spec`` states model and device as they are; ``identity`` is what a record keeps of it, with
    every hyperparameter; ``info`` is what the plug-ins say of themselves; ``command`` repeats the
    run, and is empty where an object was handed over that no command can name.
    """

    spec: RunSpec
    method: Method
    task: Task
    model: Model
    identity: dict[str, Any]
    versions: dict[str, str | None]
    info: dict[str, Any]
    command: str

    @property
    def run_id(self) -> str:
        """The hash of everything that can change a number."""
        return run_id(self.identity, self.versions)


def load_method(name: str, **hyperparameters: Any) -> Method:
    """An instance of the method of this name.

    Raises:
        UnknownName: no method has this name, or it has no such hyperparameter.
        InvalidSpec: a hyperparameter of the wrong type.
    """
    return cast("Method", configure(method_class(name), hyperparameters, name))


def prepare(
    spec: RunSpec,
    model_of: Callable[[str], Model] = load_model,
    method_of: Callable[..., Method] = load_method,
    task_of: Callable[..., Task] = load_task,
    unregistered: Mapping[str, str | None] = MappingProxyType({}),
) -> Prepared:
    """Resolve every name, value and device of ``spec``.

    Args:
        spec: what is asked for.
        model_of: loads a model by name; one that remembers saves loading it again.
        method_of: loads a method by name and hyperparameters: here, or in a process of its own
            (:mod:`circuitbench.runs.isolation`).
        task_of: loads the task of the run by name, which truth scores it, and control text.
        unregistered: ``method``, ``task`` or ``model`` -> what tells it from others of its name,
            of those that are no installed plug-ins; part of the run's identity.

    Raises:
        UnknownName, InvalidSpec, InvalidPlugin, ModelUnavailable: the request is wrong, or a
            record could not hold it.
    """
    method = method_of(spec.method, **spec.hyperparameters)
    task = task_of(spec.task, spec.truth, spec.control)
    curriculum = curriculum_of(method, spec.method) if isinstance(method, Learner) else Curriculum()
    for name in curriculum.tasks:
        if name != spec.task:
            load_task(name)
    for name in curriculum.models:
        find("model", plugin_of(name)[0])
    device = cast("Device", resolve_device(spec.device).type)
    model = model_of(spec.model or task.default_model)
    refuse_scored_name(spec.method, curriculum.models, model.name)
    resolved = dataclasses.replace(spec, model=model.name, device=device)
    if isinstance(task, TextTask):  # a file is named without its folder, by what it says
        resolved = dataclasses.replace(resolved, task=task.name, control=task.control_name)
    for kind in ("method", "task", "model"):
        check_name(kind, getattr(resolved, kind))
    for kind in ("truth", "control"):
        if getattr(resolved, kind) is not None:
            check_name(kind, getattr(resolved, kind))
    plain(model.provenance, "model.provenance")
    fields = {f.name: getattr(resolved, f.name) for f in dataclasses.fields(resolved)}
    for kind in ("truth", "control"):
        if fields[kind] is None:  # runs from before there was a choice keep their ids
            del fields[kind]
    identity = plain({**fields, "hyperparameters": hyperparameters(method)}, "spec")
    info = info_of(spec.method, spec.task, model.name)
    if isinstance(task, TextTask):
        info["task"] = task.info.as_dict()
    if unregistered:
        identity["unregistered"] = plain(dict(unregistered), "unregistered")
        given = {"method": type(method), "task": type(task)}
        said = {kind: attached(given[kind]) for kind in unregistered if kind in given}
        info |= {kind: found.as_dict() for kind, found in said.items() if found is not None}
    origins = [p.origin for p in list_plugins("method") if p.name == spec.method]
    extra = tuple(o.split(" ")[0] for o in origins[:1] if not o.startswith("circuitbench "))
    command = "" if unregistered else command_line(resolved)
    return Prepared(resolved, method, task, model, identity, versions(extra), info, command)


def unmet(prepared: Prepared) -> str:
    """Why this method cannot run on this task and model, in a line; empty where it can.

    It asks what the method's :class:`~circuitbench.core.info.Info` says it needs and what is too
    large for it, and draws one prompt where the method needs positions by name.
    """
    spec, model = prepared.spec, prepared.model
    away = isinstance(prepared.method, Elsewhere)
    info = describe("method", spec.method) if away else attached(type(prepared.method))
    needs = () if info is None else info.needs
    known = {"edges": "edges", "rules": "backward rules"}
    for need, what in known.items():
        if need in needs and model.transformer is None:
            return f"{spec.method} needs {what}; {model.name} is run by hooks, which know none"
    most, transformer = 0 if info is None else info.most_edges, model.transformer
    if most and spec.budget is None and transformer is not None:
        n = edge_count(model.n_layers, model.n_heads, transformer.config.d_mlp > 0)
        if n > most:
            return (
                f"{spec.method} asks about every edge; {model.name} has {n:,}, more than {most:,}: "
                "give a budget"
            )
    if "spans" in needs:
        drawn = prepared.task.prompts(model, 1, generator(spec.seed, spec.task, "spans"))
        if drawn.spans is None:
            return f"{spec.method} needs named positions; the prompts of {spec.task} have no spans"
    return ""


def curriculum_of(method: Learner, name: str) -> Curriculum:
    """What a learner trains on; raises :class:`InvalidPlugin` if it cannot say."""
    try:
        return method.curriculum()
    except CircuitBenchError:
        raise
    except Exception as error:  # a third party's code
        raise InvalidPlugin(
            f"method {name!r}: curriculum() failed: {type(error).__name__}: {error}"
        ) from error
