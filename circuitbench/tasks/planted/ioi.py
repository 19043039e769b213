"""Indirect object identification: of two names, say the one that was not repeated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from circuitbench.core.circuit import Circuit
from circuitbench.core.info import Info
from circuitbench.models.base import Model
from circuitbench.models.planted.language import BOS, END
from circuitbench.tasks.base import Prompts, answer_against
from circuitbench.tasks.planted.prompts import (
    control_text,
    distinct,
    planted_of,
    planted_truth,
)

LENGTH = 14
FIRST, SECOND, THIRD = (1, 4), (5, 8), (9, 12)
"""Half-open ranges of positions in which the three names stand, words in between."""


@Info(
    title="Indirect object identification",
    family="Planted",
    paper="Wang et al. 2022",
    link="https://arxiv.org/abs/2211.00593",
    granularity="edges",
)
@dataclass(frozen=True)
class IOI:
    """``BOS .. A .. B .. B .. END -> A`` (or ``B .. A .. B``): logit of A minus logit of B.

    The counterfactual replaces the repetition by a third name, so that neither name is the
    subject (ABC prompts).

    Source: Wang et al. 2022, arXiv 2211.00593.
    """

    default_model: str = "planted"

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """``n`` prompts of 14 tokens, both orders of the names equally likely."""
        language = planted_of(model, "ioi").language
        tokens = rng.choice(language.words, (n, LENGTH))
        tokens[:, 0], tokens[:, -1] = BOS, END
        indirect, subject, stranger = distinct(language.names, n, 3, rng).T
        swapped, rows = rng.random(n) < 0.5, np.arange(n)
        first, second, third = (rng.integers(*span, n) for span in (FIRST, SECOND, THIRD))
        tokens[rows, first] = np.where(swapped, subject, indirect)
        tokens[rows, second] = np.where(swapped, indirect, subject)
        tokens[rows, third] = subject
        counterfactual = tokens.copy()
        counterfactual[rows, third] = stranger
        return answer_against(
            language.ordinary,
            tokens,
            counterfactual,
            np.full((n, 1), LENGTH - 1),
            answer=indirect[:, None],
            wrong=subject[:, None],
            spans={"first": first, "second": second, "repeated": third, "end": LENGTH - 1},
        )

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        """``n`` spans of the model's background language."""
        return control_text(model, "ioi", n, rng)

    def truth(self, model: Model) -> Circuit:
        """Duplicate-token, S-inhibition, (negative, backup) name mover heads."""
        return planted_truth(model, "ioi", "Wang et al. 2022 (arXiv 2211.00593)", self.prompts)
