"""An installed plug-in held against the contract of its kind, whatever kind it is."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from circuitbench.checks.contracts import (
    METHOD,
    METRIC,
    MODEL,
    TASK,
    Finding,
    MethodUnderTest,
    MetricUnderTest,
    ModelUnderTest,
    TaskUnderTest,
)
from circuitbench.core.errors import InvalidPlugin, InvalidSpec, UnknownName
from circuitbench.evaluation.metric_catalogue import OURS
from circuitbench.evaluation.metrics import GROUP
from circuitbench.plugins.method import Method
from circuitbench.plugins.registry import KINDS, find, list_plugins, load_entry, load_model, origin

WHATS = (*KINDS, "metric")


@dataclass(frozen=True)
class Report:
    """How one plug-in stands to each promise of its kind.

    Args:
        what: ``method``, ``task``, ``model`` or ``metric``.
        name: of the plug-in.
        origins: ``module:object (distribution version)``, of each that has this name.
        findings: in the order of the contract; the first says whether it can be imported.
    """

    what: str
    name: str
    origins: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def broken(self) -> tuple[Finding, ...]:
        """The promises that are broken."""
        return tuple(finding for finding in self.findings if finding.standing == "broken")

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        shown = ("name", "says", "standing", "message", "advice", "traceback")
        findings = [{key: getattr(finding, key) for key in shown} for finding in self.findings]
        return {**vars(self), "origins": list(self.origins), "findings": findings}


def examine(
    name: str,
    what: str | None = None,
    *,
    model: str | None = None,
    make: Callable[[type[Method]], Method] | None = None,
) -> list[Report]:
    """Hold every plug-in called ``name`` against its contract.

    Args:
        name: of a method, a task, a model or a metric (its entry point or its key).
        what: which of them, if several are called so.
        model: what a task is checked on; None means its own.
        make: makes an instance of a method's class; None calls the class.

    Raises:
        UnknownName: there is no such plug-in or model.
        InvalidSpec: an argument that this kind of plug-in has no use for.
        ModelUnavailable, MissingExtra: it cannot be checked on this machine.
    """
    if what is not None and what not in WHATS:
        raise UnknownName("kind of plug-in", what, WHATS)
    kinds = WHATS if what is None else (what,)
    found = {kind: origins(kind, name) for kind in kinds}
    named = [kind for kind in kinds if found[kind]]
    if not named:
        raise UnknownName(
            what or "plug-in", name, {known for kind in kinds for known in _names(kind)}
        )
    if model is not None and "task" not in named:
        raise InvalidSpec(f"{name} is a {named[0]}; only a task is checked on a model")
    if make is not None and "method" not in named:
        raise InvalidSpec(f"{name} is a {named[0]}, which has no hyperparameters")
    look: dict[str, Callable[[Any], Iterable[Finding]]] = {
        "method": lambda cls: METHOD.look(
            MethodUnderTest(cls if make is None else lambda: make(cls))
        ),
        "task": lambda cls: _look_at_task(cls, model),
        "model": lambda factory: MODEL.look(ModelUnderTest(factory)),
        "metric": lambda metric: METRIC.look(MetricUnderTest(metric)),
    }
    return [Report(kind, name, found[kind], tuple(_look(kind, name, look[kind]))) for kind in named]


def _look(what: str, name: str, look: Callable[[Any], Iterable[Finding]]) -> Iterable[Finding]:
    says = "It can be imported, and nothing else is registered under its name."
    advice = "Import it in Python yourself; see that one distribution alone registers the name."
    try:
        plugin = _find_metric(name) if what == "metric" else find(what, name)  # type: ignore[arg-type]
    except InvalidPlugin as error:
        cause = "".join(traceback.format_exception(error.__cause__ or error))
        yield Finding("import", says, advice, "broken", str(error), cause, error)
        return
    yield Finding("import", says, advice, "kept")
    yield from look(plugin)


def _look_at_task(cls: Any, model: str | None) -> Iterable[Finding]:
    task = cls()
    return TASK.look(TaskUnderTest(task, load_model(model or task.default_model)))


def _names(what: str) -> set[str]:
    if what != "metric":
        return {plugin.name for plugin in list_plugins(what)}  # type: ignore[arg-type]
    return {m.key for m in OURS} | {entry.name for entry in entry_points(group=GROUP)}


def origins(what: str, name: str) -> tuple[str, ...]:
    """``module:object (distribution version)`` of every ``what`` that is called ``name``."""
    if what != "metric":
        known = list_plugins(what)  # type: ignore[arg-type]
        return tuple(f"{p.target} ({p.origin})" for p in known if p.name == name)
    ours = tuple(f"{m.key} (circuitbench)" for m in OURS if m.key == name)
    theirs = (entry for entry in entry_points(group=GROUP) if entry.name == name)
    return (*ours, *(f"{entry.value} ({origin(entry)})" for entry in theirs))


def _find_metric(name: str) -> object:
    entries = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    ours = [metric for metric in OURS if metric.key == name]
    if ours and entries:
        raise InvalidPlugin(f"metric {name!r} is registered twice: by {origins('metric', name)}")
    return ours[0] if ours else load_entry("metric", name, entries)
