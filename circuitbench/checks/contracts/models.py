"""What a model promises."""

from __future__ import annotations

from functools import cached_property

import torch

from circuitbench.checks.contracts.contract import Contract
from circuitbench.checks.contracts.described import READ, checked_info
from circuitbench.core.errors import CircuitBenchError, InvalidPlugin
from circuitbench.models import Model, ModelFactory, Transformer
from circuitbench.models.digest import tensors_of, weights_digest
from circuitbench.models.forward import forward
from circuitbench.results import plain


class ModelUnderTest:
    """A factory of models and what it makes without a variant."""

    def __init__(self, factory: ModelFactory) -> None:
        self.factory = factory

    @cached_property
    def model(self) -> Model:
        """What it makes."""
        return self.factory("")

    @property
    def transformer(self) -> Transformer | None:
        """Its weights, if it has some of its own."""
        return self.model.transformer


MODEL: Contract[ModelUnderTest] = Contract()


@MODEL.promise("description", READ)
def _(plugin: ModelUnderTest) -> None:
    """It says what it is, in an Info that lists can read from its source."""
    checked_info(plugin.factory)


@MODEL.promise("factory", "Write a function of one text, the variant, that returns a Model.")
def _(plugin: ModelUnderTest) -> None:
    """It is a function that makes a Model of a variant; the variant may be empty."""
    if not isinstance(plugin.model, Model):
        raise InvalidPlugin(
            f"a model factory must return a Model, not {type(plugin.model).__name__}"
        )


@MODEL.promise(
    "weights", "Give Model a Transformer, or hooked=... where ours does not fit.", ("factory",)
)
def _(plugin: ModelUnderTest) -> None:
    """It has weights, or hooks."""
    if plugin.transformer is None and plugin.model.hooked is None:
        raise InvalidPlugin("a model needs its weights (transformer) or its hooks (hooked)")


@MODEL.promise(
    "shape", "Take Model's n_layers and n_heads from the configuration.", needs=("weights",)
)
def _(plugin: ModelUnderTest) -> None:
    """Its grid of heads is that of its weights."""
    if plugin.transformer is not None:
        model, config = plugin.model, plugin.transformer.config
        if (config.n_layers, config.n_heads) != (model.n_layers, model.n_heads):
            raise InvalidPlugin(
                f"the weights have {config.n_layers} x {config.n_heads} heads, the model says "
                f"{model.n_layers} x {model.n_heads}"
            )


@MODEL.promise(
    "finite weights", "Look at how they were read or made: nan is not a number.", needs=("weights",)
)
def _(plugin: ModelUnderTest) -> None:
    """Every weight is a finite number."""
    if plugin.transformer is None:
        return
    for name, tensor in tensors_of(plugin.transformer):
        if not torch.isfinite(tensor).all():
            raise InvalidPlugin(f"{name} holds a number that is not finite")


@MODEL.promise(
    "runs", "Compare the shapes with those in the docstring of LayerWeights.", needs=("weights",)
)
def _(plugin: ModelUnderTest) -> None:
    """It gives a logit per token of its vocabulary."""
    if plugin.transformer is not None:
        config = plugin.transformer.config
        with torch.no_grad():
            logits = forward(plugin.transformer, torch.zeros(1, 2, dtype=torch.long)).logits
        if tuple(logits.shape) != (1, 2, config.d_vocab):
            raise InvalidPlugin(
                f"two tokens give logits {tuple(logits.shape)}, expected (1, 2, {config.d_vocab})"
            )


@MODEL.promise(
    "repeatable",
    "Draw weights from a generator of their own with a fixed seed, or the variant's.",
    needs=("weights",),
)
def _(plugin: ModelUnderTest) -> None:
    """The same variant gives the same weights."""
    again = plugin.factory("").transformer
    first, second = (t and weights_digest(t) for t in (plugin.transformer, again))
    if first != second:
        raise InvalidPlugin("asked twice, it gives two different models")


@MODEL.promise(
    "facts",
    "Use numbers, text, booleans, lists and mappings in provenance and dials.",
    ("factory",),
)
def _(plugin: ModelUnderTest) -> None:
    """Its provenance and dials are facts that a record can hold."""
    try:
        plain({"provenance": plugin.model.provenance, "dials": plugin.model.dials}, "model")
    except CircuitBenchError as error:
        raise InvalidPlugin(str(error)) from error
