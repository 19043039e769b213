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
from circuitbench.plugins.registry import list_plugins, load_model, load_task, method_class
from circuitbench.results import check_name, plain, run_id, versions
from circuitbench.runs.spec import RunSpec, configure
from circuitbench.tasks.base import Task


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
) -> Prepared:
    """Resolve every name, value and device of ``spec``.

    Args:
        spec: what is asked for.
        model_of: loads a model by name; one that remembers saves loading it again.
        method_of: loads a method by name and hyperparameters: here, or in a process of its own
            (:mod:`circuitbench.runs.isolation`).

    Raises:
        UnknownName, InvalidSpec, InvalidPlugin, ModelUnavailable: the request is wrong, or a
            record could not hold it.
    """
    method = method_of(spec.method, **spec.hyperparameters)
    task = load_task(spec.task)
    if isinstance(method, Learner):
        for name in curriculum_of(method, spec.method).tasks:
            load_task(name)
    device = cast("Device", resolve_device(spec.device).type)
    model = model_of(spec.model or task.default_model)
    for kind, name in (("method", spec.method), ("task", spec.task), ("model", model.name)):
        check_name(kind, name)
    plain(model.provenance, "model.provenance")
    resolved = dataclasses.replace(spec, model=model.name, device=device)
    fields = {f.name: getattr(resolved, f.name) for f in dataclasses.fields(resolved)}
    identity = plain({**fields, "hyperparameters": hyperparameters(method)}, "spec")
    plugin = next(p for p in list_plugins("method") if p.name == spec.method)
    extra = () if plugin.origin.startswith("circuitbench ") else (plugin.origin.split(" ")[0],)
    return Prepared(resolved, method, task, model, identity, versions(extra))


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
