"""A budget covers training on the scored model and discovery together."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from circuitbench.core.discovery import Discovery
from circuitbench.evaluation.metrics import metric
from circuitbench.results.content import outcome_of
from circuitbench.runs.prepare import prepare
from circuitbench.runs.run import run
from circuitbench.runs.spec import RunSpec


@dataclass
class Pupil:
    lessons: int = 3
    questions: int = 2

    def train(self, oracles: Any, rng: Any) -> None:
        oracles[0].query(torch.ones(self.lessons, *oracles[0].shape, dtype=torch.bool))

    def discover(self, oracle: Any, rng: Any) -> Discovery:
        self.left = oracle.remaining
        oracle.query(torch.ones(self.questions, *oracle.shape, dtype=torch.bool))
        return Discovery(rng.random(oracle.shape), frozenset())


def record_of(budget: int | None, **pupil: int) -> Any:
    spec = RunSpec(method="random", task="reverse", budget=budget, functional="none", batch_size=4)
    method = Pupil(**pupil)
    return run(replace(prepare(spec), method=method)), method


@pytest.mark.parametrize(("budget", "left"), [(None, None), (5, 2), (9, 6)])
def test_discovery_has_what_training_left(budget: int | None, left: int | None) -> None:
    record, method = record_of(budget)
    assert record.status == "done"
    assert method.left == left


@pytest.mark.parametrize(("lessons", "stage"), [(5, "training"), (3, "discovering")])
def test_who_asks_more_than_the_budget_fails_where_it_did(lessons: int, stage: str) -> None:
    record, _ = record_of(4, lessons=lessons)
    assert (record.status, record.stage) == ("failed", stage)
    assert "budget" in record.reason


def test_costs_and_curves_begin_with_training_on_the_scored_model() -> None:
    outcome = outcome_of(record_of(None)[0])
    assert outcome.track == "same-model"
    assert metric("queries").of(outcome) == 5
    assert metric("training_queries").of(outcome) == 3
    passes = metric("passes").of(outcome)
    assert passes is not None
    assert metric("prompt_passes").of(outcome) == 4 * passes
    curve = metric("average_precision").on_ranking
    assert curve is not None
    assert [q for q, _ in outcome.curve(curve)] == [5]
