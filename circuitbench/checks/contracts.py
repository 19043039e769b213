"""The contract of plug-ins as functions: run them on yours before you publish it.

``check_method``, ``check_task`` and ``check_model`` raise :class:`InvalidPlugin` at the first
promise that is broken and return nothing otherwise. A plug-in need not have an
:class:`~circuitbench.core.info.Info`; :class:`UndescribedPlugin` warns of one that has none, and
one that is wrong is refused. Ours pass the same checks in the test suite.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch

from circuitbench.core.circuit import Circuit, Head, Role, head_grid
from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import BudgetExceeded, CircuitBenchError, InvalidPlugin, RunFailed
from circuitbench.core.info import Info, attached
from circuitbench.evaluation.answer_check import check_discovery
from circuitbench.models import LayerWeights, Model, ModelFactory, Transformer, TransformerConfig
from circuitbench.oracle import Batch, Oracle
from circuitbench.oracle.ablations import ablation_named
from circuitbench.plugins.hyperparameters import hyperparameters
from circuitbench.plugins.info import Unreadable, read_info
from circuitbench.plugins.method import Learner, Method, TrainableMethod, TrainingTools
from circuitbench.results import plain
from circuitbench.tasks.base import Prompts, Task
from circuitbench.tasks.text.task import TextTask


class UndescribedPlugin(UserWarning):
    """A plug-in that says nothing of itself: lists show its name and the family ``other``."""


def toy_model(n_layers: int = 3, n_heads: int = 4, seed: int = 0) -> Model:
    """A transformer of random weights, small enough to ask thousands of times."""
    rng = np.random.default_rng(seed)
    d_model, d_head, d_vocab, n_ctx = 12, 4, 11, 8

    def draw(*shape: int) -> torch.Tensor:
        return torch.as_tensor(rng.standard_normal(shape) / shape[-2] ** 0.5, dtype=torch.float32)

    layers = tuple(
        LayerWeights(
            W_Q=2 * draw(n_heads, d_model, d_head),
            W_K=2 * draw(n_heads, d_model, d_head),
            W_V=draw(n_heads, d_model, d_head),
            W_O=draw(n_heads, d_head, d_model),
        )
        for _ in range(n_layers)
    )
    config = TransformerConfig(
        n_layers=n_layers,
        n_heads=n_heads,
        d_model=d_model,
        d_head=d_head,
        d_vocab=d_vocab,
        n_ctx=n_ctx,
        attn_scale=d_head**-0.5,
    )
    transformer = Transformer(
        config, draw(d_vocab, d_model), draw(d_model, d_vocab), layers, W_pos=draw(n_ctx, d_model)
    )
    return Model("toy", n_layers, n_heads, transformer, provenance={"seed": seed})


class ToyTask:
    """Random prompts and a logit difference between two fixed tokens; its truth is arbitrary."""

    default_model = "toy"

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """``n`` prompts of 6 tokens, read at the last."""
        tokens = torch.as_tensor(rng.integers(1, 11, (n, 6)))
        counterfactual = tokens.clone()
        counterfactual[:, 2] = 1 + (tokens[:, 2] + torch.as_tensor(rng.integers(0, 9, n))) % 10
        return Prompts(
            tokens,
            counterfactual,
            torch.full((n, 1), 5),
            torch.tensor([[[3, 7]]]).expand(n, -1, -1),
            torch.tensor([[[1.0, -1.0]]]).expand(n, -1, -1),
            torch.tensor([3, 7]),
        )

    def control(self, model: Model, n: int, rng: np.random.Generator) -> torch.Tensor:
        """``n`` random spans of 7 tokens after a zero."""
        tokens = torch.as_tensor(rng.integers(1, 11, (n, 8)))
        tokens[:, 0] = 0
        return tokens

    def truth(self, model: Model) -> Circuit:
        """The first head of the last layer."""
        return Circuit({"toy": Role((Head(model.n_layers - 1, 0),))}, "arbitrary", "ambiguous")


def check_method(make: Callable[[], Method], budget: int = 7) -> None:
    """Check that what ``make`` returns keeps the contract of :class:`Method`.

    The method is run on a toy model several times, so give one that learns few steps. Checked:
    it is a dataclass with JSON-able hyperparameters and defaults; it answers with a complete
    finite :class:`Discovery`; the same generator gives the same answer; it neither reads nor
    moves the global random state; it leaves its hyperparameters alone; it works on a model of
    another shape; under a budget of ``budget`` queries it answers or lets
    :class:`BudgetExceeded` through; and its Info, if it has one, can be read from its source and
    names all that it was seen to ask for.

    Args:
        make: a class whose fields all have defaults, or a function without arguments.
        budget: queries of the budgeted run.

    Raises:
        InvalidPlugin: naming the broken promise.
    """
    method = _made(make)
    try:
        plain(hyperparameters(method), "hyperparameters")
    except CircuitBenchError as error:
        raise InvalidPlugin(str(error)) from error
    info = checked_info(type(method))
    before = hyperparameters(method)
    watched = _toy_oracle()
    with _global_draws_refused():
        first = _discover(method, watched)
        second = _discover(_made(make), _toy_oracle())
    if not np.array_equal(first.scores, second.scores) or first.selected != second.selected:
        raise InvalidPlugin("the same oracle and generator must give the same discovery")
    if plain(hyperparameters(method)) != plain(before):
        raise InvalidPlugin("discover() changed the method's hyperparameters")
    _discover(_made(make), _toy_oracle(n_layers=2, n_heads=3))
    with suppress(BudgetExceeded):
        _discover(_made(make), _toy_oracle(budget=budget))
    if info is not None:
        _check_needs(info, watched.seen(), isinstance(method, TrainableMethod))
        _check_granularity(info, "discover() gives", first.edges is not None)


def check_task(task: Task, model: Model, n: int = 16) -> None:
    """Check that ``task`` keeps the contract of :class:`Task` on ``model``.

    Checked: prompts and control text have the shapes, types and vocabulary the oracle needs;
    the same generator gives the same draws and another one others; the global random state is
    not used; every counterfactual differs from its prompt; the truth lies inside the model; and
    its Info, if it has one, can be read from its source and says what the truth lists.

    Raises:
        InvalidPlugin: naming the broken promise.
    """
    if not isinstance(task, TextTask | Task):  # a file may name no model, and then says so
        raise InvalidPlugin(
            f"{type(task).__name__} needs default_model, prompts(), control() and truth()"
        )
    with _global_draws_refused():
        prompts = task.prompts(model, n, np.random.default_rng(0))
        control = task.control(model, n, np.random.default_rng(0))
    vocabulary = None if model.transformer is None else model.transformer.config.d_vocab
    for name, tokens in (
        ("tokens", prompts.tokens),
        ("counterfactual", prompts.counterfactual),
        ("token_ids", prompts.token_ids),
        ("choices", prompts.choices),
        ("control", control),
    ):
        if tokens.dtype != torch.long:
            raise InvalidPlugin(f"{name} must be of type long, not {tokens.dtype}")
        top = int(tokens.max())
        if int(tokens.min()) < 0 or (vocabulary is not None and top >= vocabulary):
            raise InvalidPlugin(f"{name} holds a token outside the vocabulary of {vocabulary}")
    if len(prompts) != n or control.ndim != 2 or control.shape[0] != n:
        raise InvalidPlugin(f"asked for {n} prompts and control spans, got others")
    if control.shape[1] < 2:
        raise InvalidPlugin("control spans need at least two tokens")
    if not (control[:, 0] == control[0, 0]).all():
        raise InvalidPlugin("control spans must all begin with the same token (BOS)")
    if (prompts.tokens == prompts.counterfactual).all(1).any():
        raise InvalidPlugin("a counterfactual prompt equals its prompt")
    if not ((prompts.weights > 0).any(-1) & (prompts.weights < 0).any(-1)).all():
        raise InvalidPlugin("each position needs an answer (weight > 0) and a wrong answer (< 0)")
    again = task.prompts(model, n, np.random.default_rng(0))
    if not (again.tokens.equal(prompts.tokens) and again.token_ids.equal(prompts.token_ids)):
        raise InvalidPlugin("the same generator must give the same prompts")
    if not task.control(model, n, np.random.default_rng(0)).equal(control):
        raise InvalidPlugin("the same generator must give the same control text")
    if task.prompts(model, n, np.random.default_rng(1)).tokens.equal(prompts.tokens):
        raise InvalidPlugin("another generator must give other prompts")
    truth = task.truth(model)
    if truth is None:
        return
    if not truth.heads and not truth.mlps:
        raise InvalidPlugin("the truth names no component")
    try:
        head_grid(truth.heads, model.n_layers, model.n_heads)
        for name in (*truth.ablations, *truth.edge_ablations):
            ablation_named(name)
    except CircuitBenchError as error:
        raise InvalidPlugin(f"truth: {error}") from error
    info = None if isinstance(task, TextTask) else checked_info(type(task))
    if info is not None:
        _check_granularity(info, "the truth lists", truth.edges is not None)
        if ("mlps" in info.needs) != bool(truth.mlps):
            raise InvalidPlugin(
                f"Info: the truth names {len(truth.mlps)} MLPs, so 'mlps' "
                f"{'belongs' if truth.mlps else 'does not belong'} among its needs"
            )


def check_model(factory: ModelFactory) -> None:
    """Check that ``factory`` keeps the contract of :class:`ModelFactory`, without a variant.

    Checked: it gives a model with weights or hooks, whose grid of heads is that of its weights,
    with JSON-able facts; and its Info, if it has one, can be read from its source.

    Raises:
        InvalidPlugin: naming the broken promise.
        ModelUnavailable: the weights are not on this machine.
    """
    checked_info(factory)
    model = factory("")
    if not isinstance(model, Model):
        raise InvalidPlugin(f"a model factory must return a Model, not {type(model).__name__}")
    if model.transformer is None and model.hooked is None:
        raise InvalidPlugin("a model needs its weights (transformer) or its hooks (hooked)")
    if model.transformer is not None:
        config = model.transformer.config
        if (config.n_layers, config.n_heads) != (model.n_layers, model.n_heads):
            raise InvalidPlugin(
                f"the weights have {config.n_layers} x {config.n_heads} heads, the model says "
                f"{model.n_layers} x {model.n_heads}"
            )
    try:
        plain({"provenance": model.provenance, "dials": model.dials}, "model")
    except CircuitBenchError as error:
        raise InvalidPlugin(str(error)) from error


def checked_info(plugin: object) -> Info | None:
    """The Info of a class or function, if its source says the same; warns where it has none.

    Raises:
        InvalidPlugin: lists could not read it, or would read something else.
    """
    module, name = getattr(plugin, "__module__", ""), getattr(plugin, "__qualname__", "")
    info = attached(plugin)
    if info is None:
        warnings.warn(
            f"{name} is decorated with no Info: lists show its name and the family 'other'",
            UndescribedPlugin,
            stacklevel=3,
        )
        return None
    if module == "__main__" or "<locals>" in name:
        return info  # nothing can be registered from there
    try:
        read = read_info(f"{module}:{name}")
    except Unreadable as error:
        raise InvalidPlugin(str(error)) from error
    if read != info:
        raise InvalidPlugin(f"the source of {name} says {read}, the imported object {info}")
    return info


def _check_needs(info: Info, seen: set[str], trains: bool) -> None:
    for need in sorted(seen - set(info.needs)):
        raise InvalidPlugin(f"Info: discover() asked for {need}, so needs must name them")
    if ("training" in info.needs) != trains:
        raise InvalidPlugin(
            f"Info: a method {'with' if trains else 'without'} train() "
            f"{'needs' if trains else 'does not need'} 'training'"
        )


def _check_granularity(info: Info, who: str, edges: bool) -> None:
    if (info.granularity == "edges") != edges:
        raise InvalidPlugin(
            f"Info: {who} {'edges' if edges else 'no edges'}, so granularity is "
            f"{'edges' if edges else 'heads'!r}, not {info.granularity!r}"
        )


def _made(make: Callable[[], Method]) -> Method:
    try:
        method = make()
    except TypeError as error:
        raise InvalidPlugin(f"every hyperparameter needs a default: {error}") from error
    if not isinstance(method, Method) or not dataclasses.is_dataclass(method):
        raise InvalidPlugin(
            f"{type(method).__name__} must be a dataclass with discover(oracle, rng)"
        )
    return method


class _WatchedOracle(Oracle):
    """An oracle that keeps the batches it draws, to tell what was asked about them."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._drawn: list[Batch] = []
        super().__init__(*args, **settings)

    def draw(self, seed: int) -> Batch:
        """See :meth:`Oracle.draw`."""
        batch = super().draw(seed)
        self._drawn.append(batch)
        return batch

    def seen(self) -> set[str]:
        """The needs of whoever asked it."""
        seen = {"gradients"} if self.meter.gradients else set()
        if any(batch.counterfactual_counted for batch in self._drawn):
            seen.add("counterfactuals")
        return seen


def _toy_oracle(
    n_layers: int = 3, n_heads: int = 4, budget: int | None = None, pool: int | None = None
) -> _WatchedOracle:
    return _WatchedOracle(
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
        tools = TrainingTools()
        if isinstance(method, Learner) and method.curriculum().labelled:
            tools = TrainingTools(truths=(ToyTask().truth(toy_model(*shape)),))
        if isinstance(method, Learner):
            method.train([trainer], np.random.default_rng(3), tools)
        else:
            method.train([trainer], np.random.default_rng(3))
    discovery = method.discover(oracle, np.random.default_rng(4))
    try:
        check_discovery(discovery, shape)
    except RunFailed as error:
        raise InvalidPlugin(str(error)) from error
    return discovery


@contextmanager
def _global_draws_refused() -> Iterator[None]:
    """Insist that nobody moves the global random state of numpy or torch."""
    before = _global_state()
    yield
    if _global_state() != before:
        raise InvalidPlugin("draws must come from the generator handed in, not a global one")


def _global_state() -> str:
    numpy_state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 - watched, not used
    return f"{numpy_state['pos']} {numpy_state['key'].tobytes()!r} {_torch_state()!r}"


def _torch_state() -> bytes:
    return torch.get_rng_state().numpy().tobytes()
