"""What a task is: prompts with a metric, ordinary text as control, and a hidden truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import Circuit
from circuitbench.core.errors import InvalidPlugin, InvalidSpec
from circuitbench.models.base import Model

REST = "rest"
"""The name of all positions that are in no span."""


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts, and the metric as a linear function of logits.

    The metric of one prompt is the mean over its ``k`` positions of
    ``sum_c weights[c] * logit[token_ids[c]]``: with weights ``+1, -1`` the logit difference
    between the answer and a wrong answer.

    Args:
        tokens: ``[batch, pos]`` long.
        counterfactual: ``[batch, pos]`` long; the same prompts with the answer's cause changed.
        positions: ``[batch, k]`` long; where logits are read.
        token_ids: ``[batch, k, c]`` long; which logits are read.
        weights: ``[batch, k, c]`` float; how they are combined.
        choices: ``[n]`` long; the tokens among which a correct answer must come out on top.
        spans: named stretches of every prompt, by name ``[batch, 2]`` long: the first position
            and the one after the last. They do not overlap; positions in none of them are
            called :data:`REST`. None where the task names no positions.
        lengths: ``[batch]`` long; how many tokens each prompt, and its counterfactual, really has.
            None: all of them. Rows are filled up behind their last token, where causal attention
            never looks, so a short prompt gives what it gives alone.

    Raises:
        InvalidPlugin: a tensor of another shape, or a position outside its prompt.
    """

    tokens: Tensor
    counterfactual: Tensor
    positions: Tensor
    token_ids: Tensor
    weights: Tensor
    choices: Tensor
    spans: Mapping[str, Tensor] | None = None
    lengths: Tensor | None = None

    def __post_init__(self) -> None:
        batch = self.tokens.shape[0]
        if self.tokens.shape != self.counterfactual.shape:
            raise InvalidPlugin(
                f"counterfactual prompts must have the prompts' shape {tuple(self.tokens.shape)}, "
                f"not {tuple(self.counterfactual.shape)}"
            )
        k, c = self.positions.shape[1], self.token_ids.shape[-1]
        for name, tensor, shape in (
            ("positions", self.positions, (batch, k)),
            ("token_ids", self.token_ids, (batch, k, c)),
            ("weights", self.weights, (batch, k, c)),
        ):
            if tuple(tensor.shape) != shape:
                raise InvalidPlugin(f"prompts.{name} must be {shape}, not {tuple(tensor.shape)}")
        if self.lengths is not None and tuple(self.lengths.shape) != (batch,):
            raise InvalidPlugin(
                f"prompts.lengths must be ({batch},), not {tuple(self.lengths.shape)}"
            )
        ends = self.tokens.shape[1] if self.lengths is None else self.lengths[:, None]
        if bool((self.positions >= ends).any()) or int(self.positions.min()) < 0:
            raise InvalidPlugin("prompts.positions points outside the prompts")
        if self.spans is not None:
            self._check_spans(self.spans)

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def take(self, index: Tensor) -> Prompts:
        """The prompts at ``index`` (long or bool), in that order."""
        return Prompts(
            self.tokens[index],
            self.counterfactual[index],
            self.positions[index],
            self.token_ids[index],
            self.weights[index],
            self.choices,
            None if self.spans is None else {k: v[index] for k, v in self.spans.items()},
            None if self.lengths is None else self.lengths[index],
        )

    def to(self, device: str | torch.device) -> Prompts:
        """A copy on ``device``."""
        tensors = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        spans = self.spans
        if spans is not None:
            spans = {name: span.to(device) for name, span in spans.items()}
        return Prompts(**tensors, spans=spans)

    def members(self) -> dict[str, Tensor]:
        """By name of a span, :data:`REST` last: which positions it has, ``[batch, pos]`` bool.

        Raises :class:`InvalidSpec` where the task names no positions.
        """
        if self.spans is None:
            raise InvalidSpec("the prompts of this task name no positions (Prompts.spans)")
        where = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        found = {
            name: (span[:, :1] <= where) & (where < span[:, 1:])
            for name, span in self.spans.items()
        }
        return found | {REST: ~torch.stack(list(found.values())).any(0)}

    def n_tokens(self, rows: Tensor | None = None) -> int:
        """How many tokens the prompts (of some rows) have together, fillings not counted."""
        if self.lengths is None:
            return (len(self) if rows is None else len(rows)) * self.tokens.shape[1]
        return int((self.lengths if rows is None else self.lengths[rows]).sum())

    def metric(self, logits: Tensor) -> Tensor:
        """Per-prompt metric ``[batch]`` from logits ``[batch, pos, d_vocab]`` (logit units)."""
        rows = torch.arange(len(self), device=logits.device)[:, None]
        read = logits[rows, self.positions].gather(-1, self.token_ids)
        return (read * self.weights).sum(-1).mean(-1)

    def _check_spans(self, spans: Mapping[str, Tensor]) -> None:
        batch, pos = self.tokens.shape
        if not spans or REST in spans:
            raise InvalidPlugin(f"prompts.spans needs names, none of them {REST!r}")
        for name, span in spans.items():
            if tuple(span.shape) != (batch, 2) or span.dtype != torch.long:
                raise InvalidPlugin(
                    f"prompts.spans[{name!r}] must be long ({batch}, 2), "
                    f"not {span.dtype} {tuple(span.shape)}"
                )
            if not ((span[:, 0] >= 0) & (span[:, 0] < span[:, 1]) & (span[:, 1] <= pos)).all():
                raise InvalidPlugin(f"prompts.spans[{name!r}] is empty or outside the prompts")
        if (torch.stack(list(self.members().values())).sum(0) > 1).any():
            raise InvalidPlugin(f"prompts.spans overlap: {', '.join(spans)}")

    def correct(self, logits: Tensor) -> Tensor:
        """Whether the top choice has positive weight, ``[batch, k]`` bool."""
        rows = torch.arange(len(self), device=logits.device)[:, None]
        top = self.choices[logits[rows, self.positions][..., self.choices].argmax(-1)]
        hit = (self.token_ids == top[..., None]) & (self.weights > 0)
        return hit.any(-1)


def answer_against(
    choices: np.ndarray,
    tokens: np.ndarray,
    counterfactual: np.ndarray,
    positions: np.ndarray,
    answer: np.ndarray,
    wrong: np.ndarray,
    spans: Mapping[str, np.ndarray | int] | None = None,
) -> Prompts:
    """Prompts whose metric is the logit of ``answer [n, k]`` minus that of ``wrong [n, k]``.

    A prompt is done correctly if the answer beats every other of the tokens ``choices``. ``spans``
    names positions, as :func:`spans_at` takes them.
    """
    return Prompts(
        tokens=torch.from_numpy(tokens),
        counterfactual=torch.from_numpy(counterfactual),
        positions=torch.from_numpy(positions),
        token_ids=torch.from_numpy(np.stack([answer, wrong], -1)),
        weights=torch.tensor([1.0, -1.0]).expand(*answer.shape, 2).contiguous(),
        choices=torch.from_numpy(choices),
        spans=None if spans is None else spans_at(len(tokens), spans),
    )


def spans_at(n: int, spans: Mapping[str, Tensor | np.ndarray | int]) -> dict[str, Tensor]:
    """Spans of ``n`` prompts (see :class:`Prompts`), from one of these for every name.

    A position (the same in all prompts), positions ``[n]``, or ranges ``[n or 1, 2]``.
    """
    found = {}
    for name, where in spans.items():
        given = torch.as_tensor(where, dtype=torch.long)
        given = torch.stack([given, given + 1], -1) if given.dim() < 2 else given
        found[name] = given.expand(n, 2).contiguous()
    return found


def filled_up(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
    """Rows of tokens as one tensor ``[batch, pos]``, and their lengths where they differ.

    A short row is filled up with its own last token, which no earlier position sees.
    """
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    tokens = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows])
    return tokens, None if min(lengths) == longest else torch.tensor(lengths)


@runtime_checkable
class Task(Protocol):
    """The contract of the entry-point group ``circuitbench.tasks``.

    The entry point's name is the task's. All draws come from the generator handed in. See
    :func:`circuitbench.checks.contracts.check_task`.
    """

    @property
    def default_model(self) -> str:
        """The name of the model the task runs on if none is asked for."""
        ...

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """``n`` fresh prompts; raises :class:`InvalidSpec` for a model the task can't run on."""
        ...

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        """``n`` fresh spans of ordinary text, ``[n, pos]`` long, BOS first."""
        ...

    def truth(self, model: Model) -> Circuit | None:
        """The circuit of this task in this model, None if nobody knows it.

        Only the evaluator calls this.
        """
        ...
