"""Which edges carry the tasks of the trained models, measured exhaustively.

    python experiments/tables/trained_edges.py [--prompts 64]

Every edge of a model is ablated alone. Then only edges between the embedding, the truth's heads and
the logits are kept, or only those that the model's algorithm prescribes; of these, each is left out
in turn, and of at most 12 every subset is tried. Faithfulness is 1 with all edges and 0 with none.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from circuitbench import Edge, Oracle, load_model, load_task
from circuitbench.models.trained.load import ALGORITHMS, INDUCTION

KINDS = ("mean", "resample")
ENOUGH = 0.95
EXHAUSTIVE = 12


class Bench:
    """A model's edges, asked about sets that are kept."""

    def __init__(self, name: str, prompts: int) -> None:
        task, model = load_task(name), load_model(name)
        self.oracle = Oracle(model, task, task_name=name, seed=0, batch_size=prompts)
        self.edges = self.oracle.edges.edges
        truth = task.truth(model)
        assert truth is not None
        nodes = {"embed", *map(str, truth.heads)}
        self.inside = [
            e
            for e in self.edges
            if e.sender in nodes and (e.receiver == "logits" or e.receiver[:-2] in nodes)
        ]
        self.gap = {kind: self._lost([self._mask([])], kind)[0] for kind in KINDS}

    def _mask(self, kept: Iterable[Edge]) -> torch.Tensor:
        wanted = set(kept)
        return torch.tensor([edge in wanted for edge in self.edges])

    def _lost(self, masks: Sequence[torch.Tensor], kind: str) -> np.ndarray:
        lost = self.oracle.edges.query(torch.stack(list(masks)), ablation=kind).task
        return np.asarray(lost.numpy())

    def faithfulness(self, sets: Sequence[Sequence[Edge]]) -> np.ndarray:
        """``[sets, kinds]``."""
        masks = [self._mask(kept) for kept in sets]
        return np.stack([1 - self._lost(masks, kind) / self.gap[kind] for kind in KINDS], axis=1)

    def alone(self) -> np.ndarray:
        """What ablating each edge takes, by magnitude, in the worse of the ablations."""
        masks = [self.oracle.edges.without([edge]) for edge in self.edges]
        effects = [np.abs(self._lost(masks, kind) / self.gap[kind]) for kind in KINDS]
        return np.asarray(np.max(effects, axis=0))


def subsets(edges: Sequence[Edge]) -> list[list[Edge]]:
    """All proper subsets."""
    count = len(edges)
    return [[e for i, e in enumerate(edges) if k >> i & 1] for k in range(2**count - 1)]


def measure(name: str, prompts: int) -> None:
    """Print what was found on one model."""
    bench = Bench(name, prompts)
    alone = dict(zip(bench.edges, bench.alone(), strict=True))
    print(f"\n**{name}**: {len(bench.edges)} edges, {prompts} prompts\n")
    print("| kept edges | n | mean | resample | least loss by leaving one out | others, alone |")
    print("|---|---:|---:|---:|---:|---:|")
    groups = {"between the truth's heads": bench.inside}
    if name in ALGORITHMS:
        groups["the algorithm's"] = sorted(ALGORITHMS[name].edges)
    for label, kept in groups.items():
        (whole,) = bench.faithfulness([kept])
        fewer = [[e for e in kept if e != edge] for edge in kept]
        left = (whole - bench.faithfulness(fewer)).max(1)  # in the ablation that shows it best
        others = max(float(x) for edge, x in alone.items() if edge not in kept)
        print(
            f"| {label} | {len(kept)} | {whole[0]:.3f} | {whole[1]:.3f} | {left.min():.3f} "
            f"({kept[int(left.argmin())]}) | {others:.3f} |"
        )
    for label, kept in groups.items():
        if len(kept) <= EXHAUSTIVE:
            some = subsets(kept)
            both = bench.faithfulness(some).min(1)
            enough = [len(s) for s, x in zip(some, both, strict=True) if x >= ENOUGH]
            smallest = min(enough, default=None)
            found = f"{len(enough)} reach {ENOUGH} under both ablations"
            of = f"Of {len(some)} proper subsets ({label})"
            print(f"\n{of}, {found}{f', the smallest with {smallest} edges' if smallest else ''}.")


def main() -> None:
    """Measure every trained model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=64)
    prompts = parser.parse_args().prompts
    for name in (*ALGORITHMS, INDUCTION):
        measure(name, prompts)


if __name__ == "__main__":
    main()
