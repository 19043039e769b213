"""The stages of a run, each on an oracle of its own: training, discovering, measuring."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from circuitbench.core.circuit import Circuit
from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import InvalidSpec
from circuitbench.core.seeding import derive_seed, generator
from circuitbench.evaluation.without_truth import measurements
from circuitbench.models.base import Model
from circuitbench.oracle import Meter, Oracle
from circuitbench.plugins.method import Curriculum, Learner, TrainableMethod, TrainingTools
from circuitbench.plugins.registry import load_model, load_task
from circuitbench.runs.prepare import Prepared
from circuitbench.runs.progress import Progress
from circuitbench.runs.training import refuse_scored, shaping
from circuitbench.tasks.base import Task


def make_oracle(
    prepared: Prepared,
    task_name: str,
    task: Task,
    purpose: str,
    meter: Meter,
    budget: int | None = None,
    pool: int | None = None,
    model: Model | None = None,
) -> Oracle:
    """The oracle of one stage; another ``purpose`` gives other prompts, on the run's model."""
    spec, model = prepared.spec, model or prepared.model
    # The method's name is no axis of the seed: every method is asked about the same prompts.
    return Oracle(
        model,
        task,
        task_name=task_name,
        seed=derive_seed(spec.seed, task_name, model.name, purpose),
        ablation=spec.ablation,
        weight=spec.weight,
        batch_size=spec.batch_size,
        budget=budget,
        device=spec.device,
        pool=pool,
        precision=spec.precision,
        meter=meter,
    )


def train(
    prepared: Prepared,
    meter: Meter,
    progress: Progress,
    tools: TrainingTools = TrainingTools(),
) -> None:
    """Let a method that trains do so: on its curriculum and with tools, if it is a learner.

    Raises :class:`InvalidSpec` where another model of a curriculum is the one that is scored.
    """
    method, spec = prepared.method, prepared.spec
    assert isinstance(method, TrainableMethod)
    curriculum = method.curriculum() if isinstance(method, Learner) else Curriculum()
    if curriculum.spent:  # it brings what it learnt; prepare refused the scored model by name
        meter.at_least(curriculum.spent)
        method.train([], generator(spec.seed, spec.method, "training"))
        return
    pool = None if curriculum.pool is None else max(curriculum.pool, spec.batch_size)
    tasks = {
        name: prepared.task if name == spec.task else load_task(name)
        for name in curriculum.tasks or (spec.task,)
    }
    progress("training", 0.0)
    oracles: list[Oracle] = []
    truths: list[Circuit] = []
    for model in map(load_model, curriculum.models) if curriculum.models else (prepared.model,):
        if curriculum.models:
            refuse_scored(spec.method, model, prepared.model)
        for name, task in tasks.items():
            # What is learnt on other models is learnt once; the budget is for the scored one.
            budget = None if curriculum.models else spec.budget
            oracle = make_oracle(prepared, name, task, "training", meter, budget, pool, model)
            oracles.append(oracle)
            if curriculum.labelled:
                truth = task.truth(model)
                if truth is None:
                    raise InvalidSpec(
                        f"{spec.method} learns from true circuits; nobody knows that of {name} in "
                        f"{model.name}"
                    )
                truths.append(truth)
    # What is learnt on fixed tasks of other models is the same whatever it is scored on.
    frozen = curriculum.models and curriculum.tasks
    where = () if frozen else (spec.task, prepared.model.name)
    rng = generator(spec.seed, *where, spec.method, "training")
    if not isinstance(method, Learner):
        method.train(oracles, rng)
        return

    def report(fraction: float, text: str) -> None:
        progress(f"training {text}".strip(), fraction)

    run = shaping(prepared.identity)
    method.train(oracles, rng, replace(tools, report=report, run=run, truths=tuple(truths)))


def discover(prepared: Prepared, oracle: Oracle) -> Discovery:
    """The method's answer, as it comes."""
    spec = prepared.spec
    return prepared.method.discover(
        oracle, generator(spec.seed, spec.task, prepared.model.name, spec.method, "method")
    )


def measure(prepared: Prepared, discovery: Discovery, meter: Meter) -> dict[str, Any]:
    """What the model itself says about the selected heads and edges, without any truth."""
    spec = prepared.spec
    quick = spec.functional == "quick"
    found = measurements.measure(
        make_oracle(prepared, spec.task, prepared.task, "evaluation", meter),
        discovery,
        generator(spec.seed, spec.task, prepared.model.name, "functional"),
        measurements.QUICK if quick else measurements.MeasurementSettings(),
        measurements.QUICK_EDGES if quick else measurements.EdgeSettings(),
    )
    del found["cost"]  # it stands with the other costs
    return found
