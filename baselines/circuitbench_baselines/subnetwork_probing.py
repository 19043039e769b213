"""Subnetwork probing: gates that are trained to keep the metric with few heads, or few edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from circuitbench import (
    GRADIENT_COST,
    AblationName,
    Discovery,
    Info,
    InvalidSpec,
    Oracle,
    TracePoint,
    heads_of,
)
from circuitbench_baselines.bandits import affordable
from circuitbench_baselines.edge_gates import (
    GateTrace,
    divergence_at,
    gates_discovery,
    steps_within_budget,
)
from circuitbench_baselines.hard_concrete import draw, location_of, open_chance, quiet


@Info(
    title="Subnetwork probing",
    family="Mask search",
    paper="Cao et al. 2021",
    link="https://arxiv.org/abs/2104.03514",
    needs=("gradients",),
)
@dataclass(frozen=True)
class SubnetworkProbing:
    """Trains one hard concrete gate per head by gradients (Cao et al. 2021, arXiv 2104.03514).

    Gates are drawn from hard concrete distributions (stretched to (-0.1, 1.1), temperature 2/3),
    open with 0.9 at the start, and moved by Adam to lower ``damage + penalty * share of gates
    that are not 0``. A head's score is its gate's location (log odds); it is kept if its gate,
    without noise, is above one half.

    It departs from the paper in what it probes: whole heads, not weights, and the task metric
    (damage as a fraction of its clean value) instead of a probe's loss. The penalty is in that
    unit, so the paper's values mean nothing here; the default was chosen among 0.3 and 1 on
    ``planted-redundant@110``. The gates' noise makes it worth to keep stand-ins, which a search
    for the smallest circuit drops.

    Args:
        steps: of Adam; each draws all gates and takes one gradient (fewer if the budget is
            smaller).
        penalty: lambda; weight of the expected share of open gates.
        rate: of Adam, 0.1 in the paper.
        start: value of the gates at the start without noise.
        ablation: what a closed gate lets through; None takes the oracle's own.
    """

    steps: int = 300
    penalty: float = 1.0
    rate: float = 0.1
    start: float = 0.9
    ablation: AblationName | None = None

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """``steps`` gradients, each costing three queries."""
        if self.steps < 1 or self.penalty < 0 or self.rate <= 0 or not 0 < self.start < 1:
            raise InvalidSpec(
                "subnetwork-probing needs steps >= 1, penalty >= 0, rate > 0 and 0 < start < 1, "
                f"not {self.steps}, {self.penalty}, {self.rate}, {self.start}"
            )
        steps = affordable(oracle, GRADIENT_COST * self.steps) // GRADIENT_COST
        unit = max(abs(oracle.clean_metric), 1e-12)
        location = torch.full(oracle.shape, location_of(self.start)).double()
        location.requires_grad_()
        adam = torch.optim.Adam([location], lr=self.rate)
        trace: list[TracePoint] = []
        for step in range(1, steps + 1):
            gates = draw(location, rng)
            slope = oracle.gradient(gates.detach()[None], ablation=self.ablation)[0].double()
            adam.zero_grad()
            gates.backward(-slope / unit)
            (self.penalty * open_chance(location).mean()).backward()
            adam.step()
            if step % max(1, self.steps // 10) == 0 or step == steps:
                trace.append(TracePoint(GRADIENT_COST * step, location.detach().numpy().copy()))
        scores = location.detach().numpy().copy()
        kept = quiet(location.detach()) > 0.5
        return Discovery(scores, heads_of(kept.numpy()), trace=trace)


@Info(
    title="Subnetwork probing over edges",
    family="Mask search",
    paper="Cao et al. 2021",
    link="https://arxiv.org/abs/2104.03514",
    granularity="edges",
    needs=("counterfactuals", "edges", "gradients"),
)
@dataclass(frozen=True)
class EdgeSubnetworkProbing:
    """Trains one hard concrete gate per edge by gradients (Cao et al. 2021, arXiv 2104.03514).

    As Conmy et al. 2023 (arXiv 2304.14997) adapted it to be compared with ACDC: the loss is
    ``KL(intact || gated) + penalty * share of gates that are not 0``, and a closed gate lets the
    counterfactual through. They gate heads and MLPs and read edges off them; here every edge has
    its own gate, as auto-circuit does it. A score is a gate's location (log odds); an edge is
    kept if its gate, without noise, is above one half. The projection to heads is that of
    :func:`circuitbench_baselines.edge_ranking.edge_discovery`.

    Args:
        steps: of Adam; each draws all gates and takes one gradient (fewer if the budget is
            smaller).
        penalty: lambda; weight of the expected share of open gates, in nats.
        rate: of Adam, 0.1 in the paper.
        start: value of the gates at the start without noise, 0.9 in the paper.
        ablation: what a closed gate lets through; None takes the oracle's own.
        listed: edges reported, the best; the rest ranks below them, tied.
    """

    steps: int = 200
    penalty: float = 10.0
    rate: float = 0.1
    start: float = 0.9
    ablation: AblationName | None = "resample"
    listed: int = 1_000

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """``steps`` gradients, each costing three queries."""
        if self.steps < 1 or self.penalty < 0 or self.rate <= 0 or not 0 < self.start < 1:
            raise InvalidSpec(
                "subnetwork-probing-edges needs steps >= 1, penalty >= 0, rate > 0 and "
                f"0 < start < 1, not {self.steps}, {self.penalty}, {self.rate}, {self.start}"
            )
        steps = steps_within_budget(oracle, self.steps)
        n = len(oracle.edges.edges)
        location = torch.full((n,), location_of(self.start)).double().requires_grad_()
        adam = torch.optim.Adam([location], lr=self.rate)
        trace = GateTrace(oracle, steps)
        for step in range(1, steps + 1):
            gates = draw(location, rng)
            kl, slope = divergence_at(oracle, gates, self.ablation)
            adam.zero_grad()
            gates.backward(slope)
            share = open_chance(location).mean()
            (self.penalty * share).backward()
            adam.step()
            trace.note(step, location, kl, n * float(share.detach()))
        return gates_discovery(oracle, location, quiet(location.detach()) > 0.5, trace, self.listed)
