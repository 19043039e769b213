"""Uniform gradient sampling: how likely an edge is kept, learned from slopes at uniform gates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from circuitbench import AblationName, Discovery, Info, InvalidSpec, Oracle
from circuitbench_baselines.edge_gates import GateTrace, gates_discovery, steps_within_budget


@Info(
    title="Uniform gradient sampling",
    family="Mask search",
    paper="Li and Janson 2024",
    link="https://arxiv.org/abs/2409.09951",
    granularity="edges",
    needs=("counterfactuals", "edges", "gradients"),
)
@dataclass(frozen=True)
class UniformGradientSampling:
    """Learns with what probability to keep each edge, and what closed edges let through.

    Li and Janson 2024 (arXiv 2409.09951): the loss is the expected ``KL(intact || gated)`` plus
    ``penalty`` for every edge expected to be kept, where edges are kept independently. The
    derivative by one probability ``p`` is the difference that the edge makes, which is the mean
    slope of KL along a gate that is uniform in [0, 1] while the others are drawn. So in every
    step a share ``p (1 - p)`` of the gates is uniform, the others are 0 or 1 (so that gates are
    open with ``p`` on average), and only uniform gates learn. At the same time a constant for
    every sender learns what a closed edge should let through to do the least harm (optimal
    ablation): it starts at what ``ablation`` puts there, and is the same for all its edges and
    at all positions but for that. A score is the log odds of ``p``; an edge is kept if ``p`` is
    above one half. The projection to heads is that of
    :func:`circuitbench_baselines.edge_ranking.edge_discovery`.

    It departs from the paper in that all prompts of a step share one draw of the gates (theirs
    have one each), every step sees the same batch, and rates and steps are ours, chosen on
    ``planted@100`` and a smaller model of its kind. The edges found are those that matter under
    the learned constants; the benchmark ablates them in its own ways.

    Args:
        steps: of Adam; each draws all gates and takes one gradient (fewer if the budget is
            smaller).
        penalty: lambda, nats for an edge; the authors' scripts sweep it, 0.001 among others.
        rate: of Adam for the log odds.
        constants_rate: of Adam for the constants, in units of the residual stream; 0 leaves them
            at what ``ablation`` says.
        start: probability at the start.
        ablation: where the constants start; None takes the oracle's own.
        listed: edges reported, the best; the rest ranks below them, tied.
    """

    steps: int = 200
    penalty: float = 1e-3
    rate: float = 0.1
    constants_rate: float = 2e-4
    start: float = 0.9
    ablation: AblationName | None = "mean"
    listed: int = 1_000

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """``steps`` gradients, each costing three queries."""
        rates = self.rate > 0 and min(self.constants_rate, self.penalty) >= 0
        if self.steps < 1 or not rates or not 0 < self.start < 1:
            raise InvalidSpec(
                "uniform-gradient-sampling needs steps >= 1, rate > 0, constants_rate and penalty "
                f">= 0 and 0 < start < 1, not {self.steps}, {self.rate}, {self.constants_rate}, "
                f"{self.penalty}, {self.start}"
            )
        steps = steps_within_budget(oracle, self.steps)
        odds = float(np.log(self.start / (1 - self.start)))
        location = torch.full((len(oracle.edges.edges),), odds).double().requires_grad_()
        offsets = torch.zeros(oracle.edges.offsets_shape).double().requires_grad_()
        adam = torch.optim.Adam(
            [
                {"params": [location], "lr": self.rate},
                {"params": [offsets], "lr": self.constants_rate},
            ]
        )
        trace = GateTrace(oracle, steps)
        for step in range(1, steps + 1):
            chance = torch.sigmoid(location)
            gates, uniform = draw(chance.detach(), rng)
            found = oracle.edges.differentiate(
                gates[None], of=("kl",), offsets=offsets.detach(), ablation=self.ablation
            )
            adam.zero_grad()
            (self.penalty * chance.sum()).backward()
            assert location.grad is not None
            # By a probability it is slope / (p (1 - p)); by its log odds p (1 - p) cancels.
            location.grad += found.gradients["kl"][0].double() * uniform
            offsets.grad = found.offsets["kl"][0].double()
            adam.step()
            trace.note(step, location, float(found.values["kl"][0]), float(chance.sum().detach()))
        return gates_discovery(oracle, location, location.detach() > 0, trace, self.listed)


def draw(chance: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Gates with mean ``chance``, and which of them are uniform in [0, 1]; both of its shape.

    A gate is uniform with probability ``chance (1 - chance)``, and 0 or 1 otherwise.
    """
    kind = torch.as_tensor(rng.random(chance.shape))
    share = chance * (1 - chance)
    uniform = kind < share
    hard = (kind < share / 2 + chance).double()  # of the rest, open with chance - share / 2
    return torch.where(uniform, torch.as_tensor(rng.random(chance.shape)), hard), uniform
