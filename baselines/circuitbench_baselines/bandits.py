"""Bandits over heads: one arm per head, one pull is that head ablated alone on fresh prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from circuitbench import Discovery, Info, InvalidSpec, TracePoint, heads_of
from circuitbench_baselines.episodes.evidence import TRACE_EVERY, Evidence

if TYPE_CHECKING:
    from circuitbench import Oracle


def affordable(oracle: Oracle, queries: int) -> int:
    """``queries``, or what is left of the budget if that is less."""
    if queries < 1:
        raise InvalidSpec(f"queries must be 1 or more, not {queries}")
    return queries if oracle.remaining is None else min(queries, oracle.remaining)


def pull(oracle: Oracle, arms: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Contrastive rewards ``[n]`` of single heads, all on one fresh batch; ``n`` queries."""
    masks = oracle.head_masks()[torch.as_tensor(np.asarray(arms))]
    batch = oracle.draw(int(rng.integers(2**31)))
    return oracle.query(masks, batch=batch).reward.double().numpy()


class HeadBelief:
    """A Gaussian belief over what every head earns: a common level, layers, and single heads.

    The covariance between two heads is ``common^2``, plus ``layer^2`` in one layer, plus
    ``head^2`` for the same; a pull has noise ``noise``. So a good head raises its neighbours
    in the layer, which is all that can be known of heads not yet pulled.
    """

    def __init__(
        self, shape: tuple[int, int], common: float, layer: float, head: float, noise: float
    ) -> None:
        layers = np.repeat(np.arange(shape[0]), shape[1])
        same_layer = layers[:, None] == layers
        n = len(layers)
        self.covariance = common**2 + layer**2 * same_layer + head**2 * np.eye(n)
        self.mean = np.zeros(n)
        self.noise = noise

    def update(self, arms: np.ndarray, rewards: np.ndarray) -> None:
        """Condition on pulls of some arms (Rasmussen & Williams 2006, equation 2.25)."""
        cross = self.covariance[:, arms]
        gain = np.linalg.solve(cross[arms] + self.noise**2 * np.eye(len(arms)), cross.T).T
        self.mean = self.mean + gain @ (rewards - self.mean[arms])
        self.covariance = self.covariance - gain @ cross.T

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation per head."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """One draw of all heads' values."""
        values, vectors = np.linalg.eigh(self.covariance)
        draws = np.sqrt(np.maximum(values, 0.0)) * rng.standard_normal(len(values))
        return np.asarray(self.mean + vectors @ draws)


@Info(
    title="Gaussian-process UCB",
    family="Bandit",
    paper="Srinivas et al. 2010",
    link="https://arxiv.org/abs/0912.3995",
)
@dataclass(frozen=True)
class BanditUCB:
    """Gaussian-process upper confidence bounds (Srinivas et al. 2010, arXiv 0912.3995).

    Pulls the head with the highest ``mean + width * deviation`` under a :class:`HeadBelief`.
    A head's score is its posterior mean, whether it was pulled or not.

    Args:
        queries: pulls (fewer if the budget is smaller).
        at_once: pulls chosen and asked together, on one batch.
        common, layer, head, noise: the belief's deviations, as fractions of the clean metric.
        width: of the confidence bound, in deviations.
        threshold: commits to pulled heads above this fraction of the clean metric.
    """

    queries: int = 288
    at_once: int = 6
    common: float = 0.02
    layer: float = 0.05
    head: float = 0.2
    noise: float = 0.02
    width: float = 2.0
    threshold: float = 0.02

    name: ClassVar[str] = "bandit-ucb"

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """``queries`` queries."""
        if self.at_once < 1 or min(self.common, self.layer) < 0 or min(self.head, self.noise) <= 0:
            raise InvalidSpec(
                f"{self.name} needs at_once >= 1, common and layer >= 0, head and noise > 0"
            )
        unit = abs(oracle.clean_metric) or 1.0
        belief = HeadBelief(
            oracle.shape, *(unit * x for x in (self.common, self.layer, self.head, self.noise))
        )
        left = affordable(oracle, self.queries)
        pulled = np.zeros(oracle.n_layers * oracle.n_heads, dtype=bool)
        trace: list[TracePoint] = []
        spent = 0
        while left > 0:
            arms = self._choose(belief, min(self.at_once, left, len(pulled)), rng)
            belief.update(arms, pull(oracle, arms.tolist(), rng))
            pulled[arms] = True
            left -= len(arms)
            spent += len(arms)
            if left == 0 or spent // TRACE_EVERY != (spent - len(arms)) // TRACE_EVERY:
                trace.append(TracePoint(spent, belief.mean.reshape(oracle.shape).copy()))
        scores = belief.mean.reshape(oracle.shape)
        selected = (scores > self.threshold * unit) & pulled.reshape(oracle.shape)
        return Discovery(scores, heads_of(selected), trace=trace)

    def _choose(self, belief: HeadBelief, k: int, rng: np.random.Generator) -> np.ndarray:
        bound = belief.mean + self.width * belief.deviation
        # Random order first: among equals the stable sort must not favour low numbers.
        order = rng.permutation(len(bound))
        return order[np.argsort(-bound[order], kind="stable")[:k]]


@Info(
    title="Thompson sampling",
    family="Bandit",
    paper="Russo et al. 2018",
    link="https://arxiv.org/abs/1707.02038",
)
@dataclass(frozen=True)
class BanditThompson(BanditUCB):
    """Thompson sampling under a :class:`HeadBelief` (Thompson 1933; Russo et al. 2018,
    arXiv 1707.02038): pulls the best head of a draw from the belief.
    """

    name: ClassVar[str] = "bandit-thompson"

    def _choose(self, belief: HeadBelief, k: int, rng: np.random.Generator) -> np.ndarray:
        chosen: list[int] = []
        while len(chosen) < k:
            best = next(int(a) for a in np.argsort(-belief.sample(rng)) if a not in chosen)
            chosen.append(best)
        return np.array(chosen)


@Info(
    title="Successive halving",
    family="Bandit",
    paper="Karnin et al. 2013",
    link="https://proceedings.mlr.press/v28/karnin13.html",
)
@dataclass(frozen=True)
class SuccessiveHalving:
    """Halves the heads in every round, pulling the survivors ever more often.

    Karnin et al. 2013 (Almost optimal exploration in multi-armed bandits, algorithm 3): every
    round gets an equal share of the budget. Where a share does not cover one pull of every
    survivor, a random part of them is pulled and the others drop out. A head's score is its
    mean reward, as :mod:`circuitbench_baselines.episodes.evidence` says.

    Args:
        queries: pulls (fewer if the budget is smaller).
        threshold: commits to pulled heads above this fraction of the clean metric.
    """

    queries: int = 288
    threshold: float = 0.02

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """At most ``queries`` queries."""
        evidence = Evidence(oracle.shape, presumed=self.threshold * abs(oracle.clean_metric))
        left = affordable(oracle, self.queries)
        alive = rng.permutation(oracle.n_layers * oracle.n_heads)
        rounds = max(1, int(np.ceil(np.log2(len(alive)))))
        # The first round is the only one that can see every head: it gets what that takes.
        first = min(left, max(len(alive), left // rounds))
        shares = [first, *([(left - first) // (rounds - 1)] * (rounds - 1) if rounds > 1 else [])]
        for share in shares:
            alive = alive[:share]
            for _ in range(share // len(alive) if len(alive) else 0):
                for arm, reward in zip(alive, pull(oracle, alive.tolist(), rng), strict=True):
                    evidence.add(int(arm), float(reward))
                evidence.spent(len(alive))
            order = np.argsort(-evidence.scores().ravel()[alive], kind="stable")
            alive = alive[order][: max(1, len(alive) // 2)]
        return evidence.discovery(self.threshold * abs(oracle.clean_metric), {})
