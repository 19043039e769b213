"""Every registered plug-in keeps its contract, and broken ones are caught."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from circuitbench.checks.contracts import ToyTask, check_method, check_task, toy_model
from circuitbench.core.circuit import Circuit, Head
from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import InvalidPlugin, ModelUnavailable
from circuitbench.models import Model
from circuitbench.oracle import Oracle
from circuitbench.plugins.method import TrainableMethod
from circuitbench.plugins.registry import list_plugins, load_model, load_task, method_class
from circuitbench.runs.spec import configure, setting_names

pytestmark = pytest.mark.filterwarnings("ignore::circuitbench.checks.contracts.UndescribedPlugin")

# What makes a learning method short enough to check; others run with their defaults.
QUICK = {
    "training.total_steps": 80,
    "training.n_envs": 2,
    "ppo.n_steps": 10,
    "ppo.minibatch": 10,
    "dqn.minibatch": 10,
    "search.steps": 5,
    "knockout.steps": 5,
    "pruning.steps": 5,
    "network.width": 8,
    "explore": 20,
}


@pytest.mark.parametrize("name", [p.name for p in list_plugins("method")])
def test_every_method_keeps_the_contract(name: str) -> None:
    cls = method_class(name)
    known = setting_names(cls) if issubclass(cls, TrainableMethod) else []
    quick = {key: value for key, value in QUICK.items() if key in known}
    check_method(lambda: configure(cls, quick, name))


@pytest.mark.parametrize("name", [p.name for p in list_plugins("task")])
def test_every_task_keeps_the_contract_on_its_own_model(name: str) -> None:
    task = load_task(name)
    try:
        model = load_model(task.default_model)
    except ModelUnavailable as error:
        pytest.skip(str(error))
    check_task(task, model)


def test_no_public_attribute_of_the_oracle_leads_to_the_truth() -> None:
    """Walk everything reachable without an underscore; nobody there can state a truth."""
    oracle = Oracle(toy_model(), ToyTask(), task_name="toy", seed=0, batch_size=2)
    seen, queue = set(), [oracle]
    while queue:
        thing = queue.pop()
        if id(thing) in seen or not type(thing).__module__.startswith("circuitbench"):
            continue
        seen.add(id(thing))
        assert not hasattr(thing, "truth"), type(thing)
        assert not isinstance(thing, Circuit | Model), type(thing)
        queue += [getattr(thing, name) for name in dir(thing) if not name.startswith("_")]
    assert len(seen) > 3


def ranking(oracle: Any, rng: np.random.Generator) -> Any:
    return rng.random(oracle.shape)


@dataclass(frozen=True)
class Good:
    """Every broken plug-in below differs from this one in a single habit."""

    def discover(self, oracle: Any, rng: np.random.Generator) -> Any:
        scores = ranking(oracle, rng)
        return Discovery(scores, frozenset())


class GlobalDraws(Good):
    def discover(self, oracle: Any, rng: np.random.Generator) -> Any:
        return Discovery(np.random.rand(*oracle.shape), frozenset())  # noqa: NPY002


class GlobalTorchDraws(Good):
    def discover(self, oracle: Any, rng: np.random.Generator) -> Any:
        return Discovery(torch.rand(oracle.shape).numpy(), frozenset())


class Unfinished(Good):
    def discover(self, oracle: Any, rng: np.random.Generator) -> Any:
        return Discovery(np.full(oracle.shape, np.nan), frozenset())


class WrongShape(Good):
    def discover(self, oracle: Any, rng: np.random.Generator) -> Any:
        return Discovery(np.zeros((3, 4)), frozenset())


class NotADiscovery(Good):
    def discover(self, oracle: Any, rng: np.random.Generator) -> Any:
        return ranking(oracle, rng)


class NoSuchHead(Good):
    def discover(self, oracle: Any, rng: np.random.Generator) -> Any:
        return Discovery(ranking(oracle, rng), frozenset({Head(99, 0)}))


@dataclass
class Remembers:
    """Its second answer depends on its first."""

    calls: int = 0

    def discover(self, oracle: Any, rng: np.random.Generator) -> Any:
        self.calls += 1
        return Discovery(ranking(oracle, rng), frozenset())


class EntropyFromOutside(Good):
    def discover(self, oracle: Any, rng: np.random.Generator) -> Any:
        return Discovery(np.random.default_rng().random(oracle.shape), frozenset())


@dataclass(frozen=True)
class NeedsArguments:
    size: int

    def discover(self, oracle: Any, rng: np.random.Generator) -> Any:
        return Discovery(ranking(oracle, rng), frozenset())


@dataclass(frozen=True)
class OpaqueHyperparameter:
    thing: object = field(default_factory=object)

    def discover(self, oracle: Any, rng: np.random.Generator) -> Any:
        return Discovery(ranking(oracle, rng), frozenset())


class NotADataclass:
    def discover(self, oracle: Any, rng: np.random.Generator) -> Any:
        return Discovery(ranking(oracle, rng), frozenset())


def test_a_good_method_passes() -> None:
    check_method(Good)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (GlobalDraws, "generator handed in"),
        (GlobalTorchDraws, "generator handed in"),
        (Unfinished, "is nan"),
        (WrongShape, "shape"),
        (NotADiscovery, "must return a Discovery"),
        (NoSuchHead, "does not exist"),
        (Remembers, "changed the method's hyperparameters"),
        (EntropyFromOutside, "same discovery"),
        (NeedsArguments, "needs a default"),
        (OpaqueHyperparameter, "a record cannot hold"),
        (NotADataclass, "must be a dataclass"),
    ],
)
def test_broken_methods_are_caught(cls: Any, message: str) -> None:
    with pytest.raises(InvalidPlugin, match=message):
        check_method(cls)


class SameEveryTime(ToyTask):
    def prompts(self, model: Any, n: int, rng: np.random.Generator) -> Any:
        return super().prompts(model, n, np.random.default_rng(0))


class GlobalPrompts(ToyTask):
    def prompts(self, model: Any, n: int, rng: np.random.Generator) -> Any:
        return super().prompts(model, n, np.random.default_rng(np.random.randint(9)))  # noqa: NPY002


class NoCounterfactual(ToyTask):
    def prompts(self, model: Any, n: int, rng: np.random.Generator) -> Any:
        prompts = super().prompts(model, n, rng)
        return dataclasses.replace(prompts, counterfactual=prompts.tokens)


class OutsideVocabulary(ToyTask):
    def control(self, model: Any, n: int, rng: np.random.Generator) -> Any:
        return super().control(model, n, rng) + 5


class NoBos(ToyTask):
    def control(self, model: Any, n: int, rng: np.random.Generator) -> Any:
        return super().control(model, n, rng).roll(1, 1)


class TooFew(ToyTask):
    def prompts(self, model: Any, n: int, rng: np.random.Generator) -> Any:
        return super().prompts(model, n - 1, rng)


class TruthElsewhere(ToyTask):
    def truth(self, model: Any) -> Any:
        return super().truth(toy_model(9, 4))


class NoSuchAblation(ToyTask):
    def truth(self, model: Any) -> Any:
        return dataclasses.replace(super().truth(model), ablations=("zero", "resmple"))


def test_a_good_task_passes() -> None:
    check_task(ToyTask(), toy_model())


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (SameEveryTime, "another generator"),
        (GlobalPrompts, "generator handed in"),
        (NoCounterfactual, "equals its prompt"),
        (OutsideVocabulary, "outside the vocabulary"),
        (NoBos, "same token"),
        (TooFew, "asked for"),
        (TruthElsewhere, "outside the model"),
        (NoSuchAblation, "truth: no ablation 'resmple'; did you mean 'resample'"),
        (object, "needs default_model"),
    ],
)
def test_broken_tasks_are_caught(cls: Any, message: str) -> None:
    with pytest.raises(InvalidPlugin, match=message):
        check_task(cls(), toy_model())
