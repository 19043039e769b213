"""Information flow routes: how close what a sender writes is to what a receiver hears."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitbench import Discovery, Info, Oracle
from circuitbench_baselines.edge_ranking import edge_discovery


@Info(
    title="Information flow routes",
    family="Activation",
    paper="Ferrando & Voita 2024",
    link="https://arxiv.org/abs/2403.00824",
    granularity="edges",
    needs=("edges",),
)
@dataclass(frozen=True)
class InformationFlowRoutes:
    """Scores an edge by its sender's share of the stream its receiver hears.

    Ferrando and Voita 2024 (arXiv 2403.00824, section 2): a sender that adds ``x`` to the stream
    ``y`` is worth ``max(0, ||y||_1 - ||y - x||_1)``, normalised over all senders of that stream.
    No counterfactual, no gradient, no metric: an edge counts by how much passes through it,
    whatever for.

    Departs from the paper: it follows tokens, and routes top-down from one position; here edges
    are of heads and MLPs, as MIB scores them (Mueller et al. 2025, arXiv 2504.13151), and a share
    is the mean over prompts and positions. All edges from one sender to a layer's queries, keys
    and values score the same. A head is worth as much as the strongest edge that leaves it.

    Args:
        commit: edges committed to, the best. (The paper's threshold is for routes of single
            tokens; a mean share has no natural one.)
        listed: edges reported, the strongest; the rest ranks below them, tied.
    """

    commit: int = 100
    listed: int = 1_000

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """One question about activations: one query.

        Raises:
            InvalidSpec: the model is run by hooks, which know no edges; or nothing is listed.
        """
        if oracle.remaining == 0:
            scores = np.zeros(len(oracle.edges.edges))
        else:
            scores = oracle.edges.proximity().double().numpy()
        selected = np.zeros(len(scores), bool)
        selected[np.argsort(-scores, kind="stable")[: self.commit]] = True
        return edge_discovery(oracle, scores, selected & (scores > 0), listed=self.listed)
