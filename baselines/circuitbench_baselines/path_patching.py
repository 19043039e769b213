"""Path patching: from the logits back, who is heard by those already found?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from circuitbench import Discovery, Edge, Head, Info, InvalidSpec, Oracle, TracePoint
from circuitbench_baselines.selection import above

LETTERS = ("q", "k", "v")


@Info(
    title="Path patching",
    family="Patching",
    paper="Goldowsky-Dill et al. 2023",
    link="https://arxiv.org/abs/2304.05969",
    needs=("counterfactuals", "edges"),
)
@dataclass(frozen=True)
class PathPatching:
    """Patches every head's path to the logits, then to the heads found, and so on back.

    Wang et al. 2022 (arXiv 2211.00593, section 3.1 and appendix B) found the IOI circuit so;
    Goldowsky-Dill et al. 2023 (arXiv 2304.05969) say what is patched: the path alone, everything
    else computed on the clean prompt. Round 0 patches each head's edge to the logits. Each
    later round takes the heads found in the last one, and patches each lower head's edges into
    all their queries together, then keys, then values. What moves the metric by ``threshold`` is
    found. It ends when a round finds nothing new.

    It departs from Wang et al. in two ways: what the patched heads change is heard by
    everything above them, not by the logits alone, and MLPs between two heads are no part of a
    path (an edge is direct). Stand-ins hide each other, as in every patching of single paths.

    Args:
        rounds: at most so many, the first included.
        threshold: fraction of the clean metric that makes a head found.
    """

    rounds: int = 4
    threshold: float = 0.05

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """One query per head, then up to three per head below those found, round by round.

        A round that the budget does not cover asks about a random choice of its paths.
        """
        if self.rounds < 1:
            raise InvalidSpec(f"path-patching needs rounds >= 1, not {self.rounds}")
        effects = np.zeros(oracle.shape)
        least = self.threshold * abs(oracle.clean_metric)
        found: frozenset[Head] = frozenset()
        trace: list[TracePoint] = []
        receivers: list[list[str]] = [["logits"]]
        spent = 0
        for _ in range(self.rounds):
            paths = [(head, group) for group in receivers for head in self._below(oracle, group)]
            if oracle.remaining is not None and len(paths) > oracle.remaining:
                chosen = rng.choice(len(paths), oracle.remaining, replace=False)
                paths = [paths[i] for i in sorted(chosen)]
            if not paths:
                break
            for head, effect in zip((h for h, _ in paths), self._ask(oracle, paths), strict=True):
                if abs(effect) > abs(effects[head]):
                    effects[head] = effect
            spent += len(paths)
            trace.append(TracePoint(spent, np.abs(effects)))
            new = above(np.abs(effects), least) - found
            found |= new
            receivers = [[f"{head}.{letter}" for head in sorted(new)] for letter in LETTERS]
        return Discovery(np.abs(effects), found, trace=trace, signed=effects)

    def _below(self, oracle: Oracle, receivers: Sequence[str]) -> list[Head]:
        """The heads that some of the receivers can hear."""
        tops = [oracle.n_layers if r == "logits" else Head.parse(r[:-2]).layer for r in receivers]
        layers = range(max(tops, default=0))
        return [Head(layer, head) for layer in layers for head in range(oracle.n_heads)]

    def _ask(self, oracle: Oracle, paths: Sequence[tuple[Head, Sequence[str]]]) -> list[float]:
        """The damage of each path from a head to all receivers above it."""
        masks = []
        for head, receivers in paths:
            above_it = [r for r in receivers if r == "logits" or Head.parse(r[:-2]).layer > head[0]]
            masks.append(oracle.edges.without(Edge(str(head), r) for r in above_it))
        damages = oracle.edges.query(torch.stack(masks), ablation="resample")
        return [float(x) for x in damages.task]
