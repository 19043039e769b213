"""Drawn prompts and control text: what a question is asked on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from circuitbench.core.circuit import Direction
from circuitbench.oracle.ablations import Ablation, Half
from circuitbench.oracle.engine.base import Question, Source


@dataclass(eq=False)
class Batch:
    """A handle of one drawn batch: hand it back to the oracle to ask about it.

    Args:
        seed: what it was drawn with.
        source: where its rows live.
        prompt_rows, control_rows: ``[batch_size]`` rows of the source.
        clean: gives the intact model's values ``[batch_size]`` of one half.
        correct: gives the intact model's accuracy.
        counterfactual_counted: whether the meter has counted its counterfactual pass.
    """

    seed: int
    source: Source = field(repr=False)
    prompt_rows: np.ndarray = field(repr=False)
    control_rows: np.ndarray = field(repr=False)
    clean: Callable[[Batch, Half], np.ndarray] = field(repr=False)
    correct: Callable[[Batch], float] = field(repr=False)
    counterfactual_counted: bool = field(default=False, repr=False)

    def __len__(self) -> int:
        return len(self.prompt_rows)

    def rows(self, half: Half) -> np.ndarray:
        """This batch's rows of the source for one half."""
        return self.control_rows if half == "control" else self.prompt_rows

    def question(
        self, half: Half, mask: np.ndarray, ablation: Ablation, direction: Direction
    ) -> Question:
        """A mask ``[n_layers, n_heads]`` on one half of this batch."""
        rows = self.rows(half) if self.source.by_row else None
        return Question(self.source, half, rows, mask, ablation, direction)

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
