"""Searchers over whole masks that learn nothing; here the cross-entropy method.

They look for the smallest faithful circuit, the objective of CircuitPruning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from circuitbench import Discovery, Info, InvalidSpec, TracePoint, heads_of
from circuitbench_baselines.bandits import affordable
from circuitbench_baselines.episodes.rules import PruningRules

if TYPE_CHECKING:
    from circuitbench import Oracle


class FaithfulSaving:
    """The potential of CircuitPruning for whole masks (see ``PruningRules``).

    Making one costs a query: the empty circuit, from which faithfulness is measured.
    """

    def __init__(self, oracle: Oracle, tau: float, price: float) -> None:
        if not (tau > 0 and price > 0):
            raise InvalidSpec(f"tau and price must be above 0, not {tau} and {price}")
        self.oracle, self.tau, self.price = oracle, tau, price
        span = float(self._damage(np.zeros((1, *oracle.shape), dtype=bool))[0])
        self.span = span if abs(span) > 1e-9 else 1.0

    def __call__(self, kept: np.ndarray) -> np.ndarray:
        """Potentials ``[n]`` of masks ``[n, n_layers, n_heads]``; ``n`` queries."""
        faithfulness = 1.0 - self._damage(kept) / self.span
        saving = 1.0 - kept.reshape(len(kept), -1).mean(1)
        return np.asarray(saving - self.price * np.maximum(0.0, self.tau - faithfulness))

    def _damage(self, kept: np.ndarray) -> np.ndarray:
        return self.oracle.query(torch.from_numpy(kept), control=False).task.double().numpy()


class Rounds(Protocol):
    """A searcher between rounds; ``scores`` are positive where it would keep a head."""

    def ask(self, n: int) -> np.ndarray:
        """``n`` masks ``[n, n_layers * n_heads]``."""
        ...

    def tell(self, potentials: np.ndarray) -> None:
        """Learn the potentials ``[n]`` of the masks asked."""
        ...

    def scores(self) -> np.ndarray:
        """Ranking ``[n_layers * n_heads]`` so far."""
        ...


@dataclass(frozen=True)
class MaskSearch:
    """A search over whole masks in rounds.

    Args:
        queries: masks to ask about, the empty one included (fewer if the budget is smaller).
        population: masks per round.
        tau, price: of the objective, see :class:`FaithfulSaving`.
    """

    queries: int = 1440
    population: int = 48
    tau: float = PruningRules.tau
    price: float = PruningRules.price

    def search(self, oracle: Oracle, rounds: Rounds) -> Discovery:
        """Ask and tell in rounds until the queries are spent; kept heads are selected.

        The last round is cut to what is left; fewer than two masks are not asked.
        """
        if self.population < 4:
            raise InvalidSpec(f"population must be 4 or more, not {self.population}")
        left = affordable(oracle, self.queries) - 1
        objective = FaithfulSaving(oracle, self.tau, self.price)
        trace: list[TracePoint] = []
        potentials = np.zeros(0)
        while left >= 2:
            masks = rounds.ask(min(self.population, left))
            potentials = objective(masks.reshape(-1, *oracle.shape))
            rounds.tell(potentials)
            left -= len(masks)
            spent = 1 + len(masks) + (trace[-1].queries - 1 if trace else 0)
            trace.append(TracePoint(spent, rounds.scores().reshape(oracle.shape)))
        scores = rounds.scores().reshape(oracle.shape)
        info = {"last_round": {"mean": float(potentials.mean()), "best": float(potentials.max())}}
        return Discovery(
            scores, heads_of(scores > 0), trace=trace, info=info if len(potentials) else {}
        )


@Info(
    title="Cross-entropy method",
    family="Mask search",
    paper="de Boer et al. 2005",
    link="https://doi.org/10.1007/s10479-005-5724-z",
)
@dataclass(frozen=True)
class CrossEntropy(MaskSearch):
    """Cross-entropy method over masks (Rubinstein 1999; de Boer et al. 2005).

    Every head has a probability of being kept; each round samples masks and moves the
    probabilities towards those of the best ones. A head's score is its log odds.

    Args:
        queries, population, tau, price: see :class:`MaskSearch`.
        elite: share of a round that is learnt from.
        rate: how far the probabilities move towards the elite's.
        keep: probability at the start.
    """

    elite: float = 0.2
    rate: float = 0.3
    keep: float = 0.9

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """At most ``queries`` queries."""
        for name in ("elite", "rate", "keep"):
            if not 0 < getattr(self, name) < 1:
                raise InvalidSpec(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        rounds = _CrossEntropyRounds(self, oracle.n_layers * oracle.n_heads, rng)
        return self.search(oracle, rounds)


class _CrossEntropyRounds:
    def __init__(self, settings: CrossEntropy, n: int, rng: np.random.Generator) -> None:
        self.settings, self.rng = settings, rng
        self.keep = np.full(n, settings.keep)
        self.masks = np.zeros((0, n), dtype=bool)

    def ask(self, n: int) -> np.ndarray:
        self.masks = self.rng.random((n, len(self.keep))) < self.keep
        return self.masks

    def tell(self, potentials: np.ndarray) -> None:
        best = np.argsort(-potentials, kind="stable")
        elite = self.masks[best[: max(1, round(self.settings.elite * len(best)))]]
        rate = self.settings.rate
        # Never quite certain, or a head could not come back.
        self.keep = np.clip((1 - rate) * self.keep + rate * elite.mean(0), 0.01, 0.99)

    def scores(self) -> np.ndarray:
        return np.asarray(np.log(self.keep / (1 - self.keep)))
