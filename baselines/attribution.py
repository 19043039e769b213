"""Attribution patching: the effect of patching every head, estimated by gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from circuitbench.baselines.selection import above
from circuitbench.circuit import Ablation
from circuitbench.errors import InvalidSpec
from circuitbench.method import Discovery
from circuitbench.oracle import AblationOracle


@dataclass(frozen=True)
class AttributionPatching:
    """First-order estimate of each head's patching effect, from gradients by a soft mask.

    With a mask ``m`` in [0, 1] per head and ``z = m z_clean + (1 - m) z_ablated``, the
    derivative of the metric by ``m`` at the intact model is Nanda's attribution patching
    (2023; Syed et al. 2023, arXiv 2310.10348): ``(z_clean - z_ablated) . d metric / d z``.
    ``steps > 1`` averages the derivative along the straight path from everything ablated to
    the intact model (integrated gradients, Sundararajan et al. 2017, arXiv 1703.01365; as
    EAP-IG does, Hanna et al. 2024, arXiv 2403.17806).

    Args:
        steps: points on the path, midpoint rule; 1 means the intact model alone.
        ablation: the far end of the path.
        absolute: rank by magnitude.
        threshold: commits to heads above this fraction of the clean metric.
    """

    steps: int = 1
    ablation: Ablation = "resample"
    absolute: bool = False
    threshold: float = 0.02

    def discover(self, oracle: AblationOracle, rng: np.random.Generator) -> Discovery:
        """``steps`` gradients, each costing three queries."""
        if self.steps < 1:
            raise InvalidSpec(f"steps must be 1 or more, not {self.steps}")
        points = (np.arange(self.steps) + 0.5) / self.steps if self.steps > 1 else np.ones(1)
        path = torch.as_tensor(points, dtype=torch.float32)[:, None, None]
        grid = (
            oracle.gradient(path.expand(-1, *oracle.shape), ablation=self.ablation)
            .mean(0)
            .numpy()
            .astype(float)
        )
        if self.absolute:
            grid = np.abs(grid)
        return Discovery(grid, above(grid, self.threshold * abs(oracle.clean_metric)))


@dataclass(frozen=True)
class IntegratedGradients(AttributionPatching):
    """:class:`AttributionPatching` along a path of 16 points instead of at its end."""

    steps: int = 16
