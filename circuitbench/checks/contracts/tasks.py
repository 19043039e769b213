"""What a task promises."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from circuitbench.checks.contracts.contract import Contract
from circuitbench.checks.contracts.described import (
    GRANULARITY,
    READ,
    check_granularity,
    checked_info,
)
from circuitbench.checks.contracts.randomness import GENERATOR, global_state
from circuitbench.core.circuit import Circuit, head_grid
from circuitbench.core.errors import CircuitBenchError, InvalidPlugin
from circuitbench.core.info import attached
from circuitbench.models import Model
from circuitbench.oracle.ablations import ablation_named
from circuitbench.tasks.base import Prompts, Task
from circuitbench.tasks.text.task import TextTask


class TaskUnderTest:
    """A task on a model, and what it drew, drawn when first asked for.

    Args:
        task: the task.
        model: to draw for.
        n: how many prompts to draw.
    """

    def __init__(self, task: Task, model: Model, n: int = 16) -> None:
        self.task, self.model, self.n = task, model, n

    @cached_property
    def drawn(self) -> tuple[Prompts, Tensor]:
        """Prompts and control text."""
        state = global_state()
        prompts, control = self.again(0)
        self.drew_globally = global_state() != state
        return prompts, control

    def again(self, seed: int) -> tuple[Prompts, Tensor]:
        """Prompts and control text from fresh generators."""
        return (
            self.task.prompts(self.model, self.n, np.random.default_rng(seed)),
            self.task.control(self.model, self.n, np.random.default_rng(seed)),
        )

    @cached_property
    def truth(self) -> Circuit | None:
        """What the task says is true; None where nobody knows."""
        return self.task.truth(self.model)

    @property
    def tokens(self) -> dict[str, Tensor]:
        """Everything it drew that holds tokens, by name."""
        prompts, control = self.drawn
        names = ("tokens", "counterfactual", "token_ids", "choices")
        return {**{name: getattr(prompts, name) for name in names}, "control": control}


TASK: Contract[TaskUnderTest] = Contract()


@TASK.promise(
    "interface",
    "Give the class default_model (text) and prompts(model, n, rng), control(model, n, rng), "
    "truth(model).",
)
def _(plugin: TaskUnderTest) -> None:
    """It has default_model, prompts(), control() and truth()."""
    if not isinstance(plugin.task, TextTask | Task):  # a file may name no model
        raise InvalidPlugin(
            f"{type(plugin.task).__name__} needs default_model, prompts(), control() and truth()"
        )


@TASK.promise(
    "draws",
    "Return Prompts of n rows, and control text as a tensor [n, pos] with pos of 2 or more.",
    needs=("interface",),
)
def _(plugin: TaskUnderTest) -> None:
    """It gives as many prompts and control spans as are asked for."""
    prompts, control = plugin.drawn
    if not isinstance(prompts, Prompts) or not isinstance(control, Tensor):
        raise InvalidPlugin(
            "prompts() must return Prompts and control() a tensor, not "
            f"{type(prompts).__name__} and {type(control).__name__}"
        )
    if len(prompts) != plugin.n or control.ndim != 2 or control.shape[0] != plugin.n:
        raise InvalidPlugin(f"asked for {plugin.n} prompts and control spans, got others")
    if control.shape[1] < 2:
        raise InvalidPlugin("control spans need at least two tokens")


@TASK.promise("types", "Make tokens with torch.long (numpy: int64).", needs=("draws",))
def _(plugin: TaskUnderTest) -> None:
    """Tokens are whole numbers, torch.long."""
    for name, tokens in plugin.tokens.items():
        if tokens.dtype != torch.long:
            raise InvalidPlugin(f"{name} must be of type long, not {tokens.dtype}")


@TASK.promise("vocabulary", "Draw tokens from 0 to d_vocab - 1.", needs=("types",))
def _(plugin: TaskUnderTest) -> None:
    """Every token is in the model's vocabulary."""
    transformer = plugin.model.transformer
    vocabulary = None if transformer is None else transformer.config.d_vocab
    for name, tokens in plugin.tokens.items():
        top = int(tokens.max())
        if int(tokens.min()) < 0 or (vocabulary is not None and top >= vocabulary):
            raise InvalidPlugin(f"{name} holds a token outside the vocabulary of {vocabulary}")


@TASK.promise(
    "control", "Begin every span with the model's beginning-of-text token.", needs=("draws",)
)
def _(plugin: TaskUnderTest) -> None:
    """Control spans begin with one token that is always the same."""
    control = plugin.drawn[1]
    if not (control[:, 0] == control[0, 0]).all():
        raise InvalidPlugin("control spans must all begin with the same token (BOS)")


@TASK.promise(
    "counterfactual",
    "Change in every counterfactual what decides the answer.",
    needs=("draws",),
)
def _(plugin: TaskUnderTest) -> None:
    """Every counterfactual prompt differs from its prompt."""
    prompts = plugin.drawn[0]
    if (prompts.tokens == prompts.counterfactual).all(1).any():
        raise InvalidPlugin("a counterfactual prompt equals its prompt")


@TASK.promise(
    "answers",
    "Weight an answer above 0 and a wrong answer below at each position; see answer_against.",
    needs=("draws",),
)
def _(plugin: TaskUnderTest) -> None:
    """Each position that is read has an answer and a wrong answer."""
    weights = plugin.drawn[0].weights
    if not ((weights > 0).any(-1) & (weights < 0).any(-1)).all():
        raise InvalidPlugin("each position needs an answer (weight > 0) and a wrong answer (< 0)")


@TASK.promise("own randomness", GENERATOR, needs=("draws",))
def _(plugin: TaskUnderTest) -> None:
    """It draws from the generator it is handed, never from a global one."""
    _ = plugin.drawn
    if plugin.drew_globally:
        raise InvalidPlugin("draws must come from the generator handed in, not a global one")


@TASK.promise(
    "repeatable",
    "Look for draws from elsewhere, and for state that is kept from call to call.",
    needs=("draws",),
)
def _(plugin: TaskUnderTest) -> None:
    """The same generator gives the same prompts and control text."""
    prompts, control = plugin.drawn
    again, control_again = plugin.again(0)
    if not (again.tokens.equal(prompts.tokens) and again.token_ids.equal(prompts.token_ids)):
        raise InvalidPlugin("the same generator must give the same prompts")
    if not control_again.equal(control):
        raise InvalidPlugin("the same generator must give the same control text")


@TASK.promise(
    "fresh prompts", "Draw from rng at every call, without a seed of your own.", needs=("draws",)
)
def _(plugin: TaskUnderTest) -> None:
    """Another generator gives other prompts."""
    if plugin.again(1)[0].tokens.equal(plugin.drawn[0].tokens):
        raise InvalidPlugin("another generator must give other prompts")


@TASK.promise(
    "truth",
    "Return a Circuit whose heads are counted from 0 and lie in the model, or None.",
    needs=("interface",),
)
def _(plugin: TaskUnderTest) -> None:
    """Its truth is a circuit inside the model, or None where nobody knows it."""
    truth = plugin.truth
    if truth is None:
        return
    if not isinstance(truth, Circuit):
        raise InvalidPlugin(f"truth() must return a Circuit, not {type(truth).__name__}")
    if not truth.heads and not truth.mlps:
        raise InvalidPlugin("the truth names no component")
    try:
        head_grid(truth.heads, plugin.model.n_layers, plugin.model.n_heads)
    except CircuitBenchError as error:
        raise InvalidPlugin(f"truth: {error}") from error


@TASK.promise(
    "ablations",
    "Name ablations that exist, those under which the truth was verified; none is allowed.",
    needs=("truth",),
)
def _(plugin: TaskUnderTest) -> None:
    """Its truth names ablations that exist."""
    if plugin.truth is None:
        return
    try:
        for name in (*plugin.truth.ablations, *plugin.truth.edge_ablations):
            ablation_named(name)
    except CircuitBenchError as error:
        raise InvalidPlugin(f"truth: {error}") from error


@TASK.promise("description", READ, needs=("interface",))
def _(plugin: TaskUnderTest) -> None:
    """It says what it is, in an Info that lists can read from its source."""
    if not isinstance(plugin.task, TextTask):
        checked_info(type(plugin.task))


@TASK.promise("granularity", GRANULARITY, needs=("truth",))
def _(plugin: TaskUnderTest) -> None:
    """Its Info says whether the truth lists edges."""
    if plugin.truth is not None and not isinstance(plugin.task, TextTask):
        check_granularity(type(plugin.task), "the truth lists", plugin.truth.edges is not None)


@TASK.promise("needs", "Name 'mlps' in Info(needs=...) if the truth names some.", needs=("truth",))
def _(plugin: TaskUnderTest) -> None:
    """Its Info says whether the circuit has MLPs."""
    if plugin.truth is None or isinstance(plugin.task, TextTask):
        return
    info, mlps = attached(type(plugin.task)), plugin.truth.mlps
    if info is not None and ("mlps" in info.needs) != bool(mlps):
        raise InvalidPlugin(
            f"Info: the truth names {len(mlps)} MLPs, so 'mlps' "
            f"{'belongs' if mlps else 'does not belong'} among its needs"
        )
