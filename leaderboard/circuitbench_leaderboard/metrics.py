"""What the leaderboard can show of a run: names, labels, units, and where a record holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from circuitbench.core.errors import UnknownName
from circuitbench.evaluation.against_truth.ranking import (
    auroc,
    average_precision,
    r_precision,
    tied_ranking,
)
from circuitbench.results import Record
from circuitbench_leaderboard.head_grids import truth_grid


@dataclass(frozen=True)
class Metric:
    """One number of a run.

    Args:
        key: its name on the command line and in JSON.
        path: where a record holds it, dotted.
        label: column heading.
        about: one sentence for tooltips and captions.
        unit: empty for a plain ratio.
        cost: True for what a run spent; costs are shown, never marked as best.
        digits: decimals shown.
        scale: from the record's unit to the one shown.
        minor: left out of tables where room is scarce.
        twice: where a record holds what is added to it, times two.
    """

    key: str
    path: str
    label: str
    about: str
    unit: str = ""
    cost: bool = False
    digits: int = 3
    scale: float = 1.0
    minor: bool = False
    twice: str = ""

    def of(self, record: Record) -> float | None:
        """The value in ``record``; None where it does not exist."""
        value = _number_at(record, self.path)
        more = _number_at(record, self.twice) if self.twice else 0.0
        return None if value is None or more is None else (value + 2 * more) * self.scale


def _number_at(record: Record, path: str) -> float | None:
    found: Any = {"metrics": record.metrics, "costs": record.costs}
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


_ranking = partial("metrics.ranking.{}".format)
_selection = partial("metrics.selection.{}".format)

# Average precision leads: circuits are rare among heads, and unlike AUROC it does not reward
# sorting the many heads that nobody would look at.
METRICS: tuple[Metric, ...] = (
    Metric(
        "average_precision",
        _ranking("average_precision"),
        "AP",
        "Average precision of the head ranking.",
    ),
    Metric("auroc", _ranking("auroc"), "AUROC", "Area under the ROC curve; chance is 0.5."),
    Metric(
        "r_precision",
        _ranking("r_precision"),
        "R-prec.",
        "Share of true heads among the R best ranked, R being the circuit's size.",
        minor=True,
    ),
    Metric("f1", _selection("f1"), "F1", "F1 of the heads the method commits to."),
    Metric(
        "mcc",
        _selection("mcc"),
        "MCC",
        "Matthews correlation of the committed heads.",
        minor=True,
    ),
    Metric(
        "group_recall",
        "metrics.role_groups.top_r.group_recall",
        "Roles",
        "Share of roles of which enough heads are among the R best ranked.",
    ),
    Metric(
        "area",
        "metrics.efficiency.area.average_precision",
        "AP area",
        "Area under average precision against log queries: good early is better than good late.",
        minor=True,
    ),
    Metric(
        "queries",
        "costs.discovery.queries",
        "Queries",
        "Oracle queries of the discovery: a mask is one, a gradient three.",
        cost=True,
        digits=0,
    ),
    Metric(
        "queries_to_90",
        "metrics.efficiency.queries_to_90",
        "To 90 %",
        "Queries until 90 % of the circuit's heads were among as many best ranked; none where a "
        "run never got there.",
        unit="queries",
        cost=True,
        digits=0,
        minor=True,
    ),
    Metric(
        "passes",
        "costs.discovery.forwards",
        "Passes",
        "Forward-equivalents of the discovery: passes of one batch, a backward one counts as two.",
        cost=True,
        digits=0,
        minor=True,
        twice="costs.discovery.backwards",
    ),
    Metric(
        "training_queries",
        "costs.training.queries",
        "Training",
        "Oracle queries of training beforehand, metered apart.",
        unit="queries",
        cost=True,
        digits=0,
    ),
    Metric(
        "seconds",
        "costs.discovery.method_seconds",
        "Time",
        "Wall-clock time of the discovery.",
        unit="s",
        cost=True,
        digits=1,
    ),
    Metric(
        "memory",
        "costs.discovery.peak_memory_bytes",
        "Memory",
        "Peak memory of the whole run.",
        unit="MiB",
        cost=True,
        digits=0,
        scale=2.0**-20,
        minor=True,
    ),
)
_edges = partial("metrics.edges.{}".format)
# Over edges: only where a truth names them and a method scores them, so in a table of their own.
EDGE_METRICS: tuple[Metric, ...] = (
    Metric(
        "edge_average_precision",
        _edges("average_precision"),
        "Edge AP",
        "Average precision of the edge ranking.",
    ),
    Metric("edge_auroc", _edges("auroc"), "Edge AUROC", "Area under the ROC curve over edges."),
    Metric(
        "edge_r_precision",
        _edges("r_precision"),
        "Edge R-prec.",
        "Share of true edges among the R best ranked, R being how many are true.",
    ),
)
QUALITY: tuple[Metric, ...] = tuple(m for m in METRICS if not m.cost)
DEFAULT = METRICS[0]


def function_metrics(ablation: str) -> tuple[Metric, Metric, Metric]:
    """Faithfulness, CPR and CMD under an ablation, which need no truth.

    Always together: CPR alone is unbounded and rewards overshooting.
    """
    at = "metrics.functional"
    return (
        Metric(
            f"faithfulness_{ablation}",
            f"{at}.faithfulness.{ablation}.value",
            f"Faith. {ablation}",
            f"Share of the metric that the committed heads keep under {ablation} ablation.",
        ),
        Metric(
            f"cpr_{ablation}",
            f"{at}.mib.{ablation}.cpr",
            f"CPR {ablation}",
            f"Area under faithfulness over circuit sizes, {ablation} ablation (MIB).",
        ),
        Metric(
            f"cmd_{ablation}",
            f"{at}.mib.{ablation}.cmd",
            f"CMD {ablation}",
            f"Area between faithfulness and 1 over circuit sizes, {ablation} ablation; lower is "
            "better (MIB).",
        ),
    )


_OF_RANKING = {"average_precision": average_precision, "auroc": auroc, "r_precision": r_precision}


def metric(key: str) -> Metric:
    """The quality metric of this name; raises :class:`UnknownName` naming the nearest."""
    for found in QUALITY:
        if found.key == key:
            return found
    raise UnknownName("metric", key, [m.key for m in QUALITY])


def curve(record: Record, by: Metric = DEFAULT) -> list[tuple[int, float]]:
    """Quality of the best ranking after q queries, ``(q, value)`` with q rising.

    Read off the stored trace, closed by the final scores at the cost of the whole discovery.
    Empty where the metric is not one of a ranking, or the run has no answer or no truth.
    """
    measure = _OF_RANKING.get(by.key)
    scores = record.discovery.get("scores")
    if record.status != "done" or measure is None or scores is None or not record.truth:
        return []
    relevant = truth_grid(record)
    if not relevant.any() or relevant.all():
        return []
    points = {int(p["queries"]): p["scores"] for p in record.discovery.get("trace") or ()}
    total = record.costs.get("discovery", {}).get("queries")
    if total is not None:
        points[int(total)] = scores
    return [(q, measure(tied_ranking(np.asarray(points[q]), relevant))) for q in sorted(points)]
