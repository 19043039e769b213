"""Our figures for the tables of MIB and ACDC, on one model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from circuitbench import (
    InvalidSpec,
    Model,
    Oracle,
    Result,
    Task,
    UnknownName,
    derive_seed,
    generator,
    load_model,
    load_task,
    run,
)
from circuitbench.evaluation.against_truth.edges import edge_metrics
from circuitbench.evaluation.without_truth.edge_areas import EdgeProbe, EdgeScores, edge_areas
from circuitbench.oracle.engine.devices import resolve_device
from circuitbench.plugins.method import Report, unreported
from circuitbench_experiments.published.acdc_truths import TRUTHS
from circuitbench_experiments.published.figures import Paper, Row, paper, rows_of, stand_in

BATCH = 32  # prompts in memory at once
ACDC_TASKS = {
    "docstring": "docstring-styles",
    "greater-than": "greater-than-years",
    "ioi": "ioi-wang",
}


@dataclass(frozen=True)
class Settings:
    """What is run.

    Args:
        model: name of a model.
        methods: ours; None: all that stand for one of the paper's.
        tasks: columns of ACDC's table; None: those whose model has the shape of this one.
        task: instead of our IOI prompts (MIB), e.g. a file with MIB's own.
        case: folder of an InterpBench case (MIB).
        prompts: for discovery, and as many others for evaluation.
        seeds: each of them another draw of prompts and another discovery.
        device: where to compute.
        hyperparameters: by method.
    """

    model: str
    methods: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None
    task: str = "ioi-wang"
    case: str | None = None
    prompts: int = 32
    seeds: tuple[int, ...] = (0,)
    device: str = "auto"
    hyperparameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def chosen(self, said: Paper) -> list[str]:
        """The methods that are run; raises :class:`UnknownName` for one that stands for none."""
        for name in (*(self.methods or ()), *self.hyperparameters):
            if name not in said.methods:
                raise UnknownName("method of this table", name, said.methods)
        return [m for m in said.methods if self.methods is None or m in self.methods]


@dataclass(frozen=True)
class Table:
    """One paper's table with ours beside it, on the model whose full name is ``model``."""

    paper: Paper
    model: str
    rows: Sequence[Row]


class _Figures:
    """What was measured so far, by method and column."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], list[float]] = {}
        self.missing: dict[tuple[str, str], str] = {}

    def add(self, method: str, column: str, value: float | None, why: str = "") -> None:
        if value is None:
            self.missing[method, column] = why or "not defined here"
        else:
            self.values.setdefault((method, column), []).append(value)


def mib(settings: Settings, out: Path, tell: Report = unreported) -> list[Table]:
    """CMD and CPR on IOI as MIB computes them; and AUROC on an InterpBench case, if one is given.

    Mueller et al. 2025 (arXiv 2504.13151): resample ablation, logit difference, areas by
    :func:`.edge_areas`, information flow routes by the greedy rule.

    Raises:
        InvalidSpec: nothing is known of the model's edges, or a setting is wrong.
    """
    said = paper("mib")
    chosen = settings.chosen(said)
    tables = [] if settings.case is None else [_interpbench(settings, out, tell)]
    model, task = load_model(settings.model), load_task(settings.task)
    found = _Figures()
    right: list[float] = []
    steps = [(seed, method) for seed in settings.seeds for method in chosen]
    probes: dict[int, EdgeProbe] = {}
    for done, (seed, method) in enumerate(steps):
        if seed not in probes:
            probes[seed] = _probe(settings, model, task, seed)
            right.append(float((probes[seed].clean > 0).mean()))
        tell(done / len(steps), f"{method}, seed {seed}")
        result = _run(settings, model, task, method, seed, len(probes[seed].graph.edges), out)
        why = "" if result.status == "done" else result.reason
        areas: dict[str, Any] = {}
        if not why:
            greedy = method == "information-flow-routes"
            scores = EdgeScores.of(result.discovery, probes[seed].graph)
            rng = generator(seed, "reproduce", "mib", method)
            ruled = edge_areas(probes[seed], scores, rng, greedy)
            areas = ruled["mib_greedy" if greedy else "mib"]
        for column in said.columns:
            found.add(method, column, areas.get(column.lower()), why or areas.get("undefined", ""))
    reason = stand_in(model, said.models["CMD"], float(np.mean(right)))
    other = dict.fromkeys(said.columns, reason)
    rows = rows_of(said, found.values, found.missing, other, chosen)
    return [Table(said, model.name, rows), *tables]


def _interpbench(settings: Settings, out: Path, tell: Report) -> Table:
    said = paper("interpbench")
    chosen = settings.chosen(said)
    model, task = load_model(f"interpbench:{settings.case}"), load_task("interpbench")
    n_edges = len(_oracle(settings, model, task, 0).edges.edges)
    truth = task.truth(model)
    if truth is None or not truth.edges:
        raise InvalidSpec(f"the case {model.name} names no edges")
    found = _Figures()
    for seed in settings.seeds:
        for method in chosen:
            tell(0.0, f"{method} on the case, seed {seed}")
            result = _run(settings, model, task, method, seed, n_edges, out)
            scores = result.metrics.get("edge_auroc") if result.status == "done" else None
            found.add(method, "AUROC", scores, result.reason)
    reason = stand_in(model, said.models["AUROC"], 1.0)
    rows = rows_of(said, found.values, found.missing, {"AUROC": reason}, chosen)
    return Table(said, model.name, rows)


def acdc(settings: Settings, out: Path, tell: Report = unreported) -> list[Table]:
    """Edge AUC against the circuits that ACDC is scored against.

    Conmy et al. 2023 (arXiv 2304.14997): resample ablation, KL divergence, pessimistic AUC.

    Raises:
        InvalidSpec: nothing is known of the model's edges, or a setting is wrong.
    """
    said = paper("acdc")
    chosen = settings.chosen(said)
    for name in settings.tasks or ():
        if name not in ACDC_TASKS:
            raise UnknownName("task of this table", name, list(ACDC_TASKS))
    model = load_model(settings.model)
    found, other = _Figures(), {}
    columns = [c for c in said.columns if settings.tasks is None or c in settings.tasks]
    for place, column in enumerate(said.columns):
        shape = said.models[column]
        why = "left out"
        if column in columns:
            why = f"its circuit is of a model of {shape['layers']} x {shape['heads']} heads"
        if column not in columns or (model.n_layers, model.n_heads) != (
            shape["layers"],
            shape["heads"],
        ):
            found.missing |= {(method, column): why for method in chosen}
            if column in columns:
                other[column] = stand_in(model, shape, 1.0)
            continue
        task, truth = load_task(ACDC_TASKS[column]), TRUTHS[column]()
        right = []
        for seed in settings.seeds:
            oracle = _oracle(settings, model, task, seed)
            right.append(float((oracle.batch.clean(oracle.batch, "task") > 0).mean()))
            for method in chosen:
                tell(place / len(said.columns), f"{method} on {column}, seed {seed}")
                n_edges = len(oracle.edges.edges)
                result = _run(settings, model, task, method, seed, n_edges, out)
                auc = None
                if result.status == "done":
                    discovery = result.discovery
                    scored = edge_metrics(
                        discovery.edges or {},
                        truth,
                        model.n_layers,
                        model.n_heads,
                        discovery.selected_edges,
                    )
                    auc = scored["auroc_pessimistic"]
                found.add(method, column, auc, result.reason)
        other[column] = stand_in(model, shape, float(np.mean(right)))
    return [Table(said, model.name, rows_of(said, found.values, found.missing, other, chosen))]


EXPERIMENTS: dict[str, Callable[[Settings, Path, Report], list[Table]]] = {
    "mib": mib,
    "acdc": acdc,
}


def _run(
    settings: Settings, model: Model, task: Task, method: str, seed: int, n_edges: int, out: Path
) -> Result:
    """One discovery, kept in ``out/runs`` and read from there the next time."""
    return run(
        method,
        task=task,
        model=model,
        seed=seed,
        ablation="resample",
        batch_size=settings.prompts,
        device=settings.device,
        functional="none",
        hyperparameters={"listed": n_edges, **settings.hyperparameters.get(method, {})},
        results=out / "runs",
        progress=False,
    )


def _oracle(settings: Settings, model: Model, task: Task, seed: int) -> Oracle:
    """For evaluation: prompts that no method saw."""
    return Oracle(
        model,
        task,
        task_name="reproduce",
        seed=derive_seed(seed, "reproduce", "evaluation"),
        ablation="resample",
        batch_size=min(BATCH, settings.prompts),
        device=str(resolve_device(settings.device)),
    )


def _probe(settings: Settings, model: Model, task: Task, seed: int) -> EdgeProbe:
    oracle = _oracle(settings, model, task, seed)
    n = math.ceil(settings.prompts / BATCH)
    return EdgeProbe(oracle, [oracle.draw(i) for i in range(n)], "resample")
