"""Activation patching with the counterfactual prompt's activations, head by head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from circuitbench import Discovery, Info, Oracle, TracePoint
from circuitbench_baselines.selection import above


@Info(
    title="Activation patching",
    family="Patching",
    paper="Vig et al. 2020",
    link="https://arxiv.org/abs/2004.12265",
    needs=("counterfactuals",),
)
@dataclass(frozen=True)
class ActivationPatching:
    """Scores each head by what swapping its output between two prompts does to the metric.

    *Noising* puts the counterfactual prompt's output of one head into the clean run and counts
    the fall of the metric (is the head needed?). *Denoising* puts the clean output of one head
    into the counterfactual run and counts the rise (does the head suffice?). ``both`` averages
    the two. Terms as in Heimersheim & Nanda 2024 (arXiv 2404.15255); the technique is Vig et
    al. 2020 (arXiv 2004.12265) and Meng et al. 2022 (arXiv 2202.05262).

    With a budget below what all heads need, the heads are visited in random order until it is
    spent; the others keep score 0.

    Args:
        mode: which swap counts.
        absolute: rank by magnitude, so that heads which work against the task count too.
        threshold: commits to heads above this fraction of the clean metric.
    """

    mode: Literal["noising", "denoising", "both"] = "both"
    absolute: bool = False
    threshold: float = 0.02

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """One query per head and direction, and one for the run with no head restored."""
        alone_off = oracle.head_masks()
        order = rng.permutation(len(alone_off))
        directions = [d for d in ("noising", "denoising") if self.mode in (d, "both")]
        spent = 0
        floor = 0.0
        if "denoising" in directions and (oracle.remaining is None or oracle.remaining > 0):
            none_kept = torch.zeros(1, *oracle.shape, dtype=torch.bool)
            floor = float(self._damage(oracle, none_kept, "denoising")[0])
            spent = 1
        if oracle.remaining is not None:
            order = order[: oracle.remaining // len(directions)]
        scores = np.zeros(len(alone_off))
        trace: list[TracePoint] = []
        for chunk in np.array_split(order, max(1, min(len(order), oracle.n_layers))):
            masks = alone_off[torch.as_tensor(chunk)]
            effects = []
            if "noising" in directions:
                effects.append(self._damage(oracle, masks, "noising"))
            if "denoising" in directions:
                effects.append(floor - self._damage(oracle, ~masks, "denoising"))
            mean = np.mean(effects, axis=0)
            scores[chunk] = np.abs(mean) if self.absolute else mean
            spent += len(chunk) * len(directions)
            trace.append(TracePoint(spent, scores.reshape(oracle.shape).copy()))
        grid = scores.reshape(oracle.shape)
        return Discovery(grid, above(grid, self.threshold * abs(oracle.clean_metric)), trace=trace)

    @staticmethod
    def _damage(
        oracle: Oracle, masks: torch.Tensor, direction: Literal["noising", "denoising"]
    ) -> np.ndarray:
        damages = oracle.query(masks, ablation="resample", direction=direction, control=False)
        return damages.task.numpy()
