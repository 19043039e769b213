"""Two-hop: follow a chain of two lookups in a sequence of names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from circuitbench.core.circuit import Circuit
from circuitbench.core.info import Info
from circuitbench.models.base import Model
from circuitbench.models.planted.language import BOS, SKIP
from circuitbench.tasks.base import Prompts, answer_against
from circuitbench.tasks.planted.prompts import (
    control_text,
    distinct,
    planted_of,
    planted_truth,
)


@Info(
    title="Two-hop lookup",
    family="Planted",
    paper="Olsson et al. 2022",
    link="https://arxiv.org/abs/2209.11895",
    granularity="edges",
)
@dataclass(frozen=True)
class TwoHop:
    """``BOS x1 .. xk SKIP xi -> x(i+2)``: the name after the name after ``xi``.

    The wrong answer is ``x(i+1)``, one hop. The counterfactual reverses the sequence and asks
    for the one hop by two: it starts from ``x(i+3)``.

    Source: written for this benchmark; each hop is an induction step (Olsson et al. 2022).
    """

    default_model: str = "planted"
    length: int = 8

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """``n`` prompts of ``length + 3`` tokens."""
        language, rows = planted_of(model, "two-hop").language, np.arange(n)
        seq = distinct(language.names, n, self.length, rng)
        start = rng.integers(0, self.length - 3, n)
        bos, skip = np.full((n, 1), BOS), np.full((n, 1), SKIP)
        return answer_against(
            language.ordinary,
            np.hstack([bos, seq, skip, seq[rows, start][:, None]]),
            np.hstack([bos, seq[:, ::-1], skip, seq[rows, start + 3][:, None]]),
            np.full((n, 1), self.length + 2),
            answer=seq[rows, start + 2][:, None],
            wrong=seq[rows, start + 1][:, None],
            spans={"sequence": np.array([[1, 1 + self.length]]), "end": self.length + 2},
        )

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        """``n`` spans of the model's background language."""
        return control_text(model, "two-hop", n, rng)

    def truth(self, model: Model) -> Circuit:
        """Previous-token heads, then a head per hop."""
        return planted_truth(
            model,
            "two-hop",
            "induction (Olsson et al. 2022, arXiv 2209.11895), done twice",
            self.prompts,
        )
