"""GIM: edge attribution with a backward pass that sees through self-repair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitbench import AblationName, Discovery, Info, Oracle
from circuitbench_baselines.edge_ranking import ranked_edges


@Info(
    title="GIM",
    family="Gradient attribution",
    paper="Edin et al. 2025",
    link="https://arxiv.org/abs/2505.17630",
    granularity="edges",
    needs=("counterfactuals", "edges", "gradients", "rules"),
)
@dataclass(frozen=True)
class GIM:
    """Edge attribution patching with gradient interaction modifications (arXiv 2505.17630).

    Edin et al. 2025 change the backward pass (rule ``gim``): frozen norms, the softmax of
    attention differentiated at temperature 2, queries' and keys' gradients a quarter, values'
    and both factors of a gated MLP a half. What they propose for features is used for edges here,
    as in their entry to the MIB benchmark; the sums over prompts and positions are EAP's. A head
    scores what the strongest edge that leaves it scores.

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
        """One gradient: three queries."""
        effects = oracle.edges.attribution(ablation=self.ablation, rule="gim")[0]
        return ranked_edges(oracle, effects, "task", self.signed, self.threshold, self.listed)
