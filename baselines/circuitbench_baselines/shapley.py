"""Shapley values of heads: what a head adds to a team, averaged over the orders to join it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from circuitbench import AblationName, Discovery, Info, InvalidSpec, Oracle, TracePoint
from circuitbench_baselines.bandits import affordable
from circuitbench_baselines.selection import above


@Info(
    title="Shapley values",
    family="Ablation",
    paper="Ghorbani & Zou 2020",
    link="https://arxiv.org/abs/2002.09815",
)
@dataclass(frozen=True)
class ShapleyValues:
    """Switches heads off one after another in random orders; a head is worth its mean share.

    The Shapley value (1953) of a head in the game whose payoff is the task metric of the model
    with only these heads, as Ghorbani & Zou (2020, arXiv 2002.09815) value neurons. Orders come
    in antithetic pairs: each is followed by its reverse (Mitchell et al. 2022, arXiv 2104.12199).
    Values add up to the metric's fall from the intact model to the empty one.

    Two departures save queries. An order is given up once a whole round of it (an equal share of
    heads, one per layer on average) leaves the metric where everything ablated leaves it; the
    heads after that get 0 from this order (truncation, as Ghorbani & Zou 2019, arXiv 1904.02868).
    An order the budget cuts short counts for the heads it came to.

    Args:
        queries: at most this many (fewer if the budget is smaller).
        tolerance: how far from the empty model's damage an order may be to be given up, as a
            fraction of that damage; 0 walks all orders to their end.
        ablation: None takes the oracle's own.
        threshold: commits to heads above this fraction of the clean metric.
    """

    queries: int = 1440
    tolerance: float = 0.02
    ablation: AblationName | None = None
    threshold: float = 0.02

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """At most ``queries`` queries; one of them for everything ablated."""
        if self.tolerance < 0:
            raise InvalidSpec(f"tolerance must be 0 or more, not {self.tolerance}")
        left = affordable(oracle, self.queries)
        n = oracle.n_layers * oracle.n_heads
        total, count = np.zeros(n), np.zeros(n)
        trace: list[TracePoint] = []
        if left == 0:
            return Discovery(total.reshape(oracle.shape), frozenset())
        empty = self._damage(oracle, np.zeros((1, n), dtype=bool))[0]
        spent, order, orders = 1, np.arange(n), 0
        while spent < left:
            order = order[::-1] if orders % 2 else rng.permutation(n)
            kept, before = np.ones(n, dtype=bool), 0.0
            for done in range(0, n, oracle.n_heads):
                heads = order[done : done + min(oracle.n_heads, left - spent)]
                gone = np.tri(len(heads), dtype=bool) @ np.eye(n, dtype=bool)[heads]
                damage = self._damage(oracle, kept & ~gone)
                total[heads] += np.diff(damage, prepend=before)
                count[heads] += 1
                spent += len(heads)
                kept[heads], before = False, damage[-1]
                collapsed = np.abs(damage - empty) <= self.tolerance * abs(empty)
                if spent == left:
                    break
                if self.tolerance and collapsed.all():
                    count[order[done + len(heads) :]] += 1
                    break
            orders += 1
            grid = (total / np.maximum(count, 1)).reshape(oracle.shape)
            trace.append(TracePoint(spent, grid))
        grid = (total / np.maximum(count, 1)).reshape(oracle.shape)
        chosen = above(grid, self.threshold * abs(oracle.clean_metric))
        return Discovery(grid, chosen, trace=trace, info={"orders": orders})

    def _damage(self, oracle: Oracle, kept: np.ndarray) -> np.ndarray:
        masks = torch.from_numpy(kept.reshape(-1, *oracle.shape))
        damages = oracle.query(masks, ablation=self.ablation, control=False)
        return damages.task.double().numpy()
