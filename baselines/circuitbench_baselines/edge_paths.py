"""Edge attribution along a path between the counterfactual and the prompt (EAP-IG and its kin).

All score an edge by ``(sender's clean output - its counterfactual one)`` times the mean slope of
the metric, or of the KL divergence, in the receiver's input, over some points of a path. They
differ in the points. A head scores what the strongest edge that leaves it scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from circuitbench import Discovery, GradPath, Info, InvalidSpec, Oracle, Straight
from circuitbench_baselines.edge_ranking import ranked_edges

Of = Literal["task", "kl"]


@dataclass(frozen=True)
class _AlongPath:
    """What all of them are asked for, whatever their path."""

    of: Of = "task"
    signed: bool = False
    threshold: float = 0.02
    listed: int = 1_000

    def ranked(self, oracle: Oracle, effects: torch.Tensor) -> Discovery:
        """The discovery of effects ``[n_edges]``."""
        return ranked_edges(oracle, effects, self.of, self.signed, self.threshold, self.listed)


@Info(
    title="EAP-IG, inputs",
    family="Gradient attribution",
    paper="Hanna et al. 2024",
    link="https://arxiv.org/abs/2403.17806",
    granularity="edges",
    needs=("counterfactuals", "edges", "gradients"),
)
@dataclass(frozen=True)
class EAPIGInputs(_AlongPath):
    """EAP with the slope averaged over interpolated inputs (Hanna et al. 2024, arXiv 2403.17806).

    The embedding's output is put at ``counterfactual + (k / m) (clean - counterfactual)`` for
    ``k = 0 .. m - 1``, as in the authors' code; all else is computed from there. Departs from it
    in the sum over a batch: the mean over prompts is taken before the magnitude, as for all our
    edge methods. A head scores what the strongest edge that leaves it scores.

    Args:
        steps: m.
        of: what is attributed, the task metric or ``kl``, the divergence to the intact model.
        signed: rank by the effect with its sign instead of its magnitude.
        threshold: commits to heads, and to listed edges, whose effect exceeds this fraction of
            the clean metric (of 1 nat for ``kl``).
        listed: edges reported, the strongest; the rest ranks below them, tied.
    """

    steps: int = 5

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """Three queries for each of ``steps`` points."""
        _positive(self.steps)
        path = interpolated_inputs(self.steps)
        effects = oracle.edges.attribution(path, of=self.of, ablation="resample").mean(0)
        return self.ranked(oracle, effects)


@Info(
    title="EAP-IG, activations",
    family="Gradient attribution",
    paper="Hanna et al. 2024; Marks et al. 2024",
    link="https://arxiv.org/abs/2403.19647",
    granularity="edges",
    needs=("counterfactuals", "edges", "gradients"),
)
@dataclass(frozen=True)
class EAPIGActivations(_AlongPath):
    """EAP with, for each edge, the slope averaged while its own sender's output is moved.

    Integrated gradients on a component's activations (Marks et al. 2024, arXiv 2403.19647), as
    the EAP-IG code offers them for edges: ``counterfactual + (k / m) (clean - counterfactual)``,
    ``k = 1 .. m``, all earlier senders clean. The heads of a layer are moved together, as there;
    an edge takes the mean over the points of its own sender only (the code takes it over those
    of all components). A head scores what the strongest edge that leaves it scores.

    Args:
        steps: m.
        of, signed, threshold, listed: as in :class:`EAPIGInputs`.
    """

    steps: int = 5

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """Three queries for each of ``steps`` points of the embedding, of every layer and MLP."""
        _positive(self.steps)
        alphas = tuple(k / self.steps for k in range(1, self.steps + 1))
        edges = oracle.edges.edges
        effects = torch.zeros(len(edges))
        for moving in _components(oracle.edges.graph.senders):
            path = Straight(alphas, tuple(moving))
            found = oracle.edges.attribution(path, of=self.of, ablation="resample").mean(0)
            own = torch.tensor([edge.sender in moving for edge in edges])
            effects[own] = found[own]
        return self.ranked(oracle, effects)


@Info(
    title="EAP, clean and corrupted",
    family="Gradient attribution",
    paper="Hanna et al. 2024",
    link="https://arxiv.org/abs/2403.17806",
    granularity="edges",
    needs=("counterfactuals", "edges", "gradients"),
)
@dataclass(frozen=True)
class EAPCleanCorrupted(_AlongPath):
    """EAP with the mean of the slopes on the prompt and on its counterfactual.

    The ``clean-corrupted`` variant of the EAP-IG code (Hanna et al. 2024, arXiv 2403.17806): the
    trapezoid rule of a path of two points. A head scores what the strongest edge that leaves it
    scores.

    Args:
        of, signed, threshold, listed: as in :class:`EAPIGInputs`.
    """

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """Two points: six queries."""
        path = Straight((0.0, 1.0))
        effects = oracle.edges.attribution(path, of=self.of, ablation="resample").mean(0)
        return self.ranked(oracle, effects)


@Info(
    title="EAP-GP",
    family="Gradient attribution",
    paper="Zhang et al. 2025",
    link="https://arxiv.org/abs/2502.06852",
    granularity="edges",
    needs=("counterfactuals", "edges", "gradients"),
)
@dataclass(frozen=True)
class EAPGP(_AlongPath):
    """EAP with the slope averaged along a path that follows gradients (arXiv 2502.06852).

    From the prompt, ``steps`` unit steps towards what the model says on the counterfactual; see
    :class:`circuitbench.GradPath` for the formula, and for what it departs from: one path, of
    the embedding, instead of one for every node. A head scores what the strongest edge that
    leaves it scores.

    Args:
        steps: k, 5 in the paper.
        of, signed, threshold, listed: as in :class:`EAPIGInputs`.
    """

    steps: int = 5

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """Six queries for each of ``steps`` points: three to find it, three there."""
        _positive(self.steps)
        effects = oracle.edges.attribution(
            GradPath(self.steps), of=self.of, ablation="resample"
        ).mean(0)
        return self.ranked(oracle, effects)


def interpolated_inputs(steps: int) -> Straight:
    """The points of EAP-IG: the embedding at ``k / steps`` of the way, ``k = 0 .. steps - 1``."""
    return Straight(tuple(k / steps for k in range(steps)))


def _positive(steps: int) -> None:
    if steps < 1:
        raise InvalidSpec(f"steps must be 1 or more, not {steps}")


def _components(senders: Sequence[str]) -> list[list[str]]:
    """The embedding, the heads of each layer together, and each MLP."""
    layers: dict[str, list[str]] = {}
    for sender in senders:
        layers.setdefault(sender.split(".")[0], []).append(sender)
    return list(layers.values())
