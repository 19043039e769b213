"""ACDC at head granularity: greedy removal from the last layer to the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from circuitbench import AblationName, Damages, Discovery, Info, Oracle, TracePoint, heads_of


@Info(
    title="ACDC over heads",
    family="Mask search",
    paper="Conmy et al. 2023",
    link="https://arxiv.org/abs/2304.14997",
    needs=("counterfactuals",),
)
@dataclass(frozen=True)
class ACDC:
    """Removes a head for good if the model then changes by less than a threshold.

    Conmy et al. 2023 (arXiv 2304.14997, algorithm 1), over heads instead of edges: heads are
    visited from the last layer to the first, in random order within a layer; what was removed
    stays removed while the next is tested. A head's score is the change its removal made when
    it was its turn, so kept heads rank above removed ones. If the budget ends early, heads not
    yet visited stay in and score as much as the threshold.

    Args:
        objective: ``kl`` is the divergence of the next-token distribution from the intact
            model's (nats); ``metric`` the absolute change of the task metric as a fraction of
            its clean value.
        threshold: the change below which a head goes; in the objective's unit.
        ablation: what replaces a removed head; the paper's choice is ``resample``.
    """

    objective: Literal["kl", "metric"] = "kl"
    threshold: float = 0.05
    ablation: AblationName = "resample"

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """One query per head."""
        keep = torch.ones(1, *oracle.shape, dtype=torch.bool)
        scores = np.full(oracle.shape, self.threshold)
        trace: list[TracePoint] = []
        current = 0.0
        order = [
            (layer, int(head))
            for layer in reversed(range(oracle.n_layers))
            for head in rng.permutation(oracle.n_heads)
        ]
        order = order[: oracle.remaining]
        for spent, (layer, head) in enumerate(order, start=1):
            trial = keep.clone()
            trial[0, layer, head] = False
            damages = oracle.query(
                trial, ablation=self.ablation, control=False, kl=self.objective == "kl"
            )
            value = self._distance(oracle, damages)
            change = value - current if self.objective == "kl" else abs(value - current)
            scores[layer, head] = change
            if change < self.threshold:
                keep, current = trial, value
            if spent % oracle.n_heads == 0 or spent == len(order):
                trace.append(TracePoint(spent, scores.copy()))
        return Discovery(scores, heads_of(keep[0].numpy()), trace=trace)

    def _distance(self, oracle: Oracle, damages: Damages) -> float:
        if self.objective == "kl":
            if damages.kl is None:  # the oracle answers what it was asked
                raise RuntimeError("the oracle returned no KL divergence")
            return float(damages.kl[0])
        return float(damages.task[0]) / max(abs(oracle.clean_metric), 1e-12)
