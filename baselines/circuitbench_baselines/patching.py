"""Activation patching, of heads and of edges: what a swap between two prompts really does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from circuitbench import AblationName, Discovery, Info, Oracle, TracePoint
from circuitbench_baselines.edge_ranking import edge_discovery, heads_by_edges
from circuitbench_baselines.selection import above

_AT_ONCE = 1 << 26  # bytes of masks in one question


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


@Info(
    title="Exact edge patching",
    family="Patching",
    paper="Goldowsky-Dill et al. 2023",
    link="https://arxiv.org/abs/2304.05969",
    granularity="edges",
    needs=("counterfactuals", "edges"),
    most_edges=100_000,
)
@dataclass(frozen=True)
class ExactEdgePatching:
    """Scores each edge by what ablating it alone really does to the metric.

    Path patching of single edges (Goldowsky-Dill et al. 2023, arXiv 2304.05969; Wang et al.
    2022, arXiv 2211.00593): one sender's contribution to one receiver is replaced, everything
    behind it runs again, nothing is estimated. It is what edge attribution patching approximates,
    and blind where that is blind too: an edge with a stand-in does nothing alone. *Denoising*
    instead gives one edge of the counterfactual run what its sender writes on the clean prompt.

    Departs from the papers in that a receiver is a head's query, key or value, and all edges are
    asked. A head is worth as much as the strongest edge that leaves it. With a budget below what
    all edges need, edges are asked in random order until it is spent; the others keep score 0.
    Without one, a run on a model of more than 100,000 edges is skipped.

    Args:
        mode: which swap counts.
        ablation: what stands for the sender's output otherwise, in noising.
        signed: rank by the effect with its sign instead of its magnitude.
        threshold: commits to heads, and to listed edges, above this fraction of the clean metric.
        listed: edges reported, the strongest; the rest ranks below them, tied.
    """

    mode: Literal["noising", "denoising"] = "noising"
    ablation: AblationName = "resample"
    signed: bool = False
    threshold: float = 0.02
    listed: int = 1_000

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """One query per edge; in denoising one more for the run with nothing restored.

        Raises:
            InvalidSpec: the model is run by hooks, which know no edges; or nothing is listed.
        """
        n, left = len(oracle.edges.edges), oracle.remaining
        floor, before = 0.0, oracle.meter.queries
        if self.mode == "denoising" and (left is None or left > 0):
            floor = float(self._damage(oracle, torch.zeros(1, n, dtype=torch.bool))[0])
        asked = rng.permutation(n)[: oracle.remaining]
        # In the order of the receivers: what masks share is then computed once.
        asked = np.sort(asked) if len(asked) == n else asked
        effects = np.zeros(n)
        trace: list[TracePoint] = []
        step = max(1, _AT_ONCE // n)
        for start in range(0, len(asked), step):
            some = asked[start : start + step]
            masks = torch.zeros(len(some), n, dtype=torch.bool)
            masks[torch.arange(len(some)), torch.from_numpy(some)] = True
            if self.mode == "noising":
                effects[some] = self._damage(oracle, ~masks)
            else:
                effects[some] = floor - self._damage(oracle, masks)
            scores = effects if self.signed else np.abs(effects)
            grid = heads_by_edges(oracle, scores, np.abs(effects))
            trace.append(TracePoint(oracle.meter.queries - before, grid))
        scores = effects if self.signed else np.abs(effects)
        return edge_discovery(
            oracle,
            scores,
            scores > self.threshold * abs(oracle.clean_metric),
            effects=None if self.signed else effects,
            strength=np.abs(effects),
            listed=self.listed,
            info={"edges_patched": len(asked), "edges": n},
            trace=trace,
        )

    def _damage(self, oracle: Oracle, masks: torch.Tensor) -> np.ndarray:
        damages = oracle.edges.query(masks, ablation=self.ablation, direction=self.mode)
        return damages.task.double().numpy()
