"""Position-aware edge attribution: an edge is scored in every place it is used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitbench import AblationName, Discovery, Info, Oracle
from circuitbench_baselines.edge_ranking import ranked_edges


@Info(
    title="Position-aware EAP (PEAP)",
    family="Gradient attribution",
    paper="Haklay et al. 2025",
    link="https://arxiv.org/abs/2502.04577",
    granularity="edges",
    needs=("counterfactuals", "edges", "gradients", "spans"),
)
@dataclass(frozen=True)
class PositionAwareEAP:
    """Edge attribution patching span by span (PEAP, Haklay et al. 2025, arXiv 2502.04577).

    An edge has one effect for every span of the prompt it is used in. Edges into keys and values
    may cross: the sender writes in one span, the query looks from another. Their sum is EAP,
    where effects of opposite sign in different places cancel.

    The paper reports circuits by position; our circuits are the same everywhere, so an edge
    scores its strongest effect over all (pairs of) spans. The spans are those the task names (the
    paper has them from a schema, written or made by a language model); the positions between them
    count as one more. A head scores what the strongest edge that leaves it scores.

    Args:
        ablation: what stands for the sender's output otherwise.
        threshold: commits to heads, and to listed edges, above this fraction of the clean metric.
        listed: edges reported, the strongest; the rest ranks below them, tied.
    """

    ablation: AblationName = "resample"
    threshold: float = 0.02
    listed: int = 1_000

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """One gradient: three queries. Raises :class:`InvalidSpec` if no spans are named."""
        places = oracle.edges.attribution(ablation=self.ablation, by_span=True)[0].flatten(1)
        strongest = places.abs().argmax(1, keepdim=True)
        effects = places.gather(1, strongest)[:, 0]
        return ranked_edges(oracle, effects, "task", False, self.threshold, self.listed)
