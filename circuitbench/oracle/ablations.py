"""What takes the place of a head that is switched off: one object per kind of ablation.

Engines, the edge oracle, the meter, the health gate and all settings ask these objects. To add a
kind, write its class here and list it in :data:`ABLATIONS`. Importing this module does not
import torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol

from circuitbench.core.errors import InvalidSpec, nearest

if TYPE_CHECKING:
    from torch import Tensor

Half = Literal["task", "control"]
"""Which half of a batch: the task's prompts or the control spans."""
Text = Literal["prompts", "counterfactual", "control"]
# Heads ``[n]`` and a constant for each ``[n, d_head]``, to losses ``[n]`` and their gradients.
Objective = Callable[["Tensor", "Tensor"], "tuple[Tensor, Tensor]"]


class Activations(Protocol):
    """What an engine can tell an ablation of one source: the intact model's activations."""

    @property
    def fitted(self) -> dict[str, list[Tensor]]:
        """Where an ablation keeps, under its name, what it has fitted on this source."""
        ...

    @property
    def lengths(self) -> Tensor | None:
        """``[rows]``: tokens of each prompt and its counterfactual; None where all are equal."""
        ...

    def heads(self, text: Text, everywhere: bool = True, n: int | None = None) -> list[Tensor]:
        """Head outputs ``z [rows, pos, n_heads, d_head]``, one tensor per layer.

        Args:
            text: what the model runs on.
            everywhere: False allows the engine to give the last layer's only where the metric
                reads it, ``[rows, k, n_heads, d_head]``.
            n: of the first so many rows only; all by default.
        """
        ...

    def alone(self, layer: int, n: int) -> Objective:
        """KL(intact || one head replaced) as a function of heads of a layer and their constants.

        The divergence (nats) is of the next-token distribution at the metric's positions, mean
        over the first ``n`` prompts. Each head is replaced by itself, at all positions.
        """
        ...


class Fit(NamedTuple):
    """Passes that fitting takes before the first answer, each over ``prompts`` prompts."""

    prompts: int
    forwards: int
    backwards: int


class Ablation(ABC):
    """One kind of ablation.

    Attributes:
        name: in settings, records and truths.
        replaces: what takes the head's place, in a few words.
        counterfactual: whether the counterfactual prompts must be run for it.
        everywhere: whether a replacement needs more of the last layer than what the metric reads.
        edges: whether it can replace an edge's sender, be it a head, an MLP or the embedding.
        leaves_nothing: whether a model without any head knows nothing of the prompts (its metric
            is then about 0); False where what is left is the counterfactual's metric.
    """

    name: str
    replaces: str
    counterfactual: bool = False
    everywhere: bool = False
    edges: bool = True
    leaves_nothing: bool = True

    @abstractmethod
    def heads(self, half: Half, activations: Activations) -> list[Tensor] | None:
        """What ablated heads put out, one tensor per layer; None is zero.

        Each is ``[rows or 1, pos or 1, n_heads, d_head]``, with the positions that
        ``activations.heads(..., everywhere=self.everywhere)`` has.
        """

    @abstractmethod
    def senders(
        self, half: Half, outputs: Callable[[], Tensor], lengths: Tensor | None = None
    ) -> Tensor | None:
        """What ablated senders write, ``[senders, rows or 1, pos, d_model]``; None is zero.

        Args:
            half: which text runs.
            outputs: gives ``[senders, rows, pos, d_model]`` of the intact model, on the
                counterfactual prompts or on the control spans.
            lengths: ``[rows]`` tokens of each prompt; None where all are equal.

        Raises :class:`InvalidSpec` where :attr:`edges` is False.
        """

    def fit(self, n_heads: int, n_prompts: int) -> Fit:
        """What fitting costs on a source of ``n_prompts`` prompts, for all ``n_heads`` heads."""
        return Fit(0, 0, 0)


class Zero(Ablation):
    """Nothing at all."""

    name = "zero"
    replaces = "zero"

    def heads(self, half: Half, activations: Activations) -> None:
        """See :meth:`Ablation.heads`."""

    def senders(
        self, half: Half, outputs: Callable[[], Tensor], lengths: Tensor | None = None
    ) -> None:
        """See :meth:`Ablation.senders`."""


class _FromOtherText(Ablation):
    """The output on other text: the counterfactual prompts, or other control spans."""

    counterfactual = True
    leaves_nothing = False

    @abstractmethod
    def replacement(self, half: Half, output: Tensor, rows: int, lengths: Tensor | None) -> Tensor:
        """From an output on the other text; ``rows`` is the dimension of prompts or spans.

        ``lengths`` is given for prompts that differ in it.
        """

    def heads(self, half: Half, activations: Activations) -> list[Tensor]:
        """See :meth:`Ablation.heads`."""
        text: Text = "counterfactual" if half == "task" else "control"
        lengths = activations.lengths if half == "task" else None
        outputs = activations.heads(text, self.everywhere)
        return [self.replacement(half, z, 0, lengths) for z in outputs]

    def senders(
        self, half: Half, outputs: Callable[[], Tensor], lengths: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Ablation.senders`."""
        return self.replacement(half, outputs(), 1, lengths if half == "task" else None)


class Mean(_FromOtherText):
    """The mean over the counterfactual prompts (control text: over the spans), per position.

    Prompts of unequal length have no positions in common: the mean is over those of one's own.
    """

    name = "mean"
    replaces = "its mean over the counterfactual prompts"
    everywhere = True  # prompts may be read at different positions

    def replacement(self, half: Half, output: Tensor, rows: int, lengths: Tensor | None) -> Tensor:
        """See :meth:`_FromOtherText.replacement`."""
        if lengths is None:
            return output.mean(rows, keepdim=True)
        _, group = lengths.unique(return_inverse=True)
        size = group.bincount()
        shape = [len(size) if axis == rows else n for axis, n in enumerate(output.shape)]
        size = size.view([-1 if axis == rows else 1 for axis in range(output.dim())])
        mean = output.new_zeros(shape).index_add_(rows, group, output) / size
        chosen: Tensor = mean.index_select(rows, group)
        return chosen


class Resample(_FromOtherText):
    """The value on the prompt's own counterfactual (control text: on the next span)."""

    name = "resample"
    replaces = "its value on the prompt's own counterfactual"

    def replacement(self, half: Half, output: Tensor, rows: int, lengths: Tensor | None) -> Tensor:
        """See :meth:`_FromOtherText.replacement`."""
        return output if half == "task" else output.roll(-1, rows)


class Optimal(Ablation):
    """A constant per head that does the least harm (Li and Janson 2024, arXiv 2409.09951).

    The constant of a head, ``[d_head]``, the same at all positions, minimises the expected
    KL(intact || this head alone replaced by it) at the metric's positions, over the first
    :attr:`prompts` clean prompts of a batch (of the pool, where batches come from one). It is
    found by Adam (Kingma and Ba 2015) from the head's mean over these prompts and positions, in
    units of its standard deviation, with steps that shrink to nothing. Where the mean itself or
    zero does less harm, that is taken; where the mean does none, nothing is searched for. On
    control text the same constants are used.
    """

    name = "optimal"
    replaces = "the constant that does the least harm"
    edges = False  # a constant per head says nothing of MLPs and embeddings

    prompts = 32
    evaluations = 30  # three of them of the mean, the fitted constants and zero
    step = 0.4  # standard deviations
    decay = (0.9, 0.99)
    floor = 1e-3  # nats per standard deviation: a head of a smaller gradient hardly moves
    margin = 1e-5  # nats that count as none

    def heads(self, half: Half, activations: Activations) -> list[Tensor]:
        """See :meth:`Ablation.heads`."""
        if self.name not in activations.fitted:
            outputs = activations.heads("prompts", n=self.prompts)
            if activations.lengths is not None:  # of the tokens that are there, as one row
                real = _real(outputs[0], activations.lengths[: self.prompts])
                outputs = [z[real][None] for z in outputs]
            activations.fitted[self.name] = [
                self._constants(z, activations.alone(layer, self.prompts))[None, None]
                for layer, z in enumerate(outputs)
            ]
        return activations.fitted[self.name]

    def senders(
        self, half: Half, outputs: Callable[[], Tensor], lengths: Tensor | None = None
    ) -> Tensor:
        """Refused: there is no constant of an MLP or the embedding."""
        raise InvalidSpec("optimal ablation has constants of heads only, not of edges' senders")

    def fit(self, n_heads: int, n_prompts: int) -> Fit:
        """One pass for the mean, and a forward and backward pass per evaluation and head."""
        passes = n_heads * self.evaluations
        return Fit(min(n_prompts, self.prompts), 1 + passes, passes)

    def _constants(self, z: Tensor, objective: Objective) -> Tensor:
        """Fitted constants ``[n_heads, d_head]`` of a layer with outputs ``z``."""
        import torch

        constants = z.mean((0, 1))
        harm, _ = objective(torch.arange(len(constants), device=z.device), constants)
        heads = (harm > self.margin).nonzero()[:, 0]
        if len(heads):
            z = z[:, :, heads]
            constants[heads] = self._searched(
                z, harm[heads], lambda constants: objective(heads, constants)
            )
        return constants

    def _searched(
        self, z: Tensor, at_mean: Tensor, objective: Callable[[Tensor], tuple[Tensor, Tensor]]
    ) -> Tensor:
        """The same for heads whose mean does harm, ``at_mean [n_heads]`` nats."""
        mean = z.mean((0, 1))
        spread = (z - mean).square().mean((0, 1, 3)).sqrt()[:, None]
        moved = mean.new_zeros(mean.shape)  # in standard deviations
        first, second = moved, moved
        steps, (b1, b2) = self.evaluations - 3, self.decay
        for i in range(steps):
            gradient = objective(mean + spread * moved)[1] * spread
            first = b1 * first + (1 - b1) * gradient
            second = b2 * second + (1 - b2) * gradient.square()
            size = (second / (1 - b2 ** (i + 1))).sqrt() + self.floor
            moved = moved - self.step * (1 - i / steps) * first / (1 - b1 ** (i + 1)) / size
        best, zero = mean + spread * moved, mean.new_zeros(mean.shape)
        least, _ = objective(best)
        for constants, harm in ((mean, at_mean), (zero, objective(zero)[0])):
            better = harm < least - self.margin
            best, least = constants.where(better[:, None], best), harm.where(better, least)
        return best


def _real(z: Tensor, lengths: Tensor) -> Tensor:
    """Where ``z [rows, pos, ...]`` stands for a token and not for what fills a row up."""
    import torch

    return torch.arange(z.shape[1], device=z.device) < lengths[:, None]


ABLATIONS: dict[str, Ablation] = {a.name: a for a in (Zero(), Mean(), Resample(), Optimal())}


def ablation_named(name: str) -> Ablation:
    """The ablation of a name; raises :class:`InvalidSpec` naming the nearest."""
    if name not in ABLATIONS:
        raise InvalidSpec(f"no ablation {name!r}; {nearest(str(name), ABLATIONS)}")
    return ABLATIONS[name]


class _Checked:
    """Has pydantic check a name; pydantic itself is not imported before that."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core.core_schema import no_info_after_validator_function

        return no_info_after_validator_function(
            lambda name: ablation_named(name).name, handler(source)
        )


AblationName = Annotated[str, _Checked()]
"""The type of a setting that names an ablation; :func:`ablation_named` checks it."""
