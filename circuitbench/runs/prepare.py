"""From names to things: everything of a run is found and checked before any work is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from circuitbench.core.errors import CircuitBenchError, InvalidPlugin
from circuitbench.models.base import Model
from circuitbench.oracle.engine.devices import Device, resolve_device
from circuitbench.plugins.hyperparameters import hyperparameters
from circuitbench.plugins.method import Curriculum, Learner, Method
from circuitbench.plugins.registry import (
    find,
    info_of,
    list_plugins,
    load_model,
    load_task,
    method_class,
)
from circuitbench.results import check_name, plain, run_id, versions
from circuitbench.runs.spec import RunSpec, configure
from circuitbench.runs.training import refuse_scored_name
from circuitbench.tasks.base import Task
from circuitbench.tasks.text.task import TextTask


@dataclass(frozen=True)
class Prepared:
    """A spec whose names are resolved: everything is loaded, nothing has been asked yet.

    ``spec`` states model and device as they are; ``identity`` is what a record keeps of it, with
    every hyperparameter.
    """

    spec: RunSpec
    method: Method
    task: Task
    model: Model
    identity: dict[str, Any]
    versions: dict[str, str | None]

    @property
    def info(self) -> dict[str, dict[str, Any]]:
        """What a record keeps of method, task and model."""
        found = info_of(self.spec.method, self.spec.task, self.model.name)
        if isinstance(self.task, TextTask):
            found["task"] = self.task.info.as_dict()
        return found

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


def prepare(spec: RunSpec, model_of: Callable[[str], Model] = load_model) -> Prepared:
    """Resolve every name, value and device of ``spec``.

    Args:
        spec: what is asked for.
        model_of: loads a model by name; one that remembers saves loading it again.

    Raises:
        UnknownName, InvalidSpec, InvalidPlugin, ModelUnavailable: the request is wrong, or a
            record could not hold it.
    """
    method = load_method(spec.method, **spec.hyperparameters)
    task = load_task(spec.task, spec.truth, spec.control)
    curriculum = _curriculum(method, spec.method) if isinstance(method, Learner) else Curriculum()
    for name in curriculum.tasks:
        load_task(name)
    for name in curriculum.models:
        find("model", name.partition("@")[0])
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
    plugin = next(p for p in list_plugins("method") if p.name == spec.method)
    extra = () if plugin.origin.startswith("circuitbench ") else (plugin.origin.split(" ")[0],)
    return Prepared(resolved, method, task, model, identity, versions(extra))


def _curriculum(method: Learner, name: str) -> Curriculum:
    try:
        return method.curriculum()
    except CircuitBenchError:
        raise
    except Exception as error:  # a third party's code
        raise InvalidPlugin(
            f"method {name!r}: curriculum() failed: {type(error).__name__}: {error}"
        ) from error
