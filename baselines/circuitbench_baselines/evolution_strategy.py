"""CMA-ES over whole masks: alone in its file, since it needs the ``cma`` library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cma
import numpy as np

from circuitbench import Discovery, Info, InvalidSpec
from circuitbench_baselines.mask_search import MaskSearch

if TYPE_CHECKING:
    from circuitbench import Oracle


@Info(
    title="CMA-ES",
    family="Mask search",
    paper="Ros and Hansen 2008",
    link="https://doi.org/10.1007/978-3-540-87700-4_30",
)
@dataclass(frozen=True)
class CovarianceMatrixAdaptation(MaskSearch):
    """CMA-ES (Hansen & Ostermeier 2001), by the ``cma`` library, with a diagonal covariance.

    Searches real vectors whose positive entries are the kept heads. A head's score is the
    distribution's mean (Ros & Hansen 2008 for the diagonal variant).

    Args:
        queries, population, tau, price: see :class:`MaskSearch`.
        start, spread: mean and deviation of every entry at the start.
    """

    start: float = 0.6
    spread: float = 0.5

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """At most ``queries`` queries."""
        if not self.spread > 0:
            raise InvalidSpec(f"spread must be above 0, not {self.spread}")
        rounds = _CMARounds(self, oracle.n_layers * oracle.n_heads, rng)
        return self.search(oracle, rounds)


class _CMARounds:
    def __init__(
        self, settings: CovarianceMatrixAdaptation, n: int, rng: np.random.Generator
    ) -> None:
        # Its normal draws are handed in, and the global generator is left alone (seed NaN).
        options = {
            "CMA_diagonal": True,
            "popsize": settings.population,
            "randn": lambda *shape: rng.standard_normal(shape),
            "seed": np.nan,
            "verbose": -9,
        }
        start = np.full(n, settings.start)
        self.strategy = cma.CMAEvolutionStrategy(start, settings.spread, options)
        self.points: list[np.ndarray] = []

    def ask(self, n: int) -> np.ndarray:
        self.points = self.strategy.ask(self.strategy.popsize)[:n]
        return np.array(self.points) > 0

    def tell(self, potentials: np.ndarray) -> None:
        # A round cut short by the budget has nothing after it to learn for.
        if len(self.points) == self.strategy.popsize:
            self.strategy.tell(self.points, (-potentials).tolist())

    def scores(self) -> np.ndarray:
        return np.array(self.strategy.mean, dtype=float)
