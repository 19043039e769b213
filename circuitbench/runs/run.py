"""One spec in, one record out: the only place where task, oracle, method and evaluator meet."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import yaml

from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import CircuitBenchError, InvalidPlugin, InvalidSpec, RunFailed
from circuitbench.core.seeding import derive_seed, generator
from circuitbench.evaluation import evaluate
from circuitbench.evaluation.against_truth.evaluate import checked_scores, checked_selection
from circuitbench.evaluation.without_truth.measurements import QUICK, FunctionalSettings, functional
from circuitbench.evaluation.without_truth.stability import stability
from circuitbench.models.base import Model
from circuitbench.oracle import Meter, Oracle
from circuitbench.oracle.process_memory import start_afresh
from circuitbench.plugins.method import Method, TrainableMethod
from circuitbench.plugins.registry import (
    Plugin,
    describe,
    list_plugins,
    load_model,
    load_task,
    method_class,
)
from circuitbench.results import Record, hardware, run_id, versions
from circuitbench.results.record import truth_of
from circuitbench.runs.spec import Device, RunSpec, configure
from circuitbench.tasks.base import Task

# Called with the stage's name and the fraction of it that is done (None: not known).
Progress = Callable[[str, float | None], None]


def silent(stage: str, fraction: float | None) -> None:
    """The progress callback that shows nothing."""


@dataclass(frozen=True)
class Prepared:
    """A spec whose names are resolved: everything is loaded, nothing has been asked yet."""

    spec: RunSpec
    method: Method
    task: Task
    model: Model
    plugin: Plugin
    identity: dict[str, Any]
    versions: dict[str, str | None]

    @property
    def run_id(self) -> str:
        """The hash of everything that can change a number."""
        return run_id(self.identity, self.versions)


def prepare(spec: RunSpec) -> Prepared:
    """Resolve every name, value and device of ``spec``.

    Raises:
        UnknownName, InvalidSpec, InvalidPlugin, ModelUnavailable: the request is wrong.
    """
    method = configure(method_class(spec.method), spec.hyperparameters, spec.method)
    task = load_task(spec.task)
    device = resolve_device(spec.device)
    model = load_model(spec.model or task.default_model)
    resolved = dataclasses.replace(spec, model=model.name, device=device)
    identity = {
        **{key: getattr(resolved, key) for key in vars(resolved) if key != "hyperparameters"},
        "hyperparameters": hyperparameters(method),
    }
    plugin = next(p for p in list_plugins("method") if p.name == spec.method)
    extra = () if plugin.origin.startswith("circuitbench ") else (plugin.origin.split(" ")[0],)
    return Prepared(resolved, method, task, model, plugin, identity, versions(extra))


def run(prepared: Prepared, progress: Progress = silent) -> Record:
    """Train if the method learns, discover, evaluate; always returns a record.

    A method that raises, or answers with values that are not numbers, gives a record with
    status ``failed`` and the reason; so does an exhausted budget.
    """
    spec = prepared.spec
    start_afresh()
    discovery_meter, training_meter, evaluation_meter = Meter(), Meter(), Meter()
    truth = prepared.task.truth(prepared.model)
    facts: dict[str, Any] = {}
    try:
        oracle = _oracle(
            prepared, spec.task, prepared.task, "discovery", discovery_meter, spec.budget
        )
        facts = {
            "accuracy": oracle.batch.accuracy,
            "clean_metric": oracle.clean_metric,
            "clean_control_loss": oracle.clean_control,
        }
        started = time.perf_counter()
        if isinstance(prepared.method, TrainableMethod):
            _train(prepared, training_meter, progress)
        training_seconds = time.perf_counter() - started
        progress("discovering", None)
        started = time.perf_counter()
        discovery = prepared.method.discover(
            oracle, generator(spec.seed, spec.task, prepared.model.name, spec.method, "method")
        )
        seconds = time.perf_counter() - started
        check_discovery(discovery, oracle.shape)
        progress("evaluating", None)
        metrics = evaluate(discovery, truth, discovery_meter.queries)
        if spec.functional != "none":
            metrics["functional"] = functional(
                _oracle(prepared, spec.task, prepared.task, "evaluation", evaluation_meter),
                discovery,
                generator(spec.seed, spec.task, prepared.model.name, "functional"),
                QUICK if spec.functional == "quick" else FunctionalSettings(),
            )
            del metrics["functional"]["cost"]  # it stands with the other costs
        outcome: dict[str, Any] = {
            "status": "done",
            "metrics": metrics,
            "discovery": _plain_discovery(discovery),
            "costs": {
                "discovery": {**discovery_meter.as_dict(), "method_seconds": seconds},
                "training": {**training_meter.as_dict(), "method_seconds": training_seconds},
                "evaluation": evaluation_meter.as_dict(),
            },
        }
    except Exception as error:  # a plug-in may raise anything; a run must still leave a record
        outcome = {
            "status": "failed",
            "reason": _one_line(error),
            "costs": {
                "discovery": discovery_meter.as_dict(),
                "training": training_meter.as_dict(),
            },
        }
    return Record(
        spec=prepared.identity,
        family=describe("method", spec.method).family,
        truth=truth_of(truth),
        model={
            "n_layers": prepared.model.n_layers,
            "n_heads": prepared.model.n_heads,
            "provenance": dict(prepared.model.provenance),
            **facts,
        },
        versions=dict(prepared.versions),
        hardware=hardware(spec.device),
        command=command_line(prepared.spec),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        **outcome,
    )


def measure_stability(
    prepared: Prepared, resamples: int = 100, seeds: int = 5, progress: Progress = silent
) -> dict[str, Any]:
    """Agreement of a method with itself over fresh prompts and over its own seeds.

    Trains once if the method learns. See
    :func:`circuitbench.evaluation.without_truth.stability.stability`.
    """
    spec = prepared.spec
    if isinstance(prepared.method, TrainableMethod):
        _train(prepared, Meter(), progress)
    asked = 0

    def make_oracle(seed: int) -> Oracle:
        nonlocal asked
        progress("discovering", asked / (resamples + seeds))
        asked += 1
        purpose = f"stability {seed}"
        return _oracle(prepared, spec.task, prepared.task, purpose, Meter(), spec.budget)

    return stability(prepared.method, make_oracle, spec.seed, resamples, seeds)


def check_discovery(discovery: object, shape: tuple[int, int]) -> None:
    """Raise :class:`RunFailed` unless ``discovery`` keeps the contract of :class:`Discovery`."""
    if not isinstance(discovery, Discovery):
        raise RunFailed(f"discover() must return a Discovery, not {type(discovery).__name__}")
    checked_scores(discovery.scores, *shape)
    if discovery.signed is not None:
        checked_scores(discovery.signed, *shape)
    checked_selection(discovery, *shape)
    for point in discovery.trace:
        checked_scores(point.scores, *shape)
    if any(b.queries <= a.queries for a, b in pairwise(discovery.trace)):
        raise RunFailed("trace must go by rising numbers of queries")


def resolve_device(device: Device) -> Device:
    """``cpu`` or ``cuda``; asking for CUDA where there is none is an error, never a fallback."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidSpec(
            "device 'cuda' was asked for, but torch sees no CUDA device; valid here: auto, cpu"
        )
    return device


def hyperparameters(method: Method) -> dict[str, Any]:
    """Every field of a method that ``--set`` could change, with its value."""
    if not dataclasses.is_dataclass(method):
        raise InvalidPlugin(
            f"{type(method).__name__} must be a dataclass whose fields are its hyperparameters"
        )
    return {
        f.name: getattr(method, f.name) for f in dataclasses.fields(method) if f.init and f.compare
    }


def command_line(spec: RunSpec) -> str:
    """The shell command that repeats a run."""
    words = ["circuitbench", "run"]
    defaults = RunSpec()
    for key, value in vars(spec).items():
        if key == "hyperparameters":
            continue
        if key in ("method", "task", "model", "seed") or value != getattr(defaults, key):
            words += [f"--{key.replace('_', '-')}", str(value)]
    for key, value in spec.hyperparameters.items():
        words += ["--set", f"{key}={_yaml(value)}"]
    return shlex.join(words)


def _oracle(
    prepared: Prepared,
    task_name: str,
    task: Task,
    purpose: str,
    meter: Meter,
    budget: int | None = None,
    pool: int | None = None,
) -> Oracle:
    spec = prepared.spec
    # The method's name is no axis of the seed: every method is asked about the same prompts.
    return Oracle(
        prepared.model,
        task,
        task_name=task_name,
        seed=derive_seed(spec.seed, task_name, prepared.model.name, purpose),
        ablation=spec.ablation,
        weight=spec.weight,
        batch_size=spec.batch_size,
        budget=budget,
        device=spec.device,
        pool=pool,
        precision=spec.precision,
        meter=meter,
    )


def _train(prepared: Prepared, meter: Meter, progress: Progress) -> None:
    method, spec = prepared.method, prepared.spec
    assert isinstance(method, TrainableMethod)
    names = tuple(getattr(method, "train_tasks", ())) or (spec.task,)
    pool = getattr(method, "train_pool", None)
    oracles = [
        _oracle(
            prepared,
            name,
            prepared.task if name == spec.task else load_task(name),
            "training",
            meter,
            pool=None if pool is None else max(pool, spec.batch_size),
        )
        for name in names
    ]
    if hasattr(method, "progress"):
        method.progress = lambda fraction, text="": progress(f"training {text}".strip(), fraction)
    progress("training", 0.0)
    method.train(
        oracles, generator(spec.seed, spec.task, prepared.model.name, spec.method, "training")
    )


def _plain_discovery(discovery: Discovery) -> dict[str, Any]:
    return {
        "scores": np.asarray(discovery.scores, dtype=float),
        "selected": [str(head) for head in sorted(discovery.selected)],
        "edges": None
        if discovery.edges is None
        else {str(edge): float(score) for edge, score in discovery.edges.items()},
        "trace": [
            {"queries": point.queries, "scores": _rounded(point.scores)}
            for point in discovery.trace
        ],
        "info": dict(discovery.info),
        **({} if discovery.signed is None else {"signed": np.asarray(discovery.signed, float)}),
    }


def _rounded(scores: np.ndarray) -> list[list[float]]:
    """Six significant digits: a trace is drawn, not computed with, and is most of a record."""
    return [[float(f"{x:.6g}") for x in row] for row in np.asarray(scores, dtype=float)]


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, CircuitBenchError) else f"{type(error).__name__}: {text}"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
