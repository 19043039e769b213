"""What an engine is asked, and what it must be able to answer."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from circuitbench.core.circuit import Direction
from circuitbench.oracle.ablations import Ablation, Half
from circuitbench.oracle.rules import EXACT, Rule
from circuitbench.tasks.base import Prompts

Quantity = Literal["value", "kl"]
"""The metric or control loss, or the KL divergence to the intact model (of prompts only)."""


@dataclass(eq=False)
class Source:
    """Prompts and control spans that are drawn, run and remembered together.

    Args:
        prompts: ``n`` task prompts, on the CPU.
        control: ``[n, pos]`` control spans, on the CPU.
        by_row: whether batches take single rows from here (a pool) or everything.
        memo: known values ``[n]`` per question, NaN where unknown.
        fits_counted: names of the ablations whose fitting the meter has counted.
    """

    prompts: Prompts
    control: Tensor
    by_row: bool = False
    memo: dict[Hashable, np.ndarray] = field(default_factory=dict)
    fits_counted: set[str] = field(default_factory=set)

    def known(self, key: Hashable) -> np.ndarray:
        """The (writable) values of a question, created unknown."""
        values = self.memo.get(key)
        if values is None:
            values = self.memo[key] = np.full(len(self.prompts), np.nan, np.float32)
        return values


class Question(NamedTuple):
    """One mask on some rows of one half of a source (all of them if ``rows`` is None).

    ``mask [n_layers, n_heads]``: bool for :meth:`Engine.measure`, float for
    :meth:`Engine.differentiate`; True or 1 where the head is kept.
    """

    source: Source
    half: Half
    rows: np.ndarray | None
    mask: np.ndarray
    ablation: Ablation
    direction: Direction = "noising"

    def key(self, kl: bool = False) -> tuple[str, str, str, bytes]:
        """What the memo files the value (or the KL divergence) under."""
        # Denoising restores clean activations: the kind of ablation plays no part in it.
        kind = "clean" if self.direction == "denoising" else self.ablation.name
        return "kl" if kl else self.half, kind, self.direction, self.mask.tobytes()


class Engine(Protocol):
    """Computes values per prompt or per control span; knows nothing of budgets or memos."""

    @property
    def flops(self) -> float:
        """Floating-point operations of all matrix products so far; 0 if unknown."""
        ...

    def measure(
        self, questions: Sequence[Question], kl: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Metric or control loss ``[n_questions, rows]``, and the KL divergence if asked for.

        All questions are of one half and have the same number of rows.
        """
        ...

    def accuracy(self, source: Source, rows: np.ndarray | None) -> float:
        """The intact model's accuracy."""
        ...

    def differentiate(
        self, question: Question, of: Sequence[Quantity] = ("value",), rule: Rule = EXACT
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means over the rows and their derivatives by the mask, all from one forward pass.

        Returns:
            ``[len(of)]`` and ``[len(of), n_layers, n_heads]``.
        Other backward rules than the true gradient are asked of the fast engine only.
        """
        ...
