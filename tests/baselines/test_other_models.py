"""Methods that learn on other models, and are frozen: what they learn, and that it is used."""

from typing import Any

import numpy as np
import pytest

from circuitbench.core.errors import InvalidSpec
from circuitbench.models.planted.presets import Copies, PlantedConfig, planted_model
from circuitbench.oracle import Oracle
from circuitbench.plugins.method import TrainingTools
from circuitbench.plugins.registry import load_task
from circuitbench_baselines.descriptor_forest import DescriptorForest
from circuitbench_baselines.layer_prior import LayerPrior

ROLES = {
    "previous_token": Copies(1),
    "induction": Copies(2),
    "duplicate_token": Copies(1),
    "s_inhibition": Copies(1),
    "name_mover": Copies(2),
}


def oracles_of(seeds: Any, tasks: Any = ("induction", "ioi"), n_layers: int = 4) -> Any:
    """Oracles of small planted models, and the tools that tell their truths."""
    oracles, truths = [], []
    for seed in seeds:
        config = PlantedConfig(n_layers, 4, ROLES, lookalikes=3)
        model = planted_model("small", config, str(seed))
        for name in tasks:
            task = load_task(name)
            oracles.append(Oracle(model, task, task_name=name, seed=seed, batch_size=4))
            truth = task.truth(model)
            assert truth is not None
            truths.append(truth)
    return oracles, TrainingTools(truths=tuple(truths))


@pytest.fixture(scope="module")
def lessons() -> Any:
    return oracles_of((1, 2, 3))


def rng() -> Any:
    return np.random.default_rng(0)


def test_the_layer_prior_is_where_circuits_stand_and_asks_nothing(lessons: Any) -> None:
    oracles, tools = lessons
    prior = LayerPrior(smoothing=0.02)
    prior.train(oracles, rng(), tools)
    (asked,), _ = oracles_of((9,), ("ioi",))
    found = prior.discover(asked, rng())
    assert asked.meter.queries == 0
    assert (np.ptp(found.scores, axis=1) == 0).all()  # a layer has one score
    share = np.zeros(4)
    for oracle, truth in zip(oracles, tools.truths, strict=True):
        if oracle.task_name == "ioi":
            for head in truth.heads:
                share[head.layer] += 1 / 12  # three models of four heads a layer
    assert found.scores[:, 0] == pytest.approx(share)
    assert len(found.selected) == 4  # as large as the circuits it has seen


def test_a_task_it_has_not_seen_gets_the_mean_profile_whatever_the_depth(lessons: Any) -> None:
    oracles, tools = lessons
    prior, pooled = LayerPrior(), LayerPrior(per_task=False)
    for one in (prior, pooled):
        one.train(oracles, rng(), tools)
    (asked,), _ = oracles_of((9,), ("ioi",), n_layers=8)
    own, mean = prior.discover(asked, rng()).scores, pooled.discover(asked, rng()).scores
    assert own.shape == mean.shape == (8, 4)
    assert not np.allclose(own, mean)
    asked.task_name = "unseen"
    assert np.array_equal(prior.discover(asked, rng()).scores, mean)


def test_the_forest_finds_circuits_of_models_it_has_not_seen(lessons: Any) -> None:
    oracles, tools = lessons
    forest = DescriptorForest(trees=30)
    told: list[float] = []
    tools = TrainingTools(truths=tools.truths, report=lambda share, text: told.append(share))
    forest.train(oracles, rng(), tools)
    assert told == sorted(told)
    assert len(told) == len(oracles)
    others, answers = oracles_of((11, 12))
    for oracle, truth in zip(others, answers.truths, strict=True):
        found = forest.discover(oracle, rng())
        assert oracle.meter.queries == 16 + 5 * 3
        ranked = np.argsort(-found.scores, axis=None)[: len(truth.heads)]
        hits = sum((i // 4, i % 4) in truth.heads for i in ranked.tolist())
        assert hits >= len(truth.heads) - 1
        again = forest.discover(oracle, rng())
        assert np.array_equal(again.scores, found.scores)


@pytest.mark.parametrize("budget", [0, 4, 20])
def test_the_forest_does_without_what_the_budget_lacks(lessons: Any, budget: int) -> None:
    forest = DescriptorForest(trees=5)
    forest.train(lessons[0], rng(), lessons[1])
    task = load_task("ioi")
    model = planted_model("small", PlantedConfig(4, 4, ROLES, lookalikes=3), "11")
    oracle = Oracle(model, task, task_name="ioi", seed=0, batch_size=4, budget=budget)
    found = forest.discover(oracle, rng())
    assert np.isfinite(found.scores).all()
    assert oracle.meter.queries <= budget


@pytest.mark.parametrize(
    "method", [LayerPrior(smoothing=0), DescriptorForest(trees=0), DescriptorForest(leaf=0)]
)
def test_nonsense_is_refused(method: Any, lessons: Any) -> None:
    with pytest.raises(InvalidSpec, match="needs"):
        method.train(lessons[0], rng(), lessons[1])


def test_they_name_their_models_and_ask_for_truths() -> None:
    for method in (LayerPrior(), DescriptorForest()):
        curriculum = method.curriculum()
        assert curriculum.labelled
        seeds = [int(name.partition("@")[2]) for name in curriculum.models]
        assert all(100 <= seed < 200 for seed in seeds)  # kept for tuning
        with pytest.raises(InvalidSpec, match="name some in models"):
            type(method)(models=()).curriculum()
