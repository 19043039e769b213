"""Induction: continue a sequence of names that has been seen before (Olsson et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from circuitbench.core.circuit import Circuit
from circuitbench.core.info import Info
from circuitbench.models.base import Model
from circuitbench.models.planted.language import BOS
from circuitbench.tasks.base import Prompts, answer_against
from circuitbench.tasks.planted.prompts import (
    control_text,
    distinct,
    planted_of,
    planted_truth,
)


@Info(
    title="Induction",
    family="Planted",
    paper="Olsson et al. 2022",
    link="https://arxiv.org/abs/2209.11895",
    granularity="edges",
)
@dataclass(frozen=True)
class Induction:
    """``BOS x1 .. xk x1 .. xk``: after ``xi`` of the second half, predict ``x(i+1)``.

    The metric is read at every inner position of the second half. The counterfactual reverses
    the first half, so that what follows ``xi`` there is ``x(i-1)``, which is the wrong answer.

    Source: Olsson et al. 2022, arXiv 2209.11895 (repeated random sequences).
    """

    default_model: str = "planted"
    half: int = 7

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """``n`` prompts of ``1 + 2 * half`` tokens."""
        language = planted_of(model, "induction").language
        seq = distinct(language.names, n, self.half, rng)
        bos = np.full((n, 1), BOS)
        inner = np.arange(1, self.half - 1)
        return answer_against(
            language.ordinary,
            np.hstack([bos, seq, seq]),
            np.hstack([bos, seq[:, ::-1], seq]),
            np.tile(1 + self.half + inner, (n, 1)),
            answer=seq[:, inner + 1],
            wrong=seq[:, inner - 1],
            spans={
                "said": np.array([[1, 1 + self.half]]),
                "said again": np.array([[1 + self.half, 1 + 2 * self.half]]),
            },
        )

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        """``n`` spans of the model's background language."""
        return control_text(model, "induction", n, rng)

    def truth(self, model: Model) -> Circuit:
        """Previous-token heads feeding induction heads by K-composition."""
        return planted_truth(
            model, "induction", "Olsson et al. 2022 (arXiv 2209.11895)", self.prompts
        )
