"""Greedy selection of heads, from nothing upwards and from everything downwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from circuitbench import (
    AblationName,
    Direction,
    Discovery,
    Info,
    InvalidSpec,
    Oracle,
    TracePoint,
    heads_of,
)
from circuitbench_baselines.bandits import affordable


@Info(
    title="Greedy restoring",
    family="Patching",
    paper="Nemhauser et al. 1978",
    link="https://doi.org/10.1007/BF01588971",
    needs=("counterfactuals",),
)
@dataclass(frozen=True)
class GreedyForward:
    """Restores the head that brings the metric closest to its clean value, then the next.

    Greedy forward selection (Nemhauser et al. 1978) of heads: the counterfactual prompt runs,
    and heads are given their clean output (denoising) one after another, each time the one that
    restores most with all before it, until none restores more than the threshold. After the
    first sweep only the ``candidates`` heads of largest gain so far are asked again, as gains
    mostly shrink (the idea of Minoux 1978).

    Restored heads rank by the order in which they were added, above all others; the others by
    the largest gain they ever showed. What late heads restore, the heads that feed them can't
    restore any more, so early heads are found by the first sweep alone.

    Args:
        queries: at most this many (fewer if the budget is smaller).
        candidates: heads asked again in each later step.
        threshold: least gain for which a head is added, as a fraction of the clean metric.
        direction: ``noising`` starts with everything ablated in the clean run instead; a chain
            of heads then shows no gain before it is complete.
        ablation: what stands for heads not restored, in noising; None takes the oracle's own.
    """

    queries: int = 720
    candidates: int = 24
    threshold: float = 0.02
    direction: Direction = "denoising"
    ablation: AblationName | None = None

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """One query with nothing restored, one per head, then ``candidates`` per head added."""
        if self.candidates < 1 or self.threshold < 0:
            raise InvalidSpec(
                "greedy-forward needs candidates >= 1 and threshold >= 0, not "
                f"{self.candidates}, {self.threshold}"
            )
        left = affordable(oracle, self.queries)
        n = oracle.n_layers * oracle.n_heads
        kept, added, best = np.zeros(n, dtype=bool), list[int](), np.zeros(n)
        trace: list[TracePoint] = []
        if left == 0:
            return Discovery(best.reshape(oracle.shape), frozenset())
        current, spent = self._distance(oracle, kept[None])[0], 1
        asked = rng.permutation(n)
        while (asked := asked[: left - spent]).size:
            distances = self._distance(oracle, kept | np.eye(n, dtype=bool)[asked])
            gains = current - distances
            best[asked] = np.maximum(best[asked], gains) if added else gains
            spent += len(asked)
            first = int(gains.argmax())
            more = bool(gains[first] > self.threshold)
            if more:
                added.append(int(asked[first]))
                kept[asked[first]], current = True, distances[first]
            trace.append(TracePoint(spent, self._ranking(best, added).reshape(oracle.shape)))
            if not more:
                break
            rest = np.flatnonzero(~kept)
            asked = rest[np.argsort(-best[rest], kind="stable")][: self.candidates]
        scores = self._ranking(best, added).reshape(oracle.shape)
        return Discovery(scores, heads_of(kept.reshape(oracle.shape)), trace=trace)

    def _distance(self, oracle: Oracle, kept: np.ndarray) -> np.ndarray:
        masks = torch.from_numpy(kept.reshape(-1, *oracle.shape))
        damages = oracle.query(
            masks, ablation=self.ablation, direction=self.direction, control=False
        )
        return _share(oracle, np.abs(damages.task.double().numpy()))

    @staticmethod
    def _ranking(best: np.ndarray, added: list[int]) -> np.ndarray:
        scores = best.copy()
        scores[added] = max(1.0, best.max()) + np.arange(len(added), 0, -1)
        return scores


@Info(
    title="Greedy removal",
    family="Mask search",
    paper="Guyon et al. 2002",
    link="https://doi.org/10.1023/A:1012487302797",
    needs=("counterfactuals",),
)
@dataclass(frozen=True)
class GreedyBackward:
    """Removes the least harmful heads for good, asks about the others again, and so on.

    Recursive elimination (Guyon et al. 2002, who remove many features at once, too) of heads.
    Each round ablates every kept head on top of those removed, and removes the share that
    changes the metric least. A batch that is harmful as a whole is halved until it is not, so
    heads that stand in for each other don't go together. It ends when no head can go without the
    metric being off its clean value by more than the threshold.

    Heads removed rank by the order of removal, below those that stay; these by the change their
    removal would make. Of two heads that do the same, the one removed first ranks among
    bystanders. The default ablation was chosen on ``planted-redundant@110``.

    Args:
        queries: at most this many (fewer if the budget is smaller).
        share: of the kept heads that a round tries to remove.
        threshold: how far the metric may be off, as a fraction of its clean value.
        ablation: what replaces a removed head; None takes the oracle's own.
    """

    queries: int = 1440
    share: float = 0.2
    threshold: float = 0.1
    ablation: AblationName | None = "resample"

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """A query per kept head and round, and one per batch tried."""
        if not 0 < self.share <= 1 or self.threshold < 0:
            raise InvalidSpec(
                "greedy-backward needs 0 < share <= 1 and threshold >= 0, not "
                f"{self.share}, {self.threshold}"
            )
        left = affordable(oracle, self.queries)
        n = oracle.n_layers * oracle.n_heads
        kept, harm, removed = np.ones(n, dtype=bool), np.zeros(n), list[int]()
        trace: list[TracePoint] = []
        spent = 0
        while kept.any() and spent < left:
            asked = rng.permutation(np.flatnonzero(kept))[: left - spent]
            harm[asked] = self._distance(oracle, kept & ~np.eye(n, dtype=bool)[asked])
            spent += len(asked)
            order = asked[np.argsort(harm[asked], kind="stable")]
            batch = order[: max(1, round(self.share * len(order)))]
            while len(batch) > 1 and spent < left:
                trial = kept.copy()
                trial[batch] = False
                spent += 1
                if self._distance(oracle, trial[None])[0] <= self.threshold:
                    break
                batch = batch[: len(batch) // 2]
            else:
                batch = batch[:1]  # its harm is known
            more = len(batch) > 1 or bool(harm[batch[0]] <= self.threshold)
            if more:
                kept[batch] = False
                removed += batch.tolist()
            trace.append(TracePoint(spent, self._ranking(harm, removed).reshape(oracle.shape)))
            if not more:
                break
        scores = self._ranking(harm, removed).reshape(oracle.shape)
        return Discovery(scores, heads_of(kept.reshape(oracle.shape)), trace=trace)

    def _distance(self, oracle: Oracle, kept: np.ndarray) -> np.ndarray:
        masks = torch.from_numpy(kept.reshape(-1, *oracle.shape))
        damages = oracle.query(masks, ablation=self.ablation, control=False)
        return _share(oracle, np.abs(damages.task.double().numpy()))

    @staticmethod
    def _ranking(harm: np.ndarray, removed: list[int]) -> np.ndarray:
        scores = harm.copy()
        scores[removed] = np.arange(len(removed)) / len(harm) - 1
        return scores


def _share(oracle: Oracle, values: np.ndarray) -> np.ndarray:
    """``values`` of the metric as fractions of its clean value."""
    return np.asarray(values / max(abs(oracle.clean_metric), 1e-12))
