"""Every head switched off alone: what MechRL asks, and the field's first tool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from circuitbench import AblationName, Discovery, Info, Oracle, TracePoint
from circuitbench_baselines.selection import above


@Info(
    title="Single-head ablation",
    family="Ablation",
    paper="Khadka 2026",
    link="https://arxiv.org/abs/2605.26343",
)
@dataclass(frozen=True)
class HeadAblation:
    """Scores each head by the damage its ablation alone does (Khadka 2026, arXiv 2605.26343).

    With a budget below one sweep it ablates as many heads as the budget covers, in random
    order; the others keep score 0.

    Args:
        score: ``reward`` is task damage minus weighted control damage, ``task`` leaves the
            control text out.
        ablation: None takes the oracle's own.
        absolute: rank by magnitude, so that heads which work against the task count too.
        threshold: commits to heads above this fraction of the clean metric.
    """

    score: Literal["reward", "task"] = "reward"
    ablation: AblationName | None = None
    absolute: bool = False
    threshold: float = 0.02

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """One query per head, at most ``n_layers * n_heads``."""
        masks = oracle.head_masks()
        order = rng.permutation(len(masks))
        if oracle.remaining is not None:
            order = order[: oracle.remaining]
        scores = np.zeros(len(masks))
        trace: list[TracePoint] = []
        done = 0
        for chunk in np.array_split(order, max(1, min(len(order), oracle.n_layers))):
            damages = oracle.query(
                masks[torch.as_tensor(chunk)],
                ablation=self.ablation,
                control=self.score == "reward",
            )
            values = (damages.reward if self.score == "reward" else damages.task).numpy()
            scores[chunk] = np.abs(values) if self.absolute else values
            done += len(chunk)
            trace.append(TracePoint(done, scores.reshape(oracle.shape).copy()))
        grid = scores.reshape(oracle.shape)
        return Discovery(grid, above(grid, self.threshold * abs(oracle.clean_metric)), trace=trace)
