"""How soon a method knows: quality of its best-so-far ranking against queries spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from circuitbench.core.discovery import TracePoint
from circuitbench.core.errors import InvalidSpec
from circuitbench.evaluation.against_truth.ranking import (
    TiedRanking,
    average_precision,
    r_precision,
    tied_ranking,
)

HORIZON_PER_ITEM = 100  # queries per head up to which areas are taken, for every method alike
TARGET = 0.9
MEASURES: dict[str, Callable[[TiedRanking], float]] = {
    "average_precision": average_precision,
    "r_precision": r_precision,
}

Quality = TypeVar("Quality", float, float | None)


def area_on_log_axis(
    queries: Sequence[int], quality: Sequence[float], chance: float, horizon: int
) -> float:
    """Mean quality over the logarithm of the queries spent, from 1 to ``horizon``.

    ``integral of Q(q) d(ln q) / ln(horizon)``: Q is a step function, ``chance`` before the
    first point and the last value after the last one, so stopping early costs nothing and
    knowing early pays. In the range of the quality; higher is better.

    Args:
        queries: ``[points]``, rising, >= 0.
        quality: ``[points]`` of the ranking available after that many queries.
    """
    if horizon < 2:
        raise InvalidSpec(f"an area needs a horizon of at least 2 queries, not {horizon}")
    if len(queries) != len(quality) or (np.diff(queries) <= 0).any():
        raise InvalidSpec("a quality curve needs one value per rising number of queries")
    edges = np.log(np.clip([1, *queries, horizon], 1, horizon))
    return float((np.diff(edges) * [chance, *quality]).sum() / np.log(horizon))


def queries_to(queries: Sequence[int], quality: Sequence[float], target: float) -> int | None:
    """Queries after which the quality first reaches ``target``; None if it never does."""
    reached = (q for q, value in zip(queries, quality, strict=True) if value >= target - 1e-12)
    return next((int(q) for q in reached), None)


@dataclass(frozen=True)
class QualityCurve:
    """The rankings a method could have given, ``rankings[i]`` after ``queries[i]``, rising.

    Areas end at ``horizon`` queries.
    """

    queries: list[int]
    rankings: list[TiedRanking]
    horizon: int

    def values(self, measure: Callable[[TiedRanking], Quality]) -> list[Quality]:
        """The measure of each ranking."""
        return [measure(ranking) for ranking in self.rankings]


def quality_curve(
    trace: Sequence[TracePoint],
    scores: np.ndarray,
    queries: int | None,
    relevant: np.ndarray,
    horizon: int,
) -> QualityCurve | str:
    """The rankings along the trace, closed by the final one; or why there is no curve.

    Arguments as in :func:`efficiency_metrics`.
    """
    points = {point.queries: point.scores for point in trace}
    if queries is None:
        queries = max(points, default=None)
    if queries is None:
        return "neither a trace nor the number of queries is known"
    if not relevant.any() or relevant.all():
        return "the truth holds none of the heads, or all"
    points = {q: ranking for q, ranking in points.items() if q < queries} | {queries: scores}
    spent = sorted(points)
    return QualityCurve(spent, [tied_ranking(points[q], relevant) for q in spent], horizon)


def efficiency_metrics(
    trace: Sequence[TracePoint],
    scores: np.ndarray,
    queries: int | None,
    relevant: np.ndarray,
    horizon: int | None = None,
) -> dict[str, Any]:
    """Quality against queries of one discovery.

    The target of ``queries_to_90`` is 90 % of the best *attainable* recall among the top R,
    which is 1: a target relative to a run's own end would make a bad run look fast.

    Args:
        trace: best-so-far rankings, queries rising.
        scores: ``[n_layers, n_heads]`` the final ranking.
        queries: what the whole discovery cost; the final ranking counts from there. None: the
            last trace point's.
        relevant: ``[n_layers, n_heads]`` bool.
        horizon: queries up to which areas are taken; by default 100 per head.

    Returns:
        ``queries``, and per measure (average precision, R-precision) ``curve`` and ``area``;
        ``queries_to_90`` (None: never reached); ``horizon``. All but the horizon None, with
        ``undefined``, where there is neither cost nor trace, or no ranking to speak of.
    """
    horizon = HORIZON_PER_ITEM * scores.size if horizon is None else horizon
    found = quality_curve(trace, scores, queries, relevant, horizon)
    if isinstance(found, str):
        nothing = dict.fromkeys(("queries", "curve", "area", "queries_to_90"))
        return {**nothing, "horizon": horizon, "undefined": found}
    curves = {name: found.values(measure) for name, measure in MEASURES.items()}
    chance = found.rankings[0].uninformed()
    return {
        "queries": found.queries,
        "curve": curves,
        "area": {
            name: area_on_log_axis(found.queries, curve, MEASURES[name](chance), horizon)
            for name, curve in curves.items()
        },
        "queries_to_90": queries_to(found.queries, curves["r_precision"], TARGET),
        "horizon": horizon,
    }
