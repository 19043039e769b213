"""How gates on edges are trained; shared by the methods that learn masks over edges."""

from __future__ import annotations

from torch import Tensor

from circuitbench import GRADIENT_COST, AblationName, Discovery, Oracle, TracePoint
from circuitbench_baselines.bandits import affordable
from circuitbench_baselines.edge_ranking import edge_discovery, heads_by_edges


def steps_within_budget(oracle: Oracle, steps: int) -> int:
    """``steps``, or as many gradients as the budget still covers."""
    return affordable(oracle, GRADIENT_COST * steps) // GRADIENT_COST


def divergence_at(
    oracle: Oracle, gates: Tensor, ablation: AblationName | None
) -> tuple[float, Tensor]:
    """KL(intact || gated) and its slope ``[n_edges]`` in every gate; three queries.

    Args:
        oracle: asked.
        gates: ``[n_edges]`` in [0, 1].
        ablation: what a closed gate lets through.
    """
    found = oracle.edges.differentiate(gates.detach()[None], of=("kl",), ablation=ablation)
    return float(found.values["kl"][0]), found.gradients["kl"][0].double()


class GateTrace:
    """The rankings and the divergence on the way, about ten of them."""

    def __init__(self, oracle: Oracle, steps: int) -> None:
        self._oracle, self._every = oracle, max(1, steps // 10)
        self._last, self._spent = steps, oracle.meter.queries
        self.points: list[TracePoint] = []
        self.curve: list[dict[str, float]] = []

    def note(self, step: int, location: Tensor, kl: float, kept: float) -> None:
        """After step ``step`` (from 1): scores ``[n_edges]``, divergence, expected edges kept."""
        if step % self._every == 0 or step == self._last:
            scores = location.detach().numpy()
            grid = heads_by_edges(self._oracle, scores.copy())
            self.points.append(TracePoint(self._oracle.meter.queries - self._spent, grid))
            self.curve.append({"step": step, "kl": kl, "edges": kept})


def gates_discovery(
    oracle: Oracle, location: Tensor, kept: Tensor, trace: GateTrace, listed: int
) -> Discovery:
    """An edge scores its location (log odds of its gate); what is ``kept`` is committed to."""
    return edge_discovery(
        oracle,
        location.detach().numpy().copy(),
        kept.numpy(),
        listed=listed,
        info={"curve": trace.curve},
        trace=trace.points,
    )
