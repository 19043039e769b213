"""Drawn prompts and control text, and what is already known about masks on them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from torch import Tensor

from circuitbench.tasks.base import Prompts

Part = Literal["task", "control", "kl"]


@dataclass(eq=False)
class Source:
    """Prompts and control spans that are drawn, run and remembered together.

    Args:
        prompts: ``n`` task prompts, on the CPU.
        control: ``[n, pos]`` control spans, on the CPU.
        by_row: whether batches take single rows from here (a pool) or everything.
        memo: known values ``[n]`` per question, NaN where unknown.
    """

    prompts: Prompts
    control: Tensor
    by_row: bool = False
    memo: dict[Hashable, np.ndarray] = field(default_factory=dict)

    def known(self, key: Hashable) -> np.ndarray:
        """The (writable) values of a question, created unknown."""
        values = self.memo.get(key)
        if values is None:
            values = self.memo[key] = np.full(len(self.prompts), np.nan, np.float32)
        return values


@dataclass(eq=False)
class Batch:
    """A handle of one drawn batch: hand it back to the oracle to ask about it.

    Args:
        seed: what it was drawn with.
        source: where its rows live.
        prompt_rows, control_rows: ``[batch_size]`` rows of the source.
    """

    seed: int
    source: Source = field(repr=False)
    prompt_rows: np.ndarray = field(repr=False)
    control_rows: np.ndarray = field(repr=False)
    clean: Callable[[Batch, Part], np.ndarray] = field(repr=False)
    correct: Callable[[Batch], float] = field(repr=False)
    counterfactual_counted: bool = field(default=False, repr=False)

    def __len__(self) -> int:
        return len(self.prompt_rows)

    def rows(self, part: Part) -> np.ndarray:
        """This batch's rows of the source for one part."""
        return self.control_rows if part == "control" else self.prompt_rows

    @cached_property
    def metric(self) -> float:
        """The intact model's task metric, mean over the prompts (logit units)."""
        return float(self.clean(self, "task").mean(dtype=np.float64))

    @cached_property
    def control_loss(self) -> float:
        """The intact model's control loss (nats/token)."""
        return float(self.clean(self, "control").mean(dtype=np.float64))

    @cached_property
    def accuracy(self) -> float:
        """Share of the read positions where the intact model's top choice is a right answer."""
        return self.correct(self)
