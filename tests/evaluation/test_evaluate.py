"""Scores of whole discoveries: committed sets, roles, edges, and what must be refused."""

import json
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats

from circuitbench.core.circuit import Circuit, Edge, Head, Role
from circuitbench.core.discovery import Discovery
from circuitbench.core.edges import Graph
from circuitbench.core.errors import InvalidSpec, RunFailed
from circuitbench.evaluation import evaluate
from circuitbench.evaluation.against_truth.edges import edge_metrics
from circuitbench.evaluation.against_truth.roles import found_distribution, role_metrics, top_set
from circuitbench.evaluation.against_truth.selection import jaccard, selection_metrics

MOVERS = Role((Head(1, 0), Head(1, 1), Head(1, 2)), needed=1)
MAKERS = Role((Head(0, 0), Head(0, 1)))
TRUTH = Circuit({"mover": MOVERS, "maker": MAKERS}, source="test", kind="constructed")


def grid(*heads: Any) -> Any:
    out = np.zeros((2, 4), bool)
    for head in heads:
        out[head] = True
    return out


def test_selection_by_hand() -> None:
    selected, relevant = np.zeros(10, bool), np.zeros(10, bool)
    selected[:4], relevant[2:5] = True, True  # overlap 2, union 5
    result = selection_metrics(selected, relevant)
    assert (result["size"], result["overlap"]) == (4, 2)
    assert result["precision"] == 0.5
    assert result["recall"] == pytest.approx(2 / 3)
    assert result["f1"] == pytest.approx(4 / 7)
    assert result["jaccard"] == pytest.approx(2 / 5)
    assert result["mcc"] == pytest.approx((2 * 5 - 2 * 1) / np.sqrt(4 * 3 * 7 * 6))
    overlaps = np.array([len({2, 3, 4} & set(c)) for c in combinations(range(10), 4)])
    assert result["p_value"] == pytest.approx(np.mean(overlaps >= 2))
    assert result["chance"]["jaccard"] == pytest.approx(np.mean(overlaps / (7 - overlaps)))
    assert result["chance"]["f1"] == pytest.approx(np.mean(2 * overlaps / 7))
    assert result["chance"]["precision"] == pytest.approx(0.3)


def test_empty_and_full_selections_have_reasons_not_nan() -> None:
    relevant = np.arange(6) < 2
    empty = selection_metrics(np.zeros(6, bool), relevant)
    assert empty["precision"] is None
    assert empty["mcc"] is None
    assert (empty["recall"], empty["f1"], empty["jaccard"]) == (0, 0, 0)
    assert set(empty["undefined"]) == {"precision", "mcc"}
    full = selection_metrics(np.ones(6, bool), relevant)
    assert full["recall"] == 1
    assert full["mcc"] is None
    neither = selection_metrics(np.zeros(6, bool), np.zeros(6, bool))
    assert neither["f1"] is None
    assert jaccard(set(), set()) is None


def test_one_redundant_copy_is_enough_but_shared_work_needs_all() -> None:
    selected = grid((1, 2), (0, 0), (0, 3))
    roles, groups = role_metrics(selected.astype(float), selected, TRUTH.roles)
    assert roles["mover"]["selected"]["recall"] == pytest.approx(1 / 3)
    assert roles["mover"]["selected"]["found"] == 1
    assert roles["maker"]["selected"]["found"] == 0
    assert groups is not None
    assert groups["selected"]["group_recall"] == 0.5
    assert groups["selected"]["needed_recall"] == pytest.approx((1 + 1) / (1 + 2))
    # a random set of 3 of 8 heads holds one of the 3 movers unless all come from the other 5
    assert roles["mover"]["selected"]["chance"]["found"] == pytest.approx(1 - 10 / 56)


def test_role_ties_across_the_cut_give_a_probability() -> None:
    scores = np.zeros((2, 4))
    scores[0, :] = 1.0  # four sure, the fifth place is tied among layer 1
    roles, _ = role_metrics(scores, scores > 0, TRUTH.roles)
    assert roles["maker"]["top_r"]["found"] == 1
    assert roles["mover"]["top_r"]["found"] == pytest.approx(3 / 4)
    assert roles["mover"]["top_r"]["recall"] == pytest.approx(1 / 4)
    # movers against the heads of no role: two above, one tied
    assert roles["mover"]["ranking"]["auroc"] == pytest.approx(0.5 / 3)


def test_an_unlisted_true_edge_is_ranked_last_not_found() -> None:
    truth = frozenset({Edge("0.0", "1.0.k"), Edge("1.0", "logits")})
    result = edge_metrics({Edge("0.0", "1.0.k"): 2.0, Edge("embed", "0.0.q"): 1.0}, truth, 2, 1)
    n = len(Graph(2, 1, mlps=False).edges)
    assert (result["n_items"], result["n_truth_listed"]) == (n, 1)
    # one true edge above n - 2 false ones; the other below one and tied with n - 3
    assert result["auroc"] == pytest.approx((1 + (n - 3) / 2 / (n - 2)) / 2)
    with pytest.raises(RunFailed, match=r"1\.0->0\.0\.q"):
        edge_metrics({Edge("1.0", "0.0.q"): 1.0}, truth, 2, 1)
    # the truth says nothing of MLPs, so their edges are no items
    more = edge_metrics({Edge("0.0", "1.0.k"): 2.0, Edge("m0", "logits"): 9.0}, truth, 2, 1)
    assert (more["n_items"], more["n_left_out"], more["recall_at"]["1"]) == (n, 1, 0.5)
    with pytest.raises(RunFailed, match="finite"):
        edge_metrics({Edge("0.0", "1.0.k"): float("inf")}, truth, 2, 1)


def test_evaluate_is_json_and_perfect_for_the_truth() -> None:
    perfect = Discovery(grid(*TRUTH.heads).astype(float), TRUTH.heads)
    before = perfect.scores.copy()
    result = evaluate(perfect, TRUTH)
    json.dumps(result, allow_nan=False)
    assert result["ranking"]["auroc"] == result["ranking"]["average_precision"] == 1
    assert result["selection"]["f1"] == result["selection"]["mcc"] == 1
    assert result["role_groups"]["selected"]["group_recall"] == 1
    assert result["edges"] is None
    assert (perfect.scores == before).all()


@pytest.mark.parametrize(
    ("scores", "selected", "message"),
    [
        (np.zeros(3), frozenset(), "shape"),
        ([[1.0], [1.0, 2.0]], frozenset(), "shape"),
        (np.full((2, 4), np.nan), frozenset(), r"head 0\.0 is nan"),
        (np.zeros((2, 4)), frozenset({Head(5, 0)}), r"5\.0"),
        ([["a"] * 4] * 2, frozenset(), "not numbers"),
    ],
)
def test_a_broken_discovery_is_a_failed_run(scores: Any, selected: Any, message: str) -> None:
    with pytest.raises(RunFailed, match=message):
        evaluate(Discovery(scores, selected), TRUTH)


def test_a_truth_outside_the_model_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="outside"):
        evaluate(Discovery(np.zeros((1, 4)), frozenset()), TRUTH)


def test_a_role_across_a_tie_is_hypergeometric() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, members = rng.integers(0, 4, (4, 6)), rng.random((4, 6)) < 0.3
        top = top_set(scores, int(rng.integers(1, 20)))
        found = found_distribution(members, top)
        if top.tied is not None:
            sure, tied = (members & top.sure).sum(), members & top.tied
            counts = np.arange(members.sum() + 1) - sure
            expected = stats.hypergeom.pmf(counts, top.tied.sum(), tied.sum(), top.places)
            assert found == pytest.approx(expected)
        assert found.sum() == pytest.approx(1)
