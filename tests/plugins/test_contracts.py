"""Registered plug-ins keep their contracts; every promise is broken by one that is caught."""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from circuitbench import Info, Metric
from circuitbench.checks.contracts import (
    METHOD,
    METRIC,
    MODEL,
    TASK,
    Contract,
    MethodUnderTest,
    MetricUnderTest,
    ModelUnderTest,
    TaskUnderTest,
    ToyTask,
    UndescribedPlugin,
    check_method,
    check_metric,
    check_model,
    check_task,
    toy_model,
)
from circuitbench.core.circuit import Circuit, Edge, Head
from circuitbench.core.discovery import Discovery, TracePoint
from circuitbench.core.errors import InvalidPlugin, ModelUnavailable
from circuitbench.evaluation.metrics import metrics
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
    "search.steps": 5,
    "knockout.steps": 5,
    "network.width": 8,
    "explore": 20,
}


@pytest.mark.parametrize("name", [p.name for p in list_plugins("method")])
def test_every_method_keeps_the_contract(name: str) -> None:
    cls = method_class(name)
    known = setting_names(cls) if issubclass(cls, TrainableMethod) else []
    quick = {key: value for key, value in QUICK.items() if key in known and "frozen" not in known}
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


class Raises(Good):
    def discover(self, oracle: Any, rng: np.random.Generator) -> Any:
        return dict[str, Any]()["no such key"]


class NoSuchEdge(Good):
    def discover(self, oracle: Any, rng: np.random.Generator) -> Any:
        scores = ranking(oracle, rng)
        return Discovery(scores, frozenset(), {Edge("9.9", "logits"): 1.0})


class TraceBackwards(Good):
    def discover(self, oracle: Any, rng: np.random.Generator) -> Any:
        scores = ranking(oracle, rng)
        return Discovery(scores, frozenset(), trace=[TracePoint(2, scores), TracePoint(1, scores)])


class SwallowsTheBudget(Good):
    def discover(self, oracle: Any, rng: np.random.Generator) -> Any:
        if oracle.remaining is not None and oracle.remaining < 12:
            raise RuntimeError("too poor")
        return Discovery(ranking(oracle, rng), frozenset())


@Info("Not" + " literal", "Test")
@dataclass(frozen=True)
class Computed(Good): ...


@Info("Hides its needs", "Test")
@dataclass(frozen=True)
class HidesGradients(Good):
    def discover(self, oracle: Any, rng: np.random.Generator) -> Any:
        oracle.gradient(oracle.head_masks()[:1].float())
        return super().discover(oracle, rng)


@Info("Says it trains", "Test", needs=("training",))
@dataclass(frozen=True)
class Untrained(Good): ...


@Info("Says it ranks edges", "Test", granularity="edges")
@dataclass(frozen=True)
class NoEdges(Good): ...


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


class NoBatch(ToyTask):
    def control(self, model: Any, n: int, rng: np.random.Generator) -> Any:
        return super().control(model, n, rng).numpy()


class OneToken(ToyTask):
    def control(self, model: Any, n: int, rng: np.random.Generator) -> Any:
        return super().control(model, n, rng)[:, :1]


class WholeNumbersAsInt32(ToyTask):
    def control(self, model: Any, n: int, rng: np.random.Generator) -> Any:
        return super().control(model, n, rng).int()


class NothingIsWrong(ToyTask):
    def prompts(self, model: Any, n: int, rng: np.random.Generator) -> Any:
        prompts = super().prompts(model, n, rng)
        return dataclasses.replace(prompts, weights=prompts.weights.abs())


class EntropyInControl(ToyTask):
    def control(self, model: Any, n: int, rng: np.random.Generator) -> Any:
        return super().control(model, n, np.random.default_rng())


class EntropyInPrompts(ToyTask):
    def prompts(self, model: Any, n: int, rng: np.random.Generator) -> Any:
        return super().prompts(model, n, np.random.default_rng())


class NoTruth(ToyTask):
    def truth(self, model: Any) -> Any:
        return Circuit({}, "nobody", "ambiguous")


class TruthIsAList(ToyTask):
    def truth(self, model: Any) -> Any:
        return ["0.1"]


@Info("Not" + " literal", "Test")
class ComputedTask(ToyTask): ...


@Info("Says it has edges", "Test", granularity="edges")
class NoTrueEdges(ToyTask): ...


@Info("Says it has MLPs", "Test", needs=("mlps",))
class NoMlps(ToyTask): ...


@Info("Hides its MLPs", "Test")
class HiddenMlps(ToyTask):
    def truth(self, model: Any) -> Any:
        return dataclasses.replace(super().truth(model), mlps=(0,))


def changed(**changes: Any) -> Callable[..., Model]:
    """A factory of the toy model with other fields."""
    return lambda variant="": dataclasses.replace(toy_model(), **changes)


def with_weights(**changes: Any) -> Callable[..., Model]:
    """A factory of the toy model with other weights."""
    whole = toy_model().transformer
    assert whole is not None
    return changed(transformer=dataclasses.replace(whole, **changes))


def unseeded(variant: str = "") -> Model:
    return toy_model(seed=int(np.random.default_rng().integers(2**32)))


@Info("Not" + " literal", "Test")
def computed(variant: str = "") -> Model:
    return toy_model()


def no_such_file(variant: str = "") -> Any:
    raise FileNotFoundError("weights.bin")


def metric(compute: Any = lambda run: float(run.scores.max()), **settings: Any) -> Metric:
    settings = {"about": "A number.", "better": "neither", **settings}
    return Metric("made_up", settings.pop("title", "Made up"), compute, **settings)


class Counts:
    """Another value each time."""

    calls = 0

    def __call__(self, run: Any) -> float:
        self.calls += 1
        return float(self.calls)


def spoils(run: Any) -> float:
    run.discovery["scores"][0][0] += 1
    return 0.5


def found_share(run: Any) -> float:
    return float(np.mean(run.selected[run.relevant]))


METHODS = [
    ("dataclass", NeedsArguments, "needs a default"),
    ("dataclass", NotADataclass, "must be a dataclass"),
    ("hyperparameters", OpaqueHyperparameter, "a record cannot hold"),
    ("description", Computed, "is not literal"),
    ("answer", Unfinished, "is nan"),
    ("answer", NotADiscovery, "must return a Discovery"),
    ("answer", NoSuchHead, "does not exist"),
    ("answer", NoSuchEdge, "cannot exist"),
    ("answer", TraceBackwards, "rising"),
    ("answer", Raises, "it raised KeyError: 'no such key'"),
    ("own randomness", GlobalDraws, "generator handed in"),
    ("own randomness", GlobalTorchDraws, "generator handed in"),
    ("repeatable", EntropyFromOutside, "same discovery"),
    ("left alone", Remembers, "changed the method's hyperparameters"),
    ("any shape", WrongShape, "shape"),
    ("budget", SwallowsTheBudget, "it raised RuntimeError: too poor"),
    ("needs", HidesGradients, "asked for gradients"),
    ("training", Untrained, r"without train\(\) does not need 'training'"),
    ("granularity", NoEdges, "no edges, so granularity is 'heads'"),
]
TASKS: list[tuple[str, Any, str]] = [
    ("interface", object, "needs default_model"),
    ("draws", TooFew, "asked for"),
    ("draws", NoBatch, "must return Prompts and control"),
    ("draws", OneToken, "at least two tokens"),
    ("types", WholeNumbersAsInt32, "must be of type long"),
    ("vocabulary", OutsideVocabulary, "outside the vocabulary"),
    ("control", NoBos, "same token"),
    ("counterfactual", NoCounterfactual, "equals its prompt"),
    ("answers", NothingIsWrong, "a wrong answer"),
    ("own randomness", GlobalPrompts, "generator handed in"),
    ("repeatable", EntropyInPrompts, "same prompts"),
    ("repeatable", EntropyInControl, "same control text"),
    ("fresh prompts", SameEveryTime, "another generator"),
    ("truth", TruthElsewhere, "outside the model"),
    ("truth", NoTruth, "names no component"),
    ("truth", TruthIsAList, "must return a Circuit, not list"),
    ("ablations", NoSuchAblation, "truth: no ablation 'resmple'; did you mean 'resample'"),
    ("description", ComputedTask, "is not literal"),
    ("granularity", NoTrueEdges, "no edges, so granularity is 'heads'"),
    ("needs", NoMlps, "'mlps' does not belong"),
    ("needs", HiddenMlps, "'mlps' belongs"),
]
MODELS: list[tuple[str, Any, str]] = [
    ("description", computed, "is not literal"),
    ("factory", lambda variant="": 3, "must return a Model, not int"),
    ("factory", no_such_file, "it raised FileNotFoundError: weights.bin"),
    ("weights", changed(transformer=None), "needs its weights"),
    ("shape", changed(n_heads=5), "3 x 4 heads, the model says 3 x 5"),
    ("finite weights", with_weights(W_E=torch.full((11, 12), torch.nan)), "W_E holds a number"),
    ("runs", with_weights(W_U=torch.ones(12, 7)), r"expected \(1, 2, 11\)"),
    ("runs", with_weights(W_U=torch.ones(7, 11)), "it raised RuntimeError"),
    ("repeatable", unseeded, "two different models"),
    ("facts", changed(provenance={"made by": object()}), "a record cannot hold"),
]
METRICS: list[tuple[str, Any, str]] = [
    ("metric", lambda run: 0.5, "is a function, not a circuitbench.Metric"),
    ("description", metric(title=" "), "its title is empty"),
    ("description", metric(about=""), "its about is empty"),
    ("value", metric(lambda run: None), "no value for a run that has everything"),
    ("value", metric(lambda run: float("nan")), "not a finite number"),
    ("value", metric(lambda run: run.no_such_thing), "it raised AttributeError"),
    ("chance", metric(chance=lambda run: float("inf")), "not a finite number"),
    ("needs", metric(lambda run: float(run.relevant.sum())), "on a run without truth it raised"),
    ("needs", metric(lambda run: float(len(run.edges))), "on a run without edges it raised"),
    (
        "needs",
        metric(lambda run: run.measurements["completeness"]["mean"]),
        "on a run without measurements it raised",
    ),
    ("repeatable", metric(Counts()), "the same run gave"),
    ("repeatable", metric(spoils), "changed the run"),
    ("direction", metric(found_share, needs=("truth",), better="lower"), "says lower is better"),
]
# Contract, what is looked at, the check as a function and its argument, promise, message.
BROKEN: list[tuple[Contract[Any], Any, Callable[[], None], str, str]] = [
    *(
        (METHOD, MethodUnderTest(cls), lambda cls=cls: check_method(cls), name, message)
        for name, cls, message in METHODS
    ),
    *(
        (
            TASK,
            TaskUnderTest(cls(), toy_model()),
            lambda cls=cls: check_task(cls(), toy_model()),
            name,
            message,
        )
        for name, cls, message in TASKS
    ),
    *(
        (MODEL, ModelUnderTest(factory), lambda made=factory: check_model(made), name, message)
        for name, factory, message in MODELS
    ),
    *(
        (METRIC, MetricUnderTest(given), lambda given=given: check_metric(given), name, message)
        for name, given, message in METRICS
    ),
]
CONTRACTS = {"method": METHOD, "task": TASK, "model": MODEL, "metric": METRIC}


@pytest.mark.parametrize(("contract", "plugin", "check", "promise", "message"), BROKEN)
def test_a_broken_promise_is_caught_and_named(
    contract: Contract[Any], plugin: Any, check: Callable[[], None], promise: str, message: str
) -> None:
    """It is the first to break; those that hang on it are not looked at."""
    findings = {finding.name: finding for finding in contract.look(plugin)}
    broken = [finding.name for finding in findings.values() if finding.standing == "broken"]
    assert broken[0] == promise
    found = findings[promise]
    assert re.search(message, found.message), found.message
    assert found.advice
    assert "Traceback" in found.traceback
    for other in contract.promises:
        if promise in other.needs:
            assert findings[other.name].standing == "unknown"
    with pytest.raises(InvalidPlugin, match=message):
        check()


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
def test_every_promise_is_broken_by_a_plugin_above(contract: Contract[Any]) -> None:
    promises = [promise.name for promise in contract.promises]
    assert len(set(promises)) == len(promises)
    assert {name for other, _, _, name, _ in BROKEN if other is contract} == set(promises)
    for promise in contract.promises:
        assert promise.says.endswith(".")
        assert promise.advice.endswith(".")


def test_good_plugins_pass() -> None:
    check_method(Good)
    check_task(ToyTask(), toy_model())
    check_model(changed())
    check_metric(metric())
    for plugin in (MethodUnderTest(Good), TaskUnderTest(ToyTask(), toy_model())):
        contract: Contract[Any] = METHOD if isinstance(plugin, MethodUnderTest) else TASK
        standings = {finding.name: finding.standing for finding in contract.look(plugin)}
        assert standings.pop("description") == "unsaid"
        assert set(standings.values()) == {"kept"}


@pytest.mark.parametrize("key", metrics())
def test_every_metric_keeps_the_contract(key: str) -> None:
    check_metric(metrics()[key])


def test_what_is_missing_here_is_no_fault_of_the_plugin() -> None:
    def unavailable(variant: str = "") -> Model:
        raise ModelUnavailable("not on this machine")

    with pytest.raises(ModelUnavailable), pytest.warns(UndescribedPlugin):
        check_model(unavailable)
