"""Heads of a model as grids: what a record says is true, and how runs scored them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.stats import rankdata

from circuitbench.core.circuit import Head, head_grid
from circuitbench.results import Record
from circuitbench.results.run_row import RunRow


def truth_heads(record: Record) -> dict[str, list[Head]]:
    """The true heads of each role, as the record states them."""
    roles = record.truth.get("roles", {})
    return {name: [Head.parse(text) for text in role["heads"]] for name, role in roles.items()}


def truth_grid(record: Record) -> np.ndarray:
    """``[n_layers, n_heads]`` bool, True at the true heads."""
    heads = [head for members in truth_heads(record).values() for head in members]
    return head_grid(heads, *np.shape(record.discovery["scores"]))


def mean_scores(runs: Iterable[RunRow]) -> np.ndarray:
    """Mean score of each head over runs, ``[n_layers, n_heads]``, in the method's own unit."""
    with np.errstate(over="ignore"):  # a record may hold 1e308
        return np.asarray(np.mean([run.record.discovery["scores"] for run in runs], axis=0))


def ranks(scores: np.ndarray) -> np.ndarray:
    """Rank of each score among all, same shape, 1 = highest, ties share their mean rank.

    Methods score in different units; the order is what they have in common.
    """
    return np.asarray(rankdata(-scores, method="average")).reshape(scores.shape)
