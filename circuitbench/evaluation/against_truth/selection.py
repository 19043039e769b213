"""How well a committed set matches the true set, against random sets of the same size."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from circuitbench.core.errors import InvalidSpec


def matthews(true_positive: int, selected: int, relevant: int, items: int) -> float | None:
    """Matthews correlation coefficient of two sets (Matthews 1975), in [-1, 1], chance 0.

    ``(items * tp - selected * relevant) / sqrt(selected (items - selected) relevant (items -
    relevant))``; None where one of the sets is empty or everything.
    """
    margin = selected * (items - selected) * relevant * (items - relevant)
    if margin == 0:
        return None
    return float((items * true_positive - selected * relevant) / np.sqrt(float(margin)))


def jaccard(a: frozenset[Any] | set[Any], b: frozenset[Any] | set[Any]) -> float | None:
    """Intersection over union, in [0, 1]; None for two empty sets."""
    union = len(a | b)
    return len(a & b) / union if union else None


def selection_metrics(selected: np.ndarray, relevant: np.ndarray) -> dict[str, Any]:
    """Precision, recall, F1, Jaccard and Matthews correlation of a committed set.

    Args:
        selected, relevant: bool arrays of one shape.

    Returns:
        JSON-able. ``chance`` holds each metric's exact expectation over random sets of the same
        size (the overlap is hypergeometric), ``p_value`` the chance of an overlap at least as
        large. A value that does not exist is None and ``undefined`` says why.
    """
    selected, relevant = np.asarray(selected, dtype=bool), np.asarray(relevant, dtype=bool)
    if selected.shape != relevant.shape or selected.size == 0:
        raise InvalidSpec(f"selection {selected.shape} and truth {relevant.shape} must match")
    items, size, truth = selected.size, int(selected.sum()), int(relevant.sum())
    overlap = int((selected & relevant).sum())
    possible = np.arange(min(size, truth) + 1)
    weight = stats.hypergeom.pmf(possible, items, truth, size)
    either = size + truth

    def ratio(numerator: float, denominator: float) -> float | None:
        return float(numerator / denominator) if denominator else None

    undefined = {}
    if not size:
        undefined["precision"] = "nothing was selected"
    if not truth:
        undefined["recall"] = "the truth is empty"
    mcc = matthews(overlap, size, truth, items)
    if mcc is None:
        undefined["mcc"] = "the selection or the truth is empty or everything"
    if not either:
        undefined["f1"] = undefined["jaccard"] = "selection and truth are both empty"
    return {
        "size": size,
        "n_items": items,
        "n_relevant": truth,
        "overlap": overlap,
        "precision": ratio(overlap, size),
        "recall": ratio(overlap, truth),
        "f1": ratio(2 * overlap, either),
        "jaccard": ratio(overlap, either - overlap),
        "mcc": mcc,
        "chance": {
            "precision": truth / items if size else None,
            "recall": size / items if truth else None,
            "f1": ratio(2 * size * truth / items, either),
            "jaccard": float((weight * possible / (either - possible)).sum()) if either else None,
            "mcc": 0.0 if mcc is not None else None,
        },
        "p_value": float(min(1.0, stats.hypergeom.sf(overlap - 1, items, truth, size))),
        "undefined": undefined,
    }
