"""Direct logit attribution: what each head writes straight to the answer's logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from circuitbench import AblationName, Discovery, Edge, Head, Info, Oracle, TracePoint
from circuitbench_baselines.selection import above


@Info(
    title="Direct logit attribution",
    family="Patching",
    paper="Elhage et al. 2021",
    link="https://transformer-circuits.pub/2021/framework/index.html",
    needs=("edges",),
)
@dataclass(frozen=True)
class DirectLogitAttribution:
    """Scores a head by its direct path to the logits: the edge to the logits alone is cut.

    The logit lens (nostalgebraist 2020) reads the residual stream through the unembedding; a
    head's part of it is its direct effect (Elhage et al. 2021, the term ``W_U W_O W_V W_E`` and
    its patterns). In a model without a final norm, cutting the edge under zero ablation takes
    exactly that part away.

    It departs from common practice in two ways: a final norm is computed anew without the head
    (usually its scale is frozen), and the cut may put a mean or the counterfactual in place of
    zero. Heads that act through other heads score 0, and heads that write alike on every prompt
    score under zero ablation: it finds the end of a circuit, not the circuit.

    Args:
        ablation: what the logits hear in a head's place; None takes the oracle's own.
        absolute: rank by magnitude, so that heads which write against the answer count too.
        threshold: commits to heads above this fraction of the clean metric.
    """

    ablation: AblationName | None = "zero"
    absolute: bool = True
    threshold: float = 0.05

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """One query per head; with a smaller budget a random choice of them, the others 0."""
        heads = [Head(i, j) for i in range(oracle.n_layers) for j in range(oracle.n_heads)]
        if oracle.remaining is not None:
            order = rng.permutation(len(heads))[: oracle.remaining]
            heads = [heads[i] for i in order]
        effects = np.zeros(oracle.shape)
        if heads:
            masks = [oracle.edges.without([Edge(str(head), "logits")]) for head in heads]
            lost = oracle.edges.query(torch.stack(masks), ablation=self.ablation).task
            for head, effect in zip(heads, lost.tolist(), strict=True):
                effects[head] = effect
        scores = np.abs(effects) if self.absolute else effects.copy()
        chosen = above(scores, self.threshold * abs(oracle.clean_metric))
        trace = [TracePoint(len(heads), scores)] if heads else []
        return Discovery(scores, chosen, trace=trace, signed=effects)
