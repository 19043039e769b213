"""Attribution patching: the effect of patching every head or edge, estimated by gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from circuitbench import AblationName, Discovery, Info, InvalidSpec, Oracle
from circuitbench_baselines.edge_ranking import ranked_edges
from circuitbench_baselines.selection import above


@Info(
    title="Attribution patching",
    family="Gradient attribution",
    paper="Syed et al. 2023",
    link="https://arxiv.org/abs/2310.10348",
    needs=("counterfactuals", "gradients"),
)
@dataclass(frozen=True)
class AttributionPatching:
    """First-order estimate of each head's patching effect, from gradients by a soft mask.

    With a mask ``m`` in [0, 1] per head and ``z = m z_clean + (1 - m) z_ablated``, the
    derivative of the metric by ``m`` at the intact model is Nanda's attribution patching
    (2023; Syed et al. 2023, arXiv 2310.10348): ``(z_clean - z_ablated) . d metric / d z``.
    ``steps > 1`` averages the derivative along the straight path from everything ablated to
    the intact model, all gates at once (integrated gradients, Sundararajan et al. 2017, arXiv
    1703.01365).

    Args:
        steps: points on the path, midpoint rule; 1 means the intact model alone.
        ablation: the far end of the path.
        absolute: rank by magnitude.
        threshold: commits to heads above this fraction of the clean metric.
    """

    steps: int = 1
    ablation: AblationName = "resample"
    absolute: bool = False
    threshold: float = 0.02

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
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


@Info(
    title="Joint-gate integrated gradients",
    family="Gradient attribution",
    paper="Sundararajan et al. 2017",
    link="https://arxiv.org/abs/1703.01365",
    needs=("counterfactuals", "gradients"),
)
@dataclass(frozen=True)
class IntegratedGradients(AttributionPatching):
    """:class:`AttributionPatching` along a path of 16 points instead of at its end.

    All heads' gates move together from 0 to 1, so at every point every head puts out the same
    mixture of its clean and its ablated output. That is a path of the model's masks, not of its
    input: other than EAP-IG (``eap-ig-inputs``), no point is what the model would compute from
    any prompt. The scores sum to the metric's difference between the ends.
    """

    steps: int = 16


@Info(
    title="Edge attribution patching",
    family="Gradient attribution",
    paper="Syed et al. 2023",
    link="https://arxiv.org/abs/2310.10348",
    granularity="edges",
    needs=("counterfactuals", "edges", "gradients"),
)
@dataclass(frozen=True)
class EdgeAttributionPatching:
    """First-order estimate of every edge's effect: EAP (Syed et al. 2023, arXiv 2310.10348).

    An edge scores ``(sender's clean output - its ablated one) . d metric / d receiver's input``
    by magnitude, all from a single gradient. A head is worth as much as the strongest edge that
    leaves it. (Their sum would be what :class:`AttributionPatching` gives, where paths of
    opposite sign cancel.)

    Args:
        ablation: what stands for the sender's output otherwise.
        signed: rank by the effect with its sign instead of its magnitude.
        threshold: commits to heads, and to listed edges, above this fraction of the clean metric.
        listed: edges reported, the strongest; the rest ranks below them, tied.
    """

    ablation: AblationName = "resample"
    signed: bool = False
    threshold: float = 0.02
    listed: int = 1_000

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """One gradient: three queries.

        Raises:
            InvalidSpec: the model is run by hooks, which know no edges; or nothing is listed.
        """
        edges = oracle.edges.edges
        effects = oracle.edges.gradient(torch.ones(1, len(edges)), ablation=self.ablation)[0]
        return ranked_edges(oracle, effects, "task", self.signed, self.threshold, self.listed)
