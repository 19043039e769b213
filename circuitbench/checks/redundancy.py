"""How redundant a circuit is: do two heads off hurt more than each alone?"""

from __future__ import annotations

from itertools import combinations, combinations_with_replacement
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitbench.core.circuit import Circuit, Head, head_grid
from circuitbench.evaluation.without_truth.faithfulness import RESOLUTION, Probe

if TYPE_CHECKING:
    from circuitbench.oracle import Oracle


def super_additivity(
    oracle: Oracle,
    truth: Circuit,
    rng: np.random.Generator,
    ablation: str | None = None,
    max_pairs: int = 500,
) -> dict[str, Any]:
    """``D(a, b) - D(a) - D(b)`` over pairs of a circuit's heads, D the damage of ablating them.

    Above 0 the heads stand in for each other (what single-head ablation cannot see), below 0
    they are links of one chain, at 0 they work side by side. A property of task, model and
    ablation, not of a method.

    Args:
        oracle: made for evaluation; costs one query per head and per pair, on one fresh batch.
        truth: whose roles group the pairs; a head of two roles counts in both.
        max_pairs: above this, a random sample of all pairs is asked.

    Returns:
        ``inside {role: {mean, n_pairs}}``, ``across {"role|role": {mean, n_pairs}}`` in logit
        units, roles without a pair left out; ``scale`` is ``m(M) - m(0)``; ``relative_inside``
        and ``relative_across`` the means over all pairs of a kind as shares of it, None where
        there is no such pair or no scale.

    Raises:
        InvalidSpec: the truth does not fit the model.
    """
    ablation = oracle.ablation if ablation is None else ablation
    probe = Probe(oracle, [oracle.draw(int(rng.integers(2**63 - 1)))], ablation)
    head_grid(truth.heads, *probe.shape)
    heads = sorted(truth.heads)
    pairs = list(combinations(heads, 2))
    pairs = [pairs[i] for i in sorted(rng.permutation(len(pairs))[:max_pairs])]
    sets: list[tuple[Head, ...]] = [(head,) for head in heads] + list(pairs)
    kept = np.array([~head_grid(off, *probe.shape) for off in sets]).reshape(-1, *probe.shape)
    full = float(probe.clean.mean())
    damage = dict(zip(sets, full - probe.mean(kept), strict=True)) if sets else {}
    excess = {(a, b): float(damage[a, b] - damage[a,] - damage[b,]) for a, b in pairs}
    scale = full - probe.empty()
    groups: dict[str, dict[str, Any]] = {"inside": {}, "across": {}}
    of_kind: dict[str, dict[tuple[Head, Head], float]] = {"inside": {}, "across": {}}
    for one, two in combinations_with_replacement(sorted(truth.roles), 2):
        kind, name = ("inside", one) if one == two else ("across", f"{one}|{two}")
        ours, theirs = set(truth.roles[one].heads), set(truth.roles[two].heads)
        found = {
            (a, b): value
            for (a, b), value in excess.items()
            if (a in ours and b in theirs) or (a in theirs and b in ours)
        }
        if found:
            groups[kind][name] = {
                "mean": float(np.mean(list(found.values()))),
                "n_pairs": len(found),
            }
            of_kind[kind].update(found)

    def relative(kind: str) -> float | None:
        values = list(of_kind[kind].values())
        return float(np.mean(values) / scale) if values and abs(scale) >= RESOLUTION else None

    return {
        "ablation": ablation,
        **groups,
        "scale": scale,
        "relative_inside": relative("inside"),
        "relative_across": relative("across"),
    }


def render(found: dict[str, Any]) -> str:
    """What :func:`super_additivity` found as a markdown table, in shares of its scale."""
    scale = found["scale"]
    lines = [
        f"Two heads off, beyond the sum of each alone ({found['ablation']} ablation, share of the "
        f"gap {scale:.3g}): above 0 they stand in for each other, below 0 they are links of one "
        "chain.",
        "",
        "| roles | pairs | excess / gap |",
        "|---|---:|---:|",
    ]
    for roles, group in (found["inside"] | found["across"]).items():
        name = roles.replace("|", " with ")
        share = (
            f"{round(group['mean'] / scale, 2) + 0.0:+.2f}"
            if abs(scale) >= RESOLUTION
            else "undefined"
        )
        lines.append(f"| {name} | {group['n_pairs']} | {share} |")
    return "\n".join(lines) + "\n"
