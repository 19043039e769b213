"""Quality against queries, redundancy of pairs, and agreement of repeated discoveries."""

import json
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from circuitbench.checks.redundancy import super_additivity
from circuitbench.core.circuit import Circuit, Head, Role
from circuitbench.core.discovery import Discovery, TracePoint
from circuitbench.core.errors import InvalidSpec, RunFailed
from circuitbench.evaluation import evaluate
from circuitbench.evaluation.against_truth import efficiency as ef
from circuitbench.evaluation.without_truth.stability import (
    agreement,
    pair_interval,
    rank_correlation,
    spread,
)

TRUE = np.array([[1, 0], [0, 0]], bool)
GOOD, BAD = TRUE.astype(float), 1.0 - TRUE


def test_area_on_a_log_axis_by_hand() -> None:
    # chance .2 for the first of two decades, then .8
    assert ef.area_on_log_axis([10], [0.8], 0.2, 100) == pytest.approx(0.5)
    # a free answer is worth its quality, a late one nothing but chance
    assert ef.area_on_log_axis([0], [0.8], 0.2, 100) == pytest.approx(0.8)
    assert ef.area_on_log_axis([1000], [0.8], 0.2, 100) == pytest.approx(0.2)
    assert ef.area_on_log_axis([10, 1000], [0.8, 0.1], 0.2, 100) == pytest.approx(0.5)
    with pytest.raises(InvalidSpec, match="rising"):
        ef.area_on_log_axis([5, 5], [1, 1], 0, 100)


def test_target_is_the_attainable_recall_not_the_runs_own() -> None:
    trace = [TracePoint(10, BAD), TracePoint(40, GOOD)]
    result = ef.efficiency_metrics(trace, GOOD, 50, TRUE)
    assert result["queries"] == [10, 40, 50]
    assert result["queries_to_90"] == 40
    assert result["horizon"] == 400
    assert result["curve"]["average_precision"] == [0.25, 1, 1]
    assert ef.efficiency_metrics([], BAD, 50, TRUE)["queries_to_90"] is None


def test_no_cost_no_curve() -> None:
    assert "trace" in ef.efficiency_metrics([], GOOD, None, TRUE)["undefined"]
    assert ef.efficiency_metrics([], GOOD, 5, np.zeros((2, 2), bool))["area"] is None


def test_evaluate_carries_the_curve_and_refuses_a_broken_trace() -> None:
    truth = Circuit({"x": Role((Head(0, 0),))}, source="test", kind="constructed")
    found = Discovery(GOOD, frozenset(), trace=[TracePoint(3, GOOD.tolist())])
    result = evaluate(found, truth, queries=4)
    assert result["efficiency"]["queries"] == [3, 4]
    json.dumps(result, allow_nan=False)
    with pytest.raises(RunFailed):
        evaluate(Discovery(GOOD, frozenset(), trace=[TracePoint(3, GOOD * np.nan)]), truth)


class PairOracle:
    """0.0 and 0.1 back each other up (4 together); 1.0 works alone (2); 1.1 does nothing."""

    n_layers, n_heads, ablation = 2, 2, "zero"

    def draw(self, seed: int) -> Any:
        return SimpleNamespace(clean=lambda b, part: np.full(3, 6.0))

    def query(self, masks: Any, **kwargs: Any) -> Any:
        a, b, c, _ = masks.flatten(1).T
        damage = 6 - (4.0 * (a | b) + 2.0 * c)
        return SimpleNamespace(per_prompt_task=damage[:, None].expand(-1, 3).to(torch.float32))


def test_super_additivity_finds_the_backup_pair() -> None:
    roles = {"copy": Role((Head(0, 0), Head(0, 1)), needed=1), "solo": Role((Head(1, 0),))}
    truth = Circuit(roles, source="test", kind="constructed")
    oracle: Any = PairOracle()
    result = super_additivity(oracle, truth, np.random.default_rng(0))
    assert result["inside"] == {"copy": {"mean": 4.0, "n_pairs": 1}}
    assert result["across"] == {"copy|solo": {"mean": 0.0, "n_pairs": 2}}
    assert (result["scale"], result["relative_across"]) == (6, 0)
    assert result["relative_inside"] == pytest.approx(4 / 6)


def discovery(scores: Any, *selected: Any) -> Any:
    return Discovery(np.array(scores, float), frozenset(Head(*h) for h in selected))


def test_agreement_by_hand() -> None:
    a = discovery([[3, 2], [1, 0]], (0, 0), (0, 1))
    b = discovery([[2, 3], [1, 0]], (0, 1))
    result = agreement([a, b])
    assert result["jaccard"] == 0.5
    assert result["rank_correlation"] == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert result["selected_share"] == [[0.5, 1], [0, 0]]
    assert agreement([a, a, a])["rank_correlation"] == pytest.approx(1)
    assert agreement([discovery([[1, 2]]), discovery([[1, 2]])])["jaccard"] == 1
    with pytest.raises(InvalidSpec):
        agreement([a])


def test_a_constant_ranking_is_not_averaged_over() -> None:
    a, flat = discovery([[3, 2]]), discovery([[1, 1]])
    assert rank_correlation(a.scores, flat.scores) is None
    result = agreement([a, a, flat])
    assert result["rank_correlation"] is None
    assert "equal scores" in result["undefined"]["rank_correlation"]


def test_intervals_over_answers() -> None:
    # Two camps: answers 0-4 agree, 5-9 agree, and the camps do not.
    pairs = combinations(range(10), 2)
    values = [float((i < 5) == (j < 5)) for i, j in pairs]
    interval = pair_interval(values, 10, np.random.default_rng(0))
    assert interval is not None
    low, high = interval
    assert low <= np.mean(values) <= high
    assert pair_interval([1.0] * 45, 10, np.random.default_rng(0)) == pytest.approx([1, 1])
    assert pair_interval([0.5], 2, np.random.default_rng(0)) is None


def test_the_spread_of_a_metric_over_answers() -> None:
    found = spread([0.0, 1.0, 0.5], np.random.default_rng(0))
    assert found is not None
    assert (found["mean"], found["sd"], found["least"], found["most"]) == (0.5, 0.5, 0.0, 1.0)
    assert found["interval"][0] < 0.5 < found["interval"][1]
    assert spread([0.1, None], np.random.default_rng(0)) is None
