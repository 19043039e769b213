"""How much each member of a true circuit contributes: the truth with degrees.

A member's contribution is its Shapley value (Shapley 1953): its expected effect on the metric over
contexts, a context being the members that come before it in a random order, while everything
outside the circuit stays intact. Values are in units of what the whole circuit is worth, the
metric of the intact model minus that with all members ablated, so they sum to 1. Members that
work against the task have negative ones. They are a property of a truth, a model and an
ablation, measured with the oracle on prompts of its own, the same for every method and seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitbench.core.circuit import Circuit
from circuitbench.core.errors import InvalidSpec

if TYPE_CHECKING:
    from circuitbench.oracle import Oracle

PAIRS = 32
"""Pairs of orders, one the reverse of the other (antithetic, Mitchell et al. 2022)."""


@dataclass(frozen=True)
class Contributions:
    """What each member contributes.

    Args:
        values: name of a head or edge -> share of the circuit's worth; they sum to 1.
        errors: name -> standard error of the value, over pairs of orders.
        worth: metric of the intact model minus that with all members ablated, in logit units.
        ablation: what took the members' place.
        pairs: pairs of orders.
    """

    values: dict[str, float]
    errors: dict[str, float]
    worth: float
    ablation: str
    pairs: int

    def plain(self) -> dict[str, Any]:
        """As a record keeps it."""
        return {
            "values": self.values,
            "errors": self.errors,
            "worth": self.worth,
            "ablation": self.ablation,
            "pairs": self.pairs,
        }


def head_contributions(
    oracle: Oracle, truth: Circuit, rng: np.random.Generator, pairs: int = PAIRS
) -> Contributions:
    """The contributions of a truth's heads, under the oracle's own ablation.

    Args:
        oracle: made for evaluation; at most ``2 pairs (heads - 1) + 1`` queries on its batch.
        truth: whose heads are the members.
        rng: draws the orders.
        pairs: of orders; two at least, so that there is an error.

    Raises:
        InvalidSpec: the truth names no head, or ablating all of them changes nothing.
    """
    heads = sorted(truth.heads)

    def damage(kept: np.ndarray) -> np.ndarray:
        masks = torch.ones(len(kept), *oracle.shape, dtype=torch.bool)
        for mask, row in zip(masks, kept, strict=True):
            for head, keep in zip(heads, row, strict=True):
                mask[head] = bool(keep)
        return oracle.query(masks, control=False).task.double().numpy()

    return _shapley([str(head) for head in heads], damage, oracle.ablation, rng, pairs)


def edge_contributions(
    oracle: Oracle, truth: Circuit, rng: np.random.Generator, pairs: int = PAIRS // 4
) -> Contributions:
    """The same of a truth's edges, every edge outside the circuit staying intact.

    Raises :class:`InvalidSpec` as :func:`head_contributions`, and for a truth without edges.
    """
    edges = sorted(truth.edges or ())

    def damage(kept: np.ndarray) -> np.ndarray:
        masks = torch.stack(
            [
                oracle.edges.without(e for e, keep in zip(edges, row, strict=True) if not keep)
                for row in kept
            ]
        )
        return oracle.edges.query(masks).task.double().numpy()

    return _shapley([str(edge) for edge in edges], damage, oracle.ablation, rng, pairs)


def _shapley(
    names: Sequence[str],
    damage: Callable[[np.ndarray], np.ndarray],
    ablation: str,
    rng: np.random.Generator,
    pairs: int,
) -> Contributions:
    """Shapley values from orders and their reverses.

    ``damage`` answers ``[sets, members]`` bool, True = kept, with the damage of each set.
    """
    n = len(names)
    if n == 0:
        raise InvalidSpec("the truth names nobody whose contribution could be measured")
    if pairs < 2:
        raise InvalidSpec(f"at least two pairs of orders are needed, not {pairs}")
    half = np.array([rng.permutation(n) for _ in range(pairs)])
    orders = np.concatenate([half, half[:, ::-1]])
    place = np.argsort(orders, axis=1)
    # kept[o, s, i]: whether member i is among the first s of order o
    kept = place[:, None, :] < np.arange(n + 1)[None, :, None]
    sets, index = np.unique(kept.reshape(-1, n), axis=0, return_inverse=True)
    lost = damage(sets)[index.reshape(len(orders), n + 1)]
    worth = float(lost[0, 0])
    if abs(worth) < 1e-6:
        raise InvalidSpec("ablating the whole circuit changes nothing: nobody contributes")
    steps = lost[:, :-1] - lost[:, 1:]
    each = np.take_along_axis(steps, place, axis=1)
    pair = (each[:pairs] + each[pairs:]) / 2 / worth
    errors = pair.std(0, ddof=1) / np.sqrt(pairs)
    return Contributions(
        dict(zip(names, pair.mean(0).tolist(), strict=True)),
        dict(zip(names, errors.tolist(), strict=True)),
        worth,
        ablation,
        pairs,
    )
