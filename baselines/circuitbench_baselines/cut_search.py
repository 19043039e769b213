"""Search for disjoint minimal cuts of the circuit by putting heads back in groups; no learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from circuitbench import Discovery, Info
from circuitbench_baselines.bandits import affordable
from circuitbench_baselines.episodes.evidence import LargestEvidence
from circuitbench_baselines.episodes.knockout import KnockoutEpisode, KnockoutRules
from circuitbench_baselines.episodes.rules import Answer

if TYPE_CHECKING:
    from circuitbench import Oracle


@Info(
    title="Cuts by group testing",
    family="Mask search",
    paper="Dorfman 1943",
    link="https://doi.org/10.1214/aoms/1177731363",
)
@dataclass
class CutSearch:
    """``cut-search``: ablate everything, put back what makes no difference, then look elsewhere.

    With all heads off the task has surely collapsed, so the way to a minimal cut is group
    testing (Dorfman 1943) in a random order: about ``2 k log2(n / k)`` queries for a cut of
    ``k`` of ``n`` heads. The next cut avoids the heads of the cuts before; where the other heads
    cannot make the task collapse, all stages are known and the search starts over in another
    order. An agent on HeadKnockout has to learn where to find a cut; that is not needed here, so
    this is the control for what learning adds.

    A head's score is what putting it back changes in the task metric beyond the change in
    control loss (see :class:`circuitbench_baselines.episodes.knockout.KnockoutRules`), the
    largest of all cuts it was in.

    Args:
        queries: at most this many (fewer if the budget is smaller).
        collapse, tolerance: see :class:`circuitbench_baselines.episodes.knockout.KnockoutRules`.
        threshold: commits to heads above this fraction of the clean metric.
    """

    queries: int = 144
    collapse: float = KnockoutRules.collapse
    tolerance: float = KnockoutRules.tolerance
    threshold: float = 0.02

    name: ClassVar[str] = "cut-search"

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """At most ``queries`` queries, all on the oracle's current batch."""
        n = oracle.n_layers * oracle.n_heads
        rules = KnockoutRules(n, self.collapse, n, self.tolerance, signed=False)
        episode = KnockoutEpisode(rules, oracle.shape, 1)
        episode.begin(None, oracle.clean_metric)
        evidence, found = LargestEvidence(oracle.shape), 0
        for _ in range(affordable(oracle, self.queries)):
            if episode.doubtful.any():
                head = int(episode.legal().argmax())
                question = episode.question(head)
                assert question is not None
                before = episode.cuts
                reward = episode.settle(head, _ask(oracle, question)).reward
                if reward:
                    evidence.add(head, reward)
                found += episode.cuts - before
            else:
                rest = np.flatnonzero(episode.legal())
                answer = _ask(oracle, episode.without(episode.legal()))
                episode.put_back(rng.permutation(rest), answer)
                if not episode.doubtful.any():
                    episode.begin(None, oracle.clean_metric)
            evidence.spent(1)
        return evidence.discovery(self.threshold * abs(oracle.clean_metric), {"cuts": found})


def _ask(oracle: Oracle, mask: np.ndarray) -> Answer:
    damages = oracle.query(torch.from_numpy(mask)[None])
    return Answer(float(damages.task[0]), float(damages.reward[0]))
