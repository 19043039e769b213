"""Scoring against a family: several minimal sets of heads, each of which is enough.

Three readings, none of which stands for the others:

- *union*: heads in any of the sets are true. This is ``Circuit.heads``, which all other metrics
  use, so a head that only some sets need is never counted as wrong.
- *best match*: the answer is held against the one set that it fits best. An answer that names one
  whole set and nothing else is perfect, though it leaves out heads of other sets.
- *core* (intersection): only heads in every set are true and only heads in none are false; the
  optional ones in between, which are not identifiable, do not count. Without a core the value does
  not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from circuitbench.core.circuit import Circuit, Head, head_grid
from circuitbench.evaluation.against_truth.ranking import (
    TiedRanking,
    average_precision,
    tied_ranking,
)
from circuitbench.evaluation.against_truth.selection import Overlap

Family = Sequence[frozenset[Head]]


def best_match(selected: np.ndarray, family: Family) -> Overlap:
    """The overlap of ``selected [n_layers, n_heads]`` with the set of greatest F1.

    Of several such sets the first. The family must not be empty; raises :class:`InvalidSpec` for a
    head outside the grid.
    """
    overlaps = [Overlap.of(selected, grid) for grid in _grids(family, selected.shape)]
    return max(overlaps, key=lambda found: found.f1 or 0.0)


def best_average_precision(scores: np.ndarray, family: Family) -> float:
    """Average precision of ``scores [n_layers, n_heads]`` against the set where it is greatest.

    In (0, 1]; there is no closed form of what chance gives. The family must not be empty.
    """
    grids = _grids(family, scores.shape)
    return max(average_precision(tied_ranking(scores, grid)) for grid in grids)


def core_ranking(scores: np.ndarray, truth: Circuit) -> TiedRanking | None:
    """How ``scores [n_layers, n_heads]`` rank core heads among those that are not optional.

    None where no head is in every set.
    """
    n_layers, n_heads = scores.shape
    core = head_grid(truth.core, n_layers, n_heads)
    counted = ~head_grid(truth.optional, n_layers, n_heads)
    return tied_ranking(scores[counted], core[counted]) if core.any() else None


def family_metrics(scores: np.ndarray, selected: np.ndarray, truth: Circuit) -> dict[str, Any]:
    """What a truth with a family says of one answer.

    Args:
        scores: ``[n_layers, n_heads]``, finite.
        selected: ``[n_layers, n_heads]`` bool, the committed set.
        truth: has a family.

    Returns:
        JSON-able: ``n_sets``; ``best_match`` with ``average_precision``, ``precision``,
        ``recall``, ``f1``; ``union`` and ``core`` with their ``size`` and ``average_precision``
        (None without a core, and ``undefined`` says so); ``contains``, whether the committed set
        holds all of one of the sets.
    """
    match, core = best_match(selected, truth.family), core_ranking(scores, truth)
    union = head_grid(truth.heads, *scores.shape)
    undefined = "" if core else "not identifiable: no head is in every minimal set"
    return {
        "n_sets": len(truth.family),
        "best_match": {
            "average_precision": best_average_precision(scores, truth.family),
            "precision": match.precision,
            "recall": match.recall,
            "f1": match.f1,
        },
        "union": {
            "size": len(truth.heads),
            "average_precision": average_precision(tied_ranking(scores, union)),
        },
        "core": {
            "size": len(truth.core),
            "average_precision": average_precision(core) if core else None,
        },
        "contains": any(
            bool(selected[grid].all()) for grid in _grids(truth.family, selected.shape)
        ),
        "undefined": {"core": undefined} if undefined else {},
    }


def _grids(family: Family, shape: tuple[int, ...]) -> list[np.ndarray]:
    n_layers, n_heads = shape
    return [head_grid(heads, n_layers, n_heads) for heads in family]
