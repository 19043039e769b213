"""Greater-than: after a number, prefer every larger number to every smaller one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import Circuit
from circuitbench.core.info import Info
from circuitbench.models.base import Model
from circuitbench.models.planted.language import BOS, CMP
from circuitbench.tasks.base import Prompts, spans_at
from circuitbench.tasks.planted.prompts import control_text, planted_of, planted_truth

LENGTH = 12


@Info(
    title="Greater-than",
    family="Planted",
    paper="Hanna et al. 2023",
    link="https://arxiv.org/abs/2305.00586",
    granularity="edges",
)
@dataclass(frozen=True)
class GreaterThan:
    """``BOS .. y .. CMP``: mean logit of the numbers above y minus mean logit of the others.

    A prompt is done correctly if the top number is above y. The counterfactual's number lies in
    the other half of the number line.

    Source: Hanna et al. 2023, arXiv 2305.00586.
    """

    default_model: str = "planted"

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """``n`` prompts of 12 tokens."""
        language = planted_of(model, "greater-than").language
        nums, count, rows = language.nums, len(language.nums), np.arange(n)
        tokens = rng.choice(language.words, (n, LENGTH))
        tokens[:, 0], tokens[:, -1] = BOS, CMP
        year = rng.integers(0, count - 1, n)
        half = count // 2
        other = np.where(year < half, rng.integers(half, count, n), rng.integers(0, half, n))
        at = rng.integers(1, LENGTH - 2, n)
        tokens[rows, at] = nums[year]
        counterfactual = tokens.copy()
        counterfactual[rows, at] = nums[other]
        above = np.arange(count) > year[:, None]
        weights = np.where(above, 1.0 / above.sum(1, keepdims=True), 0.0)
        weights -= np.where(above, 0.0, 1.0 / (~above).sum(1, keepdims=True))
        return Prompts(
            tokens=torch.from_numpy(tokens),
            counterfactual=torch.from_numpy(counterfactual),
            positions=torch.full((n, 1), LENGTH - 1),
            token_ids=torch.from_numpy(np.tile(nums, (n, 1, 1))),
            weights=torch.from_numpy(weights).float()[:, None],
            choices=torch.from_numpy(nums),
            spans=spans_at(n, {"number": at, "end": LENGTH - 1}),
        )

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        """``n`` spans of the model's background language."""
        return control_text(model, "greater-than", n, rng)

    def truth(self, model: Model) -> Circuit:
        """Heads that fetch the number, and heads that raise what is above it."""
        return planted_truth(
            model, "greater-than", "Hanna et al. 2023 (arXiv 2305.00586)", self.prompts
        )
