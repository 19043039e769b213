"""Head importance: how steep the metric is in a head's gate, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from circuitbench import GRADIENT_COST, AblationName, Discovery, Info, InvalidSpec, Oracle
from circuitbench_baselines.bandits import affordable
from circuitbench_baselines.selection import top_heads


@Info(
    title="Head importance (HISP)",
    family="Gradient attribution",
    paper="Michel et al. 2019",
    link="https://arxiv.org/abs/1905.10650",
    needs=("gradients",),
)
@dataclass(frozen=True)
class HeadImportance:
    """Absolute gradient by a gate on each head, divided by its layer's norm (HISP).

    Michel et al. 2019 (arXiv 1905.10650, equation 2): ``E |d loss / d gate|`` at the intact
    model, then, as they advise after Molchanov et al. 2017, an l2 norm over the heads of a
    layer. A gate multiplies the head's output, so the far end is zero ablation.

    It departs from the paper in two ways: the derivative is of the task metric, and the
    expectation of magnitudes is over batches, not prompts (the oracle gives a batch's mean).
    Since every layer has norm 1, a layer without any circuit head ranks as high as one with many.
    That is the paper's; ``per_layer=False`` leaves the norm out, and with
    ``ablation="resample"`` the far end is the counterfactual's output. Both help on planted
    models (plantings 110); the defaults are the paper's all the same.

    Args:
        batches: batches of prompts, all but the first drawn afresh (fewer if the budget is
            smaller).
        per_layer: whether to divide by the norm of the layer.
        ablation: the far end of a gate; None takes the oracle's own.
        share: fraction of all heads that is committed to; the paper prunes shares too.
    """

    batches: int = 4
    per_layer: bool = True
    ablation: AblationName | None = "zero"
    share: float = 0.1

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """One gradient per batch, each costing three queries."""
        if self.batches < 1 or not 0 < self.share <= 1:
            raise InvalidSpec(
                f"head-importance needs batches >= 1 and 0 < share <= 1, not {self.batches}, "
                f"{self.share}"
            )
        n = affordable(oracle, GRADIENT_COST * self.batches) // GRADIENT_COST
        if n == 0:
            return Discovery(np.zeros(oracle.shape), frozenset())
        drawn = [oracle.draw(int(seed)) for seed in rng.integers(2**31, size=n - 1)]
        gates = torch.ones(n, *oracle.shape)
        slopes = oracle.gradient(gates, ablation=self.ablation, batch=[oracle.batch, *drawn])
        steepness = slopes.double().abs().mean(0).numpy()
        if self.per_layer:
            norm = np.linalg.norm(steepness, axis=1, keepdims=True)
            steepness = np.divide(steepness, norm, out=np.zeros_like(steepness), where=norm > 1e-12)
        chosen = top_heads(steepness, max(1, round(self.share * steepness.size)))
        return Discovery(steepness, chosen, signed=slopes.double().mean(0).numpy())
