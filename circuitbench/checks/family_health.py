"""The health gate of a family of minimal sets: is each enough, and is none too large?

On other prompts than those of the search, under every ablation that the truth claims. A set is as
faithful as under the ablation that keeps least of it.

The search behind a family has looked at every subset, so what is tried here is a sample: that its
sets keep what is stated, that none does without any one of its heads, and that sets which contain
none of them do not.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from circuitbench.checks.health_card import Check
from circuitbench.core.circuit import Circuit, Head
from circuitbench.models.limits import Limits
from circuitbench.oracle import Oracle

SETS = 24  # sets of a family that are tried; of a larger one a random choice


def family_checks(
    oracle: Oracle, truth: Circuit, limits: Limits, rng: np.random.Generator
) -> tuple[Check, ...]:
    """The checks of a truth's family; none where it has none.

    Args:
        oracle: of the task on its model.
        truth: what is tested.
        limits: ``family`` says how far from the stated faithfulness other prompts may lead.
        rng: draws which sets are tried.
    """
    if not truth.family:
        return ()
    chosen = sorted(rng.permutation(len(truth.family))[:SETS])
    sets = [truth.family[i] for i in chosen]
    less = [heads - {head} for heads in sets for head in sorted(heads)]
    without = [heads for heads in _drawn(oracle.shape, 4 * SETS, rng) if not _holds(heads, truth)]
    kept = _kept(oracle, truth, [*sets, *less, *without])
    parts = np.split(kept, [len(sets), len(sets) + len(less)])
    tried = f"{len(sets)} of {len(truth.family)} sets"
    least, most = truth.faithfulness - limits.family, truth.faithfulness + limits.family
    names = ("less one head", "random sets that contain none")
    return (
        Check("faithfulness of minimal sets, least", float(parts[0].min()), ">=", least, tried),
        *(
            Check(
                f"faithfulness of {name}, greatest", float(part.max()), "<=", most, f"{len(part)}"
            )
            for name, part in zip(names, parts[1:], strict=True)
            if len(part)
        ),
    )


def _kept(oracle: Oracle, truth: Circuit, sets: Iterable[frozenset[Head]]) -> np.ndarray:
    """The share of the metric that each set keeps, under the ablation that keeps least, ``[n]``."""
    everyone = [frozenset[Head](), *sets]
    masks = torch.zeros(len(everyone), *oracle.shape, dtype=torch.bool)
    for mask, heads in zip(masks, everyone, strict=True):
        for head in heads:
            mask[head] = True
    shares = []
    for ablation in truth.ablations:
        lost = oracle.query(masks, ablation=ablation, control=False).task.numpy()
        shares.append(1 - lost[1:] / lost[0])
    return np.asarray(np.min(shares, axis=0))


def _drawn(shape: tuple[int, int], n: int, rng: np.random.Generator) -> list[frozenset[Head]]:
    """``n`` random sets of heads, from few of them to nearly all."""
    kept = rng.random((n, *shape)) < rng.random((n, 1, 1))
    return [frozenset(Head(int(i), int(j)) for i, j in np.argwhere(grid)) for grid in kept]


def _holds(heads: frozenset[Head], truth: Circuit) -> bool:
    return any(one <= heads for one in truth.family)
