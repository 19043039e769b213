"""Metrics of a truth with degrees, against values worked out by hand."""

import math
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from circuitbench.core.circuit import Circuit, Head, Role
from circuitbench.core.errors import InvalidSpec
from circuitbench.evaluation.against_truth.graded import (
    graded_ndcg,
    rank_correlation,
    weighted_recall,
)
from circuitbench.evaluation.contributions import head_contributions
from circuitbench.evaluation.metrics import values_of
from circuitbench.evaluation.outcome import EXAMPLE, Outcome
from circuitbench.results import truth_of

DEGREES = np.array([[0.5, 0.0], [0.3, 0.2]])


def test_ndcg_by_hand() -> None:
    assert graded_ndcg(np.array([[4.0, 1.0], [3.0, 2.0]]), DEGREES) == pytest.approx(1.0)
    worst = (0.5 / math.log2(5) + 0.3 / math.log2(4) + 0.2 / math.log2(3)) / (
        0.5 + 0.3 / math.log2(3) + 0.2 / 2
    )
    assert graded_ndcg(np.array([[1.0, 4.0], [2.0, 3.0]]), DEGREES) == pytest.approx(worst)


def test_ndcg_of_ties_is_the_mean_over_their_orders() -> None:
    first = graded_ndcg(np.array([[4.0, 1.0], [3.0, 2.0]]), DEGREES)
    second = graded_ndcg(np.array([[3.0, 1.0], [4.0, 2.0]]), DEGREES)
    tied = graded_ndcg(np.array([[3.0, 1.0], [3.0, 2.0]]), DEGREES)
    assert first is not None
    assert second is not None
    assert tied == pytest.approx((first + second) / 2)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_ndcg_is_between_zero_and_one(degrees: list[float], rng: Any) -> None:
    value = graded_ndcg(np.array([rng.random() for _ in degrees]), np.array(degrees))
    assert (value is None) == (sum(degrees) == 0) or max(degrees) < 1e-300
    assert value is None or -1e-9 <= value <= 1 + 1e-9


def test_weighted_recall_and_rank_correlation() -> None:
    chosen = np.array([[True, True], [False, False]])
    assert weighted_recall(chosen, DEGREES) == pytest.approx(0.5)
    assert weighted_recall(chosen, np.zeros((2, 2))) is None
    assert rank_correlation(np.array([[3.0, 9.0], [2.0, 1.0]]), DEGREES) == pytest.approx(1.0)
    assert rank_correlation(np.array([[1.0, 9.0], [2.0, 3.0]]), DEGREES) == pytest.approx(-1.0)
    assert rank_correlation(np.ones((2, 2)), DEGREES) is None


def _game(value: Callable[[Iterable[int]], float], n: int) -> Any:
    """An oracle of one layer whose damage is ``value`` of the ablated heads."""

    def query(masks: torch.Tensor, control: bool) -> Any:
        lost = [value(np.flatnonzero(~mask[0].numpy())) for mask in masks]
        return SimpleNamespace(task=torch.tensor(lost))

    return SimpleNamespace(shape=(1, n), ablation="zero", query=query)


def _truth(n: int) -> Circuit:
    return Circuit({"all": Role(tuple(Head(0, i) for i in range(n)))}, "invented", "constructed")


def test_contributions_of_an_additive_game_are_its_weights() -> None:
    weights = np.array([4.0, 3.0, -1.0, 2.0])
    found = head_contributions(
        _game(lambda off: float(weights[list(off)].sum()), 4), _truth(4), np.random.default_rng(0)
    )
    assert list(found.values.values()) == pytest.approx(weights / 8)
    assert max(found.errors.values()) == pytest.approx(0.0, abs=1e-9)
    assert found.worth == pytest.approx(8.0)


def test_contributions_of_stand_ins_share_what_either_would_do() -> None:
    def value(off: Iterable[int]) -> float:  # heads 0 and 1 stand in for each other, 2 is alone
        gone = set(off)
        return float({0, 1} <= gone) + float(2 in gone)

    found = head_contributions(_game(value, 3), _truth(3), np.random.default_rng(0), pairs=200)
    assert list(found.values.values()) == pytest.approx([0.25, 0.25, 0.5], abs=0.05)
    assert sum(found.values.values()) == pytest.approx(1.0)


def test_a_circuit_that_does_nothing_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="changes nothing"):
        head_contributions(_game(lambda off: 0.0, 3), _truth(3), np.random.default_rng(0))


def test_edges_are_graded_by_what_they_contribute() -> None:
    first, second = EXAMPLE.discovery["edges"]  # contribute 0.7 and 0.3

    def graded(
        scores: dict[str, float], selected: list[str] | None, told: Any = EXAMPLE.contributions
    ) -> Any:
        found = {**EXAMPLE.discovery, "edges": scores, "selected_edges": selected}
        truth = truth_of(EXAMPLE.truth) | {"contributions": told}
        return Outcome(found, truth, EXAMPLE.costs, EXAMPLE.measurements)

    best, _ = values_of(graded({first: 2.0, second: 1.0}, [first]))
    assert best["edge_ndcg"] == pytest.approx(1)
    assert best["edge_weighted_recall"] == pytest.approx(0.7)
    worse, _ = values_of(graded({first: 1.0, second: 2.0}, None))
    discounted = 1 / math.log2(3)
    assert worse["edge_ndcg"] == pytest.approx((0.3 + 0.7 * discounted) / (0.7 + 0.3 * discounted))
    assert "edge_weighted_recall" not in worse
    heads = {"heads": EXAMPLE.contributions["heads"]}
    assert "edge_ndcg" not in values_of(graded({first: 1.0}, None, heads))[0]
    strange = {**heads, "edges": {"values": {"0.0->1.1.k": 1.0}}}
    with pytest.raises(InvalidSpec, match="not in the truth"):
        _ = graded({first: 1.0}, None, strange).edge_degrees


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=3, max_size=9))
def test_rank_correlation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    scores, degrees = np.array(pairs, float).T
    found = rank_correlation(scores, degrees)
    if found is not None:
        assert found == pytest.approx(spearmanr(scores, degrees).statistic)
