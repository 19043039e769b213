"""Ranking metrics: hand-computed values, scikit-learn without ties, brute force with ties."""

from itertools import combinations, pairwise, permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from circuitbench.core.errors import InvalidSpec, RunFailed
from circuitbench.evaluation.against_truth import ranking as rk


def ranked(scores: Any, relevant: Any) -> Any:
    return rk.tied_ranking(np.array(scores, float), np.array(relevant, bool))


def test_hand_computed() -> None:
    r = ranked([5, 4, 3, 2, 1], [1, 0, 1, 0, 0])
    assert rk.auroc(r) == pytest.approx(5 / 6)
    assert rk.average_precision(r) == pytest.approx((1 + 2 / 3) / 2)
    assert rk.r_precision(r) == 0.5
    assert rk.recall_at(r, 3) == 1.0
    assert rk.ndcg(r) == pytest.approx((1 + 0.5) / (1 + 1 / np.log2(3)))
    # hits in the top two of five with two true: P(at least one) = 1 - C(3,2)/C(5,2)
    assert rk.hits_p_value(r, 2) == pytest.approx(0.7)
    # rank sums of 2 of 5 at least 5 + 3: {5,3} and {5,4} of ten pairs
    p, how = rk.auroc_p_value(r)
    assert p == pytest.approx(0.2)
    assert how == "exact"


cases = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=6)


@given(cases)
@settings(max_examples=60, deadline=None)
def test_ties_are_the_mean_over_all_ways_to_break_them(items: Any) -> None:
    scores = np.array([s for s, _ in items], float)
    relevant = np.array([r for _, r in items])
    if not relevant.any() or relevant.all():
        return
    r = ranked(scores, relevant)
    values = []
    for order in permutations(range(len(items))):
        if all(scores[a] >= scores[b] for a, b in pairwise(order)):
            one = ranked(-np.argsort(order), relevant)
            values.append(
                [rk.auroc(one), rk.average_precision(one), rk.r_precision(one), rk.ndcg(one)]
            )
    expected = np.mean(values, axis=0)
    found = [rk.auroc(r), rk.average_precision(r), rk.r_precision(r), rk.ndcg(r)]
    assert found == pytest.approx(expected)


@given(cases)
@settings(max_examples=60, deadline=None)
def test_p_values_count_every_placement_of_the_truth(items: Any) -> None:
    scores = np.array([s for s, _ in items], float)
    relevant = np.array([r for _, r in items])
    if not relevant.any() or relevant.all():
        return
    r = ranked(scores, relevant)
    k, n = int(relevant.sum()), len(items)
    placements = []
    for chosen in combinations(range(n), k):
        other = np.isin(np.arange(n), chosen)
        placements.append(ranked(scores, other))
    auc = np.array([rk.auroc(p) for p in placements])
    hits = np.array([rk.hits_at(p, k) for p in placements])
    assert rk.auroc_p_value(r)[0] == pytest.approx(np.mean(auc >= rk.auroc(r) - 1e-9))
    assert rk.hits_p_value(r, k) == pytest.approx(np.mean(hits >= rk.hits_at(r, k) - 1e-9))


def test_agrees_with_scikit_learn_without_ties() -> None:
    rng = np.random.default_rng(0)
    scores, relevant = rng.normal(size=144), rng.random(144) < 0.2
    r = ranked(scores, relevant)
    assert rk.auroc(r) == pytest.approx(sk.roc_auc_score(relevant, scores))
    assert rk.average_precision(r) == pytest.approx(sk.average_precision_score(relevant, scores))
    assert rk.ndcg(r) == pytest.approx(sk.ndcg_score([relevant], [scores]))


def test_auroc_p_value_agrees_with_mann_whitney_and_its_normal_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    relevant = rng.random(144) < 0.2
    scores = rng.normal(size=144) + 0.3 * relevant
    a, b = scores[relevant], scores[~relevant]
    exact, how = rk.auroc_p_value(ranked(scores, relevant))
    assert how == "exact"
    assert exact == pytest.approx(
        stats.mannwhitneyu(a, b, alternative="greater", method="exact").pvalue
    )
    # the mirrored question (more true than false items) goes through the complement
    flipped, _ = rk.auroc_p_value(ranked(-scores, ~relevant))
    assert flipped == pytest.approx(exact)
    monkeypatch.setattr(rk, "EXACT_LIMIT", 0)
    tied = np.round(scores * 2)
    for values, truth in ((tied, relevant), (-tied, ~relevant)):
        normal, how = rk.auroc_p_value(ranked(values, truth))
        asymptotic = stats.mannwhitneyu(
            values[truth], values[~truth], alternative="greater", method="asymptotic"
        )
        assert how == "normal"
        assert normal == pytest.approx(asymptotic.pvalue, rel=0.02)


def test_auroc_p_value_of_many_items_stays_in_range() -> None:
    # All that is listed is true, the rest is tied: only a draw with all the listed is as good.
    relevant, scores = np.arange(1200) < 600, np.zeros(1200)
    scores[:100] = 1
    p, how = rk.auroc_p_value(ranked(scores, relevant))
    assert how == "exact"
    assert p == pytest.approx(stats.hypergeom.sf(99, 1200, 600, 100), rel=1e-9)


def test_chance_is_the_mean_over_random_rankings() -> None:
    relevant = np.array([1, 1, 0, 0, 0, 0], bool)
    chance = rk.ranking_metrics(np.arange(6.0), relevant)["chance"]
    ways = [ranked(np.arange(6), np.isin(np.arange(6), c)) for c in combinations(range(6), 2)]
    assert chance["auroc"] == 0.5
    assert chance["average_precision"] == pytest.approx(
        np.mean([rk.average_precision(w) for w in ways])
    )
    assert chance["ndcg"] == pytest.approx(np.mean([rk.ndcg(w) for w in ways]))
    assert chance["r_precision"] == pytest.approx(1 / 3)
    assert chance["recall_at"]["5"] == pytest.approx(5 / 6)


def test_constant_scores_give_exactly_chance() -> None:
    result = rk.ranking_metrics(np.zeros((4, 4)), np.eye(4, dtype=bool))
    for name in ("auroc", "average_precision", "r_precision", "ndcg", "recall_at"):
        assert result[name] == result["chance"][name]
    assert result["p_value"]["auroc"] == pytest.approx(1)
    assert result["p_value"]["r_precision"] == pytest.approx(1)


@given(st.permutations(range(9)), st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_storage_order_and_monotone_maps_change_nothing(order: Any, n_true: Any) -> None:
    rng = np.random.default_rng(n_true)
    scores, relevant = rng.integers(0, 4, 9).astype(float), np.arange(9) < n_true
    moved = rk.ranking_metrics(np.exp(scores[list(order)]), relevant[list(order)])
    assert moved == rk.ranking_metrics(scores, relevant)


def test_undefined_values_are_none_with_a_reason() -> None:
    empty = rk.ranking_metrics(np.arange(4.0), np.zeros(4, bool))
    assert empty["auroc"] is None
    assert empty["average_precision"] is None
    assert "none" in empty["undefined"]["all"]
    full = rk.ranking_metrics(np.arange(4.0), np.ones(4, bool))
    assert full["auroc"] is None
    assert full["average_precision"] == 1.0
    assert "auroc" in full["undefined"]


def test_bad_values_are_refused() -> None:
    with pytest.raises(RunFailed, match="1 of 2 scores"):
        rk.tied_ranking(np.array([1.0, np.nan]), np.array([True, False]))
    with pytest.raises(InvalidSpec):
        rk.tied_ranking(np.zeros(3), np.zeros(2, bool))
