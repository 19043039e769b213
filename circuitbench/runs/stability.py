"""A method's agreement with itself under perturbations, each of which has a name.

After Méloux et al. 2025 (arXiv 2510.00845): other prompts, each way of putting the prompts, other
settings of the method, another ablation; and other seeds of the method. On how alike the answers
are stands what an answer is worth; what they find is held against the truth where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from circuitbench.core.circuit import head_grid
from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import CircuitBenchError, UnknownName
from circuitbench.core.seeding import derive_seed, generator
from circuitbench.evaluation.against_truth.ranking import average_precision, tied_ranking
from circuitbench.evaluation.against_truth.selection import Overlap
from circuitbench.evaluation.without_truth import MEASURED_ABLATIONS
from circuitbench.evaluation.without_truth.faithfulness import Probe, faithfulness
from circuitbench.evaluation.without_truth.stability import (
    agreement,
    overlap,
    rank_correlation,
    spread,
)
from circuitbench.oracle import Meter, Oracle
from circuitbench.plugins.hyperparameters import hyperparameters
from circuitbench.plugins.method import Method, TrainableMethod
from circuitbench.runs.prepare import Prepared, load_method
from circuitbench.runs.progress import Progress, silent
from circuitbench.runs.stages import make_oracle, train
from circuitbench.tasks.base import Task
from circuitbench.tasks.text.task import TextTask

Perturbation = Literal["prompts", "seeds", "templates", "hyperparameters", "ablation"]
PERTURBATIONS: tuple[Perturbation, ...] = get_args(Perturbation)
FACTORS = (0.5, 2)
"""What a numeric hyperparameter is multiplied by, one at a time."""


class Case(NamedTuple):
    """One way to ask: its ``name``, and how to get the answer."""

    name: str
    answer: Callable[[], Discovery]


def measure_stability(
    prepared: Prepared,
    resamples: int = 100,
    seeds: int = 5,
    progress: Progress = silent,
    perturb: Sequence[str] = ("prompts", "seeds"),
    method_of: Callable[..., Method] = load_method,
) -> dict[str, Any]:
    """Agreement of a method with itself, perturbation by perturbation.

    Trains once if the method learns; settings of a method that learns are not varied, as each would
    need a training of its own.

    Args:
        resamples: batches of prompts for ``prompts``, of which the first is the unperturbed one.
        seeds: seeds of the method for ``seeds``.
        perturb: some of :data:`PERTURBATIONS`. ``templates``: each template of the task's file
            alone; ``hyperparameters``: each number halved and doubled, each switch turned, one at
            a time; ``ablation``: zero, mean and resample, whatever the run's own is.
        method_of: loads the method with other settings.

    Returns:
        By perturbation what :func:`agreement` says, with intervals over answers; ``answers``, for
        each its ``name``, ``jaccard`` and ``rank_correlation`` with the unperturbed answer, and
        ``metrics``; and ``metrics``, the spread of each over answers: ``size`` of the set, its
        ``faithfulness`` under the run's own ablation on prompts of its own, and ``f1`` and
        ``average_precision`` where there is a truth. What could not be asked has its reason under
        ``undefined``, by name.

    Raises:
        UnknownName: no such perturbation.
    """
    for name in perturb:
        if name not in PERTURBATIONS:
            raise UnknownName("perturbation", name, PERTURBATIONS)
    if isinstance(prepared.method, TrainableMethod):
        train(prepared, Meter(), progress)
    asker = _Asker(prepared, method_of)
    judge = _Judge(prepared)
    unperturbed = asker.ask()
    groups = {name: list(asker.cases(name, resamples, seeds)) for name in perturb}
    total, asked = sum(map(len, groups.values())), 0
    found: dict[str, Any] = {}
    undefined: dict[str, str] = {}
    for name, cases in groups.items():
        answers: dict[str, Discovery] = {}
        for case in cases:
            progress("discovering", asked / max(1, total))
            asked += 1
            try:
                answers[case.name] = case.answer()
            except CircuitBenchError as error:
                if name in ("prompts", "seeds"):
                    raise
                undefined[f"{name}: {case.name}"] = str(error)
        if len(answers) < 2:
            undefined[name] = asker.too_few(name)
            continue
        rng = generator(prepared.spec.seed, "stability", "intervals", name)
        metrics = judge.metrics(list(answers.values()))
        found[name] = {
            **agreement(list(answers.values()), rng),
            "metrics": {key: spread([m[key] for m in metrics], rng) for key in metrics[0]},
            "answers": [
                {
                    "name": label,
                    "jaccard": overlap(answer, unperturbed),
                    "rank_correlation": rank_correlation(answer.scores, unperturbed.scores),
                    "metrics": own,
                }
                for (label, answer), own in zip(answers.items(), metrics, strict=True)
            ],
        }
    return {**found, "undefined": undefined}


class _Asker:
    """Asks a method again and again, each time perturbed in one way."""

    def __init__(self, prepared: Prepared, method_of: Callable[..., Method]) -> None:
        self.prepared, self.method_of = prepared, method_of

    def ask(
        self,
        prompts: int = 0,
        repetition: int = 0,
        method: Method | None = None,
        task: Task | None = None,
        ablation: str | None = None,
    ) -> Discovery:
        """The answer on an oracle of its own; with nothing given, the unperturbed one."""
        prepared, spec = self.prepared, self.prepared.spec
        if ablation is not None:
            prepared = replace(prepared, spec=replace(spec, ablation=ablation))
        number = derive_seed(spec.seed, "stability", "prompts", prompts)
        purpose = f"stability {number}"
        oracle: Oracle = make_oracle(
            prepared, spec.task, task or prepared.task, purpose, Meter(), spec.budget
        )
        rng = generator(spec.seed, "stability", "method", repetition)
        return (method or prepared.method).discover(oracle, rng)

    def cases(self, perturbation: str, resamples: int, seeds: int) -> Iterator[Case]:
        """The ways to ask that a perturbation means."""
        if perturbation == "prompts":
            for i in range(resamples):
                yield Case(f"batch {i}", partial(self.ask, prompts=i))
        elif perturbation == "seeds":
            for i in range(seeds):
                yield Case(f"seed {i}", partial(self.ask, repetition=i))
        elif perturbation == "templates":
            for name, task in self._templates():
                yield Case(name, partial(self.ask, task=task))
        elif perturbation == "ablation":
            for kind in MEASURED_ABLATIONS:
                yield Case(kind, partial(self.ask, ablation=kind))
        else:
            for key, value in self._settings():
                yield Case(f"{key}={value}", partial(self._set, key, value))

    def too_few(self, perturbation: str) -> str:
        """Why a perturbation has fewer than two answers."""
        if perturbation == "templates":
            return f"the prompts of {self.prepared.spec.task} come from no list of templates"
        if isinstance(self.prepared.method, TrainableMethod):
            return f"{self.prepared.spec.method} learns: each setting needs a training of its own"
        return "fewer than two of them could be asked"

    def _templates(self) -> Iterator[tuple[str, Task]]:
        """The task with each of its templates alone."""
        task = self.prepared.task
        if isinstance(task, TextTask):
            for template in task.file.templates:
                alone = task.file.model_copy(update={"templates": (template,)})
                text = template if isinstance(template, str) else template.text
                yield text, replace(task, file=alone, _draws={})

    def _settings(self) -> Iterator[tuple[str, Any]]:
        """Every setting that can be varied, with its other values."""
        if isinstance(self.prepared.method, TrainableMethod):
            return
        for key, value in _flat(hyperparameters(self.prepared.method)):
            if isinstance(value, bool):
                yield key, not value
            elif isinstance(value, int | float) and value > 0:
                for factor in FACTORS:
                    other = value * factor
                    if isinstance(value, int):
                        other = max(1, int(other))
                    if other != value:
                        yield key, other

    def _set(self, key: str, value: Any) -> Discovery:
        spec = self.prepared.spec
        return self.ask(method=self.method_of(spec.method, **{**spec.hyperparameters, key: value}))


class _Judge:
    """What answers are worth, all on the same prompts."""

    def __init__(self, prepared: Prepared) -> None:
        spec = prepared.spec
        oracle = make_oracle(prepared, spec.task, prepared.task, "stability judged", Meter())
        self.probe = Probe(oracle, [oracle.draw(0)], spec.ablation)
        self.shape = (oracle.n_layers, oracle.n_heads)
        self.truth = prepared.task.truth(prepared.model)

    def metrics(self, answers: Sequence[Discovery]) -> list[dict[str, float | None]]:
        """``size``, ``faithfulness``; where there is a truth ``f1`` and ``average_precision``."""
        circuits = np.stack([head_grid(answer.selected, *self.shape) for answer in answers])
        kept = self.probe.mean(circuits)
        empty, full = self.probe.empty(), float(self.probe.clean.mean())
        found: list[dict[str, float | None]] = []
        for answer, circuit, value in zip(answers, circuits, kept, strict=True):
            own: dict[str, float | None] = {
                "size": float(circuit.sum()),
                "faithfulness": faithfulness(float(value), empty, full),
            }
            if self.truth is not None:
                true = head_grid(self.truth.heads, *self.shape)
                own["f1"] = Overlap.of(circuit, true).f1
                own["average_precision"] = average_precision(tied_ranking(answer.scores, true))
            found.append(own)
        return found


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
