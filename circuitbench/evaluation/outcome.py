"""What one run left, as metrics see it: plain mappings of a record, parsed when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, cast, get_args

import numpy as np

from circuitbench.core.circuit import Circuit, Edge, Head, Role, TruthKind, head_grid
from circuitbench.core.discovery import TracePoint
from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.evaluation.against_truth.edges import EdgeRanking, edge_overlap, edge_ranking
from circuitbench.evaluation.against_truth.efficiency import (
    HORIZON_PER_ITEM,
    MEASURES,
    TARGET,
    QualityCurve,
    area_on_log_axis,
    quality_curve,
    queries_to,
)
from circuitbench.evaluation.against_truth.family import (
    best_average_precision,
    best_match,
    core_ranking,
)
from circuitbench.evaluation.against_truth.ranking import (
    TiedRanking,
    average_precision,
    r_precision,
    tied_ranking,
)
from circuitbench.evaluation.against_truth.roles import presence_in_top_r
from circuitbench.evaluation.against_truth.selection import Overlap
from circuitbench.evaluation.without_truth import MEASURED_ABLATIONS
from circuitbench.plugins.method import Track

NEAR_TIE = 1e-4
"""Scores nearer than this, relative to the largest, are told apart by tie-breaks alone."""

Measure = Callable[[TiedRanking], float | None]


class Outcome:
    """One run as metrics see it.

    Everything is parsed once and only when asked for. What does not hold together (scores of
    no rectangular shape, a head outside the model) raises a :class:`CircuitBenchError`,
    ``LookupError``, ``TypeError`` or ``ValueError`` from the property that meets it.

    Args:
        discovery: ``scores [n_layers][n_heads]``, ``selected`` heads ``"9.6"``, ``edges``
            (score per ``"0.1->2.3.k"`` or None), ``trace`` (list of ``queries``, ``scores``),
            ``info``, perhaps ``selected_edges``; empty where a run has no answer.
        truth: ``roles`` (name -> ``heads``, ``needed``, ``sign``), ``edges``, ``source``,
            ``kind``, perhaps ``contributions``, ``family`` and ``faithfulness``; empty where there
            is none.
        costs: ``discovery``, ``training``, ``evaluation``: what each spent.
        measurements: what was measured without the truth.
        info: what the plug-ins say of themselves, and on what the method learned.
        batch_size: prompts in a batch, where it is known.
    """

    def __init__(
        self,
        discovery: Mapping[str, Any],
        truth: Mapping[str, Any],
        costs: Mapping[str, Any],
        measurements: Mapping[str, Any],
        info: Mapping[str, Any] = MappingProxyType({}),
        batch_size: int | None = None,
    ) -> None:
        self.discovery, self.costs, self.measurements = discovery, costs, measurements
        self.info, self.batch_size = info, batch_size
        self._truth = truth
        self._curves: dict[Measure, list[tuple[int, float | None]]] = {}

    @cached_property
    def has(self) -> frozenset[str]:
        """Which needs of metrics are met.

        ``truth``, ``edges`` (true and found), ``family`` (of minimal sets), ``measurements``,
        ``degrees`` (what each true head contributes), ``edge_degrees`` (what each true edge does).

        Without an answer there is nothing to hold against the truth.
        """
        answered = "scores" in self.discovery and bool(self._truth)
        edges = answered and None not in (self.discovery.get("edges"), self._truth.get("edges"))
        met = {
            "truth": answered,
            "edges": edges,
            "family": answered and bool(self._truth.get("family")),
            "measurements": bool(self.measurements),
            "degrees": answered and bool(self.contributions),
            "edge_degrees": edges and bool(self._truth["edges"]) and "edges" in self.contributions,
        }
        return frozenset(need for need, is_met in met.items() if is_met)

    @cached_property
    def scores(self) -> np.ndarray:
        """``[n_layers, n_heads]``, higher = more surely in the circuit."""
        return grid_of_numbers(self.discovery["scores"])

    @cached_property
    def selected(self) -> np.ndarray:
        """The committed set, ``[n_layers, n_heads]`` bool."""
        return head_grid(map(Head.parse, self.discovery["selected"]), *self._shape)

    @cached_property
    def edges(self) -> dict[Edge, float]:
        """The score of every edge the method lists."""
        stored = self.discovery["edges"]
        scores = grid_of_numbers(list(stored.values()))
        return dict(zip(map(Edge.parse, stored), scores.tolist(), strict=True))

    @cached_property
    def trace(self) -> list[TracePoint]:
        """Rankings along the way, queries rising."""
        return [
            TracePoint(whole_number(point["queries"]), grid_of_numbers(point["scores"]))
            for point in self.discovery.get("trace") or ()
        ]

    @cached_property
    def truth(self) -> Circuit:
        """The circuit the answer is held against."""
        return read_truth(self._truth)

    @cached_property
    def relevant(self) -> np.ndarray:
        """The true heads, ``[n_layers, n_heads]`` bool."""
        return head_grid(self.truth.heads, *self._shape)

    @property
    def contributions(self) -> Mapping[str, Any]:
        """What true heads and edges contribute, as a record keeps it; empty where nothing says."""
        return self._truth.get("contributions") or {}

    @cached_property
    def degrees(self) -> np.ndarray:
        """How much each head contributes, ``[n_layers, n_heads]``, 0 outside the circuit.

        Sizes of contributions: who works against the task contributes too.
        """
        found = self.contributions["heads"]["values"]
        values = {Head.parse(head): abs(float(value)) for head, value in found.items()}
        head_grid(values, *self._shape)  # refuses heads outside the model
        grid = np.zeros(self._shape)
        for head, value in values.items():
            grid[head] = value
        return grid

    @cached_property
    def edge_degrees(self) -> np.ndarray:
        """How much each edge the model could have contributes, ``[edges]``, as of heads.

        In the order of :attr:`ranked_edges`.
        """
        found = self.contributions["edges"]["values"]
        values = {Edge.parse(edge): abs(float(value)) for edge, value in found.items()}
        if outside := sorted(values.keys() - (self.truth.edges or frozenset())):
            raise InvalidSpec(f"edge {outside[0]} contributes, but is not in the truth")
        return np.array([values.get(edge, 0.0) for edge in self.ranked_edges.items])

    @cached_property
    def ranking(self) -> TiedRanking | None:
        """How the scores rank the true heads; None where the truth names no head."""
        return tied_ranking(self.scores, self.relevant) if self.relevant.any() else None

    @cached_property
    def rounded_average_precision(self) -> float | None:
        """Average precision with scores rounded to :data:`NEAR_TIE` of the largest size."""
        largest = float(np.abs(self.scores).max(initial=0.0))
        if largest == 0 or not self.relevant.any():
            return None if self.ranking is None else average_precision(self.ranking)
        rounded = np.round(self.scores / (largest * NEAR_TIE))
        return average_precision(tied_ranking(rounded, self.relevant))

    @cached_property
    def selected_edges(self) -> frozenset[Edge] | None:
        """The committed edges; None where the method commits to no set of edges."""
        stored = self.discovery.get("selected_edges")
        return None if stored is None else frozenset(map(Edge.parse, stored))

    @cached_property
    def ranked_edges(self) -> EdgeRanking:
        """All edges that the model could have, by score."""
        return edge_ranking(self.edges, self.truth.edges or frozenset(), *self._shape)

    @cached_property
    def edge_ranking(self) -> TiedRanking | None:
        """How the scores of edges rank the true ones; None where the truth names no edge."""
        return None if self._ranked_edges is None else self._ranked_edges.ranking

    @cached_property
    def edge_overlap(self) -> Overlap | None:
        """The committed edges, or as many best ranked as are true, against the true ones.

        None where the truth names no edge.
        """
        edges, ranked = self.truth.edges, self._ranked_edges
        if ranked is None or edges is None:
            return None
        return edge_overlap(ranked, self.selected_edges, edges, *self._shape)

    @cached_property
    def overlap(self) -> Overlap:
        """The committed set against the true one."""
        return Overlap.of(self.selected, self.relevant)

    @cached_property
    def best_match(self) -> Overlap | None:
        """The committed set against the set of the truth's family nearest to it (by F1).

        None where the truth has no family.
        """
        return best_match(self.selected, self.truth.family) if self.truth.family else None

    @cached_property
    def family_average_precision(self) -> float | None:
        """Average precision against the family's set that the ranking fits best; None without."""
        family = self.truth.family
        return best_average_precision(self.scores, family) if family else None

    @cached_property
    def core_ranking(self) -> TiedRanking | None:
        """How the scores rank the heads of every set of the family above those of none.

        None where the truth has no family, or no head is in every set.
        """
        return core_ranking(self.scores, self.truth) if self.truth.family else None

    @cached_property
    def role_recall(self) -> dict[str, float]:
        """Share of each role's heads among the R best ranked, R the number of true heads."""
        return {name: found["recall"] for name, found in self._roles.items()}

    @cached_property
    def group_recall(self) -> float | None:
        """Share of roles of which enough heads are among the R best; None without roles."""
        return float(np.mean([x["found"] for x in self._roles.values()])) if self._roles else None

    def curve(self, measure: Measure) -> list[tuple[int, float | None]]:
        """A measure of the best ranking after q queries, ``(q, value)`` with q rising.

        Closed by the final scores at the cost of the whole discovery. Empty where the truth
        holds none of the heads or all, or where nothing says what was spent.
        """
        if measure not in self._curves:
            found = self._quality
            points = [] if found is None else zip(found.queries, found.values(measure), strict=True)
            self._curves[measure] = list(points)
        return self._curves[measure]

    def area(self, measure: Callable[[TiedRanking], float]) -> float | None:
        """Area under the measure's curve, from 1 to 100 queries per head on a log axis."""
        if self._measured_efficiency is not None:
            measured: float | None = self._measured_efficiency["area"][
                next(name for name, known in MEASURES.items() if known is measure)
            ]
            return measured
        found = self._quality
        if found is None:
            return None
        quality = [float(value) for _, value in self.curve(measure) if value is not None]
        chance = measure(found.rankings[0].uninformed())
        return area_on_log_axis(found.queries, quality, chance, found.horizon)

    @property
    def queries_to_target(self) -> int | None:
        """Queries after which R-precision first reached 0.9; None if it never did."""
        if self._measured_efficiency is not None:
            measured: int | None = self._measured_efficiency["queries_to_90"]
            return measured
        points = self.curve(r_precision)
        quality = [float(value) for _, value in points if value is not None]
        return queries_to([q for q, _ in points], quality, TARGET)

    @cached_property
    def track(self) -> Track:
        """What the method learned on, see :func:`track`."""
        return track(self.info, self.cost("training", "queries"))

    def spent(self, name: str) -> float | None:
        """What was spent on the model that is scored: by discovery, and by training on it.

        None where the record does not say; raises as :meth:`cost` does.
        """
        finding, learning = self.cost("discovery", name), self.cost("training", name)
        if finding is None or self.track != "same-model":
            return finding
        return finding + (learning or 0.0)

    def cost(self, stage: str, name: str) -> float | None:
        """What a stage spent; None where the record does not say.

        Raises:
            UnknownName: no record has such a stage or cost.
        """
        return _number(self.costs, EXAMPLE.costs, "cost", (stage, name))

    def measured(self, *path: str) -> float | None:
        """A measurement without truth, e.g. ``"mib", "zero", "cpr"``; None where there is none.

        Raises:
            UnknownName: no record has such a measurement.
        """
        return _number(self.measurements, EXAMPLE.measurements, "measurement", path)

    @cached_property
    def _shape(self) -> tuple[int, int]:
        if self.scores.ndim != 2:
            raise InvalidSpec(f"scores must be [n_layers, n_heads], not {self.scores.shape}")
        return self.scores.shape[0], self.scores.shape[1]

    @cached_property
    def _ranked_edges(self) -> EdgeRanking | None:
        return self.ranked_edges if self.truth.edges else None

    @property
    def _measured_efficiency(self) -> Mapping[str, Any] | None:
        """What schema 1 measured before it rounded the trace that it stored.

        It did not count training, so where there was some it is measured anew.
        """
        return None if self._training else self.measurements.get("efficiency")

    @cached_property
    def _training(self) -> int:
        """Queries of training on the model that is scored."""
        learning = self.cost("training", "queries") if self.track == "same-model" else None
        return int(learning or 0)

    @cached_property
    def _quality(self) -> QualityCurve | None:
        queries, training = self.spent("queries"), self._training
        spent = None if queries is None else int(queries)
        trace = [TracePoint(point.queries + training, point.scores) for point in self.trace]
        horizon = HORIZON_PER_ITEM * self.scores.size
        found = quality_curve(trace, self.scores, spent, self.relevant, horizon)
        return found if isinstance(found, QualityCurve) else None

    @cached_property
    def _roles(self) -> dict[str, dict[str, float]]:
        return presence_in_top_r(self.scores, self.truth.roles)


def track(info: Mapping[str, Any], training_queries: float | None) -> Track:
    """What a method learned on, by what the record says of it and by what really happened.

    Whoever asked training queries has trained: on the model it is scored on, unless the record
    says that it learns on others.
    """
    told = info.get("training")
    stated = told.get("track") if isinstance(told, Mapping) else None
    if stated in ("same-model", "other-models"):
        return cast("Track", stated)
    return "same-model" if training_queries else "none"


def grid_of_numbers(stored: Any) -> np.ndarray:
    """Stored scores as an array of floats; raises ``TypeError`` where one is no number.

    NumPy would read digits in a string, those of other scripts too.
    """
    found = np.asarray(stored)
    if found.size and found.dtype.kind not in "fiu":
        raise TypeError("a score is not a finite number")
    return found.astype(float)


def whole_number(stored: Any) -> int:
    """A stored count; raises ``TypeError`` where it is none."""
    if isinstance(stored, bool) or not isinstance(stored, int | float) or int(stored) != stored:
        raise TypeError("a count is no whole number")
    return int(stored)


def read_truth(stored: Mapping[str, Any]) -> Circuit:
    """A truth as a record keeps it, as a circuit."""
    roles = {
        name: Role(tuple(map(Head.parse, role["heads"])), role["needed"], role["sign"])
        for name, role in stored["roles"].items()
    }
    if stored["kind"] not in get_args(TruthKind):
        raise UnknownName("kind of truth", str(stored["kind"]), get_args(TruthKind))
    edges = stored.get("edges")
    return Circuit(
        roles,
        stored["source"],
        stored["kind"],
        edges=None if edges is None else frozenset(map(Edge.parse, edges)),
        degrees="contributions" in stored,
        family=tuple(frozenset(map(Head.parse, heads)) for heads in stored.get("family", ())),
        faithfulness=stored.get("faithfulness", 0.0),
    )


def _number(
    content: Mapping[str, Any], shape: Mapping[str, Any], what: str, path: tuple[str, ...]
) -> float | None:
    """The number at ``path``. A name that ``shape`` lacks is a mistake; one missing here is not."""
    found: Any = content
    known: Any = shape
    for i, name in enumerate(path):
        if name not in known:
            raise UnknownName(what, ".".join(path), (".".join((*path[:i], key)) for key in known))
        known = known[name]
        found = found.get(name) if isinstance(found, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return found


_METER = (
    "queries", "gradients", "forwards", "backwards", "tokens", "flops", "seconds", "memo_hits",
    "peak_memory_bytes", "method_seconds",
)  # fmt: skip
_EDGES = {"embed->0.0.q": 2.0, "0.1->1.2.k": 1.0}
_FAITHFULNESS = {
    name: {"value": 0.5, "circuit": 1.0, "empty": 0.0, "full": 2.0} for name in MEASURED_ABLATIONS
}
_AREAS = {name: {"cpr": 0.5, "cmd": 0.5} for name in MEASURED_ABLATIONS}
# A run that has everything a run can have. Metrics are tried on it when they are loaded, and
# what it lacks no metric may refer to.
EXAMPLE = Outcome(
    discovery={
        "scores": [[0.1, 0.9, 0.6], [0.2, 0.4, 0.8]],
        "selected": ["0.1", "1.2"],
        "edges": _EDGES,
        "selected_edges": list(_EDGES),
        "trace": [{"queries": 2, "scores": [[0.6, 0.5, 0.4], [0.3, 0.2, 0.1]]}],
        "info": {},
    },
    truth={
        "roles": {
            "writer": {"heads": ["0.1", "0.2"], "needed": 1, "sign": 1},
            "reader": {"heads": ["1.2"], "needed": 1, "sign": 1},
        },
        "edges": list(_EDGES),
        "family": [["0.1", "1.2"], ["0.2", "1.2"]],
        "faithfulness": 0.9,
        "source": "invented",
        "kind": "constructed",
        "contributions": {
            "heads": {"values": {"0.1": 0.5, "0.2": 0.2, "1.2": 0.3}},
            "edges": {"values": dict(zip(_EDGES, (0.7, 0.3), strict=True))},
        },
    },
    costs={stage: dict.fromkeys(_METER, 4) for stage in ("discovery", "training", "evaluation")},
    measurements={
        "faithfulness": _FAITHFULNESS,
        "mib": _AREAS,
        "completeness": dict.fromkeys(("mean", "max", "relative_mean", "relative_max"), 0.5),
        "minimality": dict.fromkeys(("min", "mean", "relative_min", "relative_mean"), 0.5),
        "tests": {
            "equivalence": {"share": 0.5, "p_value": 0.5},
            "independence": {"hsic": 0.5, "p_value": 0.5},
            "minimality": {"heads": {"0.1": {}, "1.2": {}}, "unnecessary": [], "p_value": 0.5},
            "sufficiency": {"share": 0.5, "p_value": 0.5},
            "partial_necessity": {"share": 0.5, "p_value": 0.5},
        },
        "edges": {
            "faithfulness": _FAITHFULNESS,
            "mib": _AREAS,
            "mib_greedy": _AREAS,
            "exact": _AREAS,
            "minimality": dict.fromkeys(("min", "mean", "relative_min", "relative_mean"), 0.5),
        },
    },
    batch_size=4,
)
