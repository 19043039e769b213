"""How well a committed set matches the true set, against random sets of the same size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from circuitbench.core.errors import InvalidSpec


def matthews(true_positive: float, selected: int, relevant: int, items: int) -> float | None:
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


@dataclass(frozen=True)
class Overlap:
    """How many items two sets share: ``both`` of ``selected`` and ``relevant``, among ``items``.

    ``both`` may be an expectation; all but Jaccard's index, linear in it, are then exact too.
    """

    items: int
    selected: int
    relevant: int
    both: float

    @classmethod
    def of(cls, selected: np.ndarray, relevant: np.ndarray) -> Overlap:
        """Count; raises :class:`InvalidSpec` unless the bool arrays have one shape, not empty."""
        selected, relevant = np.asarray(selected, dtype=bool), np.asarray(relevant, dtype=bool)
        if selected.shape != relevant.shape or selected.size == 0:
            raise InvalidSpec(f"selection {selected.shape} and truth {relevant.shape} must match")
        both = int((selected & relevant).sum())
        return cls(selected.size, int(selected.sum()), int(relevant.sum()), both)

    @property
    def precision(self) -> float | None:
        """``both / selected``, in [0, 1]; None for an empty selection."""
        return _ratio(self.both, self.selected)

    @property
    def recall(self) -> float | None:
        """``both / relevant``, in [0, 1]; None for an empty truth."""
        return _ratio(self.both, self.relevant)

    @property
    def f1(self) -> float | None:
        """``2 both / (selected + relevant)``, in [0, 1]; None for two empty sets."""
        return _ratio(2 * self.both, self.selected + self.relevant)

    @property
    def chance_precision(self) -> float | None:
        """Expected precision of a random set of the same size."""
        return _ratio(self.relevant, self.items) if self.selected else None

    @property
    def chance_recall(self) -> float | None:
        """Expected recall of a random set of the same size."""
        return _ratio(self.selected, self.items) if self.relevant else None

    @property
    def chance_f1(self) -> float | None:
        """Expected F1 of a random set of the same size."""
        either = self.selected + self.relevant
        return _ratio(2 * self.selected * self.relevant / self.items, either)

    @property
    def mcc(self) -> float | None:
        """See :func:`matthews`."""
        return matthews(self.both, self.selected, self.relevant, self.items)


def _ratio(numerator: float, denominator: float) -> float | None:
    return float(numerator / denominator) if denominator else None


def selection_metrics(selected: np.ndarray, relevant: np.ndarray) -> dict[str, Any]:
    """Precision, recall, F1, Jaccard and Matthews correlation of a committed set.

    Args:
        selected, relevant: bool arrays of one shape.

    Returns:
        JSON-able. ``chance`` holds each metric's exact expectation over random sets of the same
        size (the overlap is hypergeometric), ``p_value`` the chance of an overlap at least as
        large. A value that does not exist is None and ``undefined`` says why.
    """
    from scipy.stats import hypergeom  # a second to import; tables do without chance and p-values

    sets = Overlap.of(selected, relevant)
    items, size, truth, overlap = sets.items, sets.selected, sets.relevant, sets.both
    possible = np.arange(min(size, truth) + 1)
    weight = hypergeom.pmf(possible, items, truth, size)
    either = size + truth
    undefined = {}
    if not size:
        undefined["precision"] = "nothing was selected"
    if not truth:
        undefined["recall"] = "the truth is empty"
    if sets.mcc is None:
        undefined["mcc"] = "the selection or the truth is empty or everything"
    if not either:
        undefined["f1"] = undefined["jaccard"] = "selection and truth are both empty"
    return {
        "size": size,
        "n_items": items,
        "n_relevant": truth,
        "overlap": overlap,
        "precision": sets.precision,
        "recall": sets.recall,
        "f1": sets.f1,
        "jaccard": _ratio(overlap, either - overlap),
        "mcc": sets.mcc,
        "chance": {
            "precision": sets.chance_precision,
            "recall": sets.chance_recall,
            "f1": sets.chance_f1,
            "jaccard": float((weight * possible / (either - possible)).sum()) if either else None,
            "mcc": 0.0 if sets.mcc is not None else None,
        },
        "p_value": float(min(1.0, hypergeom.sf(overlap - 1, items, truth, size))),
        "undefined": undefined,
    }
