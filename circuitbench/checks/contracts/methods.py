"""What a method promises."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np

from circuitbench.checks.contracts.contract import Contract
from circuitbench.checks.contracts.described import (
    GRANULARITY,
    READ,
    check_granularity,
    checked_info,
)
from circuitbench.checks.contracts.randomness import GENERATOR, global_state
from circuitbench.checks.contracts.toys import ToyTask, toy_model
from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import BudgetExceeded, CircuitBenchError, InvalidPlugin, RunFailed
from circuitbench.core.info import attached
from circuitbench.evaluation.answer_check import check_discovery
from circuitbench.oracle import Oracle
from circuitbench.plugins.hyperparameters import hyperparameters
from circuitbench.plugins.method import Learner, Method, TrainableMethod, TrainingTools
from circuitbench.results import plain


class MethodUnderTest:
    """A method and what it did on a toy model, played when first asked for.

    Args:
        make: a class whose fields all have defaults, or a function without arguments.
        budget: queries of the budgeted run.
    """

    def __init__(self, make: Callable[[], Method], budget: int = 7) -> None:
        self.make, self.budget = make, budget

    @cached_property
    def method(self) -> Method:
        """The one that is played first."""
        return made(self.make)

    @cached_property
    def before(self) -> dict[str, Any]:
        """Its hyperparameters before it was played."""
        return hyperparameters(self.method)

    @cached_property
    def oracle(self) -> Oracle:
        """What it is played on first."""
        return _toy_oracle()

    @cached_property
    def first(self) -> Discovery:
        """Its answer."""
        _ = self.before
        state = global_state()
        discovery = _discover(self.method, self.oracle)
        self.drew_globally = global_state() != state
        return discovery


METHOD: Contract[MethodUnderTest] = Contract()


@METHOD.promise(
    "dataclass", "Decorate the class with @dataclass(frozen=True) and give every field a default."
)
def _(plugin: MethodUnderTest) -> None:
    """It is a dataclass with discover(oracle, rng), and every field has a default."""
    _ = plugin.method


@METHOD.promise(
    "hyperparameters",
    "Use numbers, text, booleans, None, and tuples or dataclasses of them as fields.",
    needs=("dataclass",),
)
def _(plugin: MethodUnderTest) -> None:
    """Its fields are hyperparameters that a record can hold."""
    try:
        plain(plugin.before, "hyperparameters")
    except CircuitBenchError as error:
        raise InvalidPlugin(str(error)) from error


@METHOD.promise("description", READ, needs=("dataclass",))
def _(plugin: MethodUnderTest) -> None:
    """It says what it is, in an Info that lists can read from its source."""
    checked_info(type(plugin.method))


@METHOD.promise(
    "answer",
    "Return Discovery(scores, selected): a finite score for every head, [n_layers, n_heads]; "
    "heads and edges that exist; a trace by rising queries.",
    needs=("dataclass",),
)
def _(plugin: MethodUnderTest) -> None:
    """It answers with a complete, finite Discovery that fits the model."""
    _ = plugin.first


@METHOD.promise("own randomness", GENERATOR, needs=("answer",))
def _(plugin: MethodUnderTest) -> None:
    """It draws from the generator it is handed, never from a global one."""
    if plugin.drew_globally:
        raise InvalidPlugin("draws must come from the generator handed in, not a global one")


@METHOD.promise(
    "repeatable",
    "Look for draws from elsewhere, for sets whose order counts, for time, for caches in a "
    "module or a class.",
    needs=("answer",),
)
def _(plugin: MethodUnderTest) -> None:
    """The same oracle and generator give the same answer."""
    second = _discover(made(plugin.make), _toy_oracle())
    first = plugin.first
    if not np.array_equal(first.scores, second.scores) or first.selected != second.selected:
        raise InvalidPlugin("the same oracle and generator must give the same discovery")


@METHOD.promise(
    "left alone",
    "Keep what is computed in local variables; a frozen dataclass cannot be changed by accident.",
    needs=("answer",),
)
def _(plugin: MethodUnderTest) -> None:
    """Playing it leaves its hyperparameters as they were."""
    if plain(hyperparameters(plugin.method)) != plain(plugin.before):
        raise InvalidPlugin("discover() changed the method's hyperparameters")


@METHOD.promise(
    "any shape",
    "Take n_layers, n_heads or shape from the oracle; write no size into the code.",
    needs=("answer",),
)
def _(plugin: MethodUnderTest) -> None:
    """It works on a model of another shape."""
    _discover(made(plugin.make), _toy_oracle(n_layers=2, n_heads=3))


@METHOD.promise(
    "budget",
    "Look at oracle.remaining before asking, or let BudgetExceeded through.",
    needs=("answer",),
)
def _(plugin: MethodUnderTest) -> None:
    """On a budget of a few queries it answers, or lets BudgetExceeded through."""
    with suppress(BudgetExceeded):
        _discover(made(plugin.make), _toy_oracle(budget=plugin.budget))


@METHOD.promise("needs", "Name what it asks for in Info(needs=...).", needs=("answer",))
def _(plugin: MethodUnderTest) -> None:
    """Its Info names the gradients and counterfactual prompts that it asks for."""
    info = attached(type(plugin.method))
    _ = plugin.first
    for need in sorted(plugin.oracle._account.used - set(() if info is None else info.needs)):
        if info is not None:
            raise InvalidPlugin(f"Info: discover() asked for {need}, so needs must name them")


@METHOD.promise(
    "training",
    "Name 'training' in Info(needs=...) if, and only if, it has train().",
    needs=("dataclass",),
)
def _(plugin: MethodUnderTest) -> None:
    """Its Info says whether it trains."""
    info, trains = attached(type(plugin.method)), isinstance(plugin.method, TrainableMethod)
    if info is not None and ("training" in info.needs) != trains:
        raise InvalidPlugin(
            f"Info: a method {'with' if trains else 'without'} train() "
            f"{'needs' if trains else 'does not need'} 'training'"
        )


@METHOD.promise("granularity", GRANULARITY, needs=("answer",))
def _(plugin: MethodUnderTest) -> None:
    """Its Info says whether it ranks edges."""
    check_granularity(type(plugin.method), "discover() gives", plugin.first.edges is not None)


def made(make: Callable[[], Method]) -> Method:
    """What ``make`` gives, if it is a method."""
    try:
        method = make()
    except TypeError as error:
        raise InvalidPlugin(f"every hyperparameter needs a default: {error}") from error
    if not isinstance(method, Method) or not dataclasses.is_dataclass(method):
        raise InvalidPlugin(
            f"{type(method).__name__} must be a dataclass with discover(oracle, rng)"
        )
    return method


def _toy_oracle(
    n_layers: int = 3, n_heads: int = 4, budget: int | None = None, pool: int | None = None
) -> Oracle:
    return Oracle(
        toy_model(n_layers, n_heads),
        ToyTask(),
        task_name="toy",
        seed=5,
        batch_size=4,
        budget=budget,
        pool=pool,
    )


def _discover(method: Method, oracle: Oracle) -> Discovery:
    shape = oracle.shape
    if isinstance(method, TrainableMethod):
        pool = method.curriculum().pool if isinstance(method, Learner) else None
        trainer = _toy_oracle(*shape, pool=None if pool is None else min(pool, 8))
        if isinstance(method, Learner):
            labelled = method.curriculum().labelled
            truths = (ToyTask().truth(toy_model(*shape)),) if labelled else ()
            method.train([trainer], np.random.default_rng(3), TrainingTools(truths=truths))
        else:
            method.train([trainer], np.random.default_rng(3))
    discovery = method.discover(oracle, np.random.default_rng(4))
    try:
        check_discovery(discovery, shape)
    except RunFailed as error:
        raise InvalidPlugin(str(error)) from error
    return discovery
