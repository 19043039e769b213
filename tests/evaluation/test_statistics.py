"""Statistics against published examples (Demšar 2006, R's p.adjust) and hand counts."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import stats

from circuitbench.core.errors import InvalidSpec
from circuitbench.evaluation import statistics as s

# Demšar 2006, table 6: ranks of C4.5, C4.5+m, C4.5+cf, C4.5+m+cf on 14 UCI data sets
DEMSAR = np.array(
    [
        [4, 3, 2, 1], [1, 2, 3, 4], [4, 1, 2, 3], [4, 1, 3, 2], [4, 2, 3, 1],
        [1, 2.5, 4, 2.5], [3, 2, 4, 1], [2.5, 2.5, 4, 1], [4, 3, 2, 1], [2.5] * 4,
        [4, 2.5, 1, 2.5], [3, 2, 4, 1], [4, 1, 2, 3], [3, 1, 4, 2],
    ]
)  # fmt: skip


def test_demsar_example() -> None:
    result = s.critical_difference(-DEMSAR)
    assert result.mean_ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert result.friedman == pytest.approx(9.28, abs=0.005)
    assert result.iman_davenport == pytest.approx(3.69, abs=0.005)
    assert result.difference == pytest.approx(1.25, abs=0.005)
    assert s.nemenyi_difference(4, 14, 0.10) == pytest.approx(1.12, abs=0.005)
    assert 0.01 < result.p_value < 0.05
    # the paper: at 0.05 Nemenyi tells no pair apart
    assert result.groups == ((3, 1, 2, 0),)
    assert s.critical_difference(-DEMSAR, 0.10).groups == ((3, 1, 2), (2, 0))


@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_nemenyi_quantiles_of_demsar_table_5(k: Any, q: Any) -> None:
    assert s.nemenyi_difference(k, 1) == pytest.approx(q * np.sqrt(k * (k + 1) / 6), abs=5e-3)


def test_friedman_without_ties_is_scipys() -> None:
    table = np.random.default_rng(0).normal(size=(8, 5))
    expected = stats.friedmanchisquare(*table.T)
    assert s.critical_difference(table).friedman == pytest.approx(expected.statistic)


def test_unanimous_order_is_certain() -> None:
    assert s.critical_difference(np.tile([3.0, 2.0, 1.0], (6, 1))).p_value == 0
    with pytest.raises(InvalidSpec, match="at least 2"):
        s.critical_difference(np.ones((5, 1)))


def test_holm_matches_r() -> None:
    # R: p.adjust(c(.01, .02, .03, .04, .05), "holm")
    assert s.holm(np.array([0.03, 0.01, 0.05, 0.02, 0.04])) == pytest.approx(
        [0.09, 0.05, 0.09, 0.08, 0.09]
    )
    assert s.holm(np.array([0.6, 0.9])) == pytest.approx([1, 1])
    assert s.holm(np.array([])).size == 0
    with pytest.raises(InvalidSpec):
        s.holm(np.array([np.nan]))


def test_interquartile_mean_cuts_a_quarter_at_each_end() -> None:
    assert s.interquartile_mean(np.array([100.0, 1, 2, 3, 4, 5, 6, -50])) == pytest.approx(3.5)
    assert s.interquartile_mean(np.array([1.0, 2, 9])) == 4
    with pytest.raises(InvalidSpec):
        s.interquartile_mean(np.array([1.0, np.nan]))


def test_interquartile_mean_is_scipys_trimmed_mean() -> None:
    values = np.random.default_rng(0).normal(size=(5, 23))
    assert s.interquartile_mean(values) == stats.trim_mean(values, 0.25, axis=None)
    assert (s.interquartile_mean(values, 1) == stats.trim_mean(values, 0.25, axis=1)).all()


def test_bootstrap_resamples_within_tasks_only() -> None:
    rng = np.random.default_rng(0)
    # tasks differ, runs do not: nothing varies although a plain bootstrap would
    assert s.bootstrap_interval([np.zeros(3), np.ones(5)], rng, np.mean) == (0.625, 0.625)
    x = np.random.default_rng(1).normal(size=200)
    low, high = s.bootstrap_interval([x], rng, np.mean)
    half = 1.96 * x.std() / np.sqrt(200)
    assert (low, high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.02)
    again = [s.bootstrap_interval([x], np.random.default_rng(3)) for _ in range(2)]
    assert again[0] == again[1]


def test_profile_weights_tasks_equally() -> None:
    strata = [np.array([0.1, 0.9]), np.array([0.5, 0.5, 0.5, 0.8])]
    profile = s.performance_profile(strata, np.array([0.0, 0.5, 0.85, 1.0]))
    assert profile == pytest.approx([1, (1 / 2 + 1 / 4) / 2, 1 / 4, 0])


def test_probability_of_improvement_counts_pairs() -> None:
    ours, theirs = [np.array([1.0, 3.0]), np.array([5.0])], [np.array([2.0, 3.0]), np.array([5.0])]
    # task 1: 3 > 2 wins, 3 = 3 half, of 4 pairs; task 2: a tie
    assert s.probability_of_improvement(ours, theirs) == pytest.approx((1.5 / 4 + 0.5) / 2)
    u = stats.mannwhitneyu(ours[0], theirs[0]).statistic
    assert s.probability_of_improvement(ours[:1], theirs[:1]) == pytest.approx(u / 4)
    with pytest.raises(InvalidSpec):
        s.probability_of_improvement(ours, theirs[:1])


def test_paired_test_counts_sign_flips() -> None:
    rng = np.random.default_rng(0)
    a = np.array([3.0, 2.0, 4.0, 5.0, 1.0])
    assert s.paired_test(a, np.zeros(5), rng) == 2 / 32
    assert s.paired_test(a, a, rng) == 1
    d = np.array([1.0, -2.0, 4.0])
    sums = [abs(np.dot(signs, d)) for signs in product([1, -1], repeat=3)]
    assert s.paired_test(d, np.zeros(3), rng) == np.mean(np.array(sums) >= 3)


def test_paired_test_beyond_enumeration_agrees_with_t() -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(0.3, 1, size=60)
    p = s.paired_test(d, np.zeros(60), rng)
    assert p == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.01)


@pytest.mark.parametrize("n", [5, 9, 40])
def test_paired_test_is_scipys_permutation_test(n: int) -> None:
    d = np.random.default_rng(n).normal(0.4, 1, size=n)
    theirs = stats.permutation_test(
        (d,), np.sum, permutation_type="samples", vectorized=True, n_resamples=20_000,
        rng=np.random.default_rng(1),
    )  # fmt: skip
    ours = s.paired_test(d, np.zeros(n), np.random.default_rng(0))
    # beyond 16 pairs both draw: 20,000 flips are good for 0.004 either side
    assert ours == pytest.approx(theirs.pvalue, abs=1e-12 if n <= 16 else 0.015)


def test_tests_against_several_share_their_flips_and_agree_with_single_ones() -> None:
    rng = np.random.default_rng(0)
    ours, others = rng.normal(0.3, 1, size=30), rng.normal(size=(4, 30))
    together = s.paired_tests(ours, others, np.random.default_rng(1))
    alone = [s.paired_test(ours, other, np.random.default_rng(1)) for other in others]
    assert together.tolist() == alone
    with pytest.raises(InvalidSpec, match="must match"):
        s.paired_tests(ours, others[:, 1:], rng)


def test_tied_with_best() -> None:
    rng = np.random.default_rng(0)
    base = np.linspace(0, 1, 12)
    table = np.stack([base, base + 0.3, base + 0.3 + 0.01 * np.tile([1, -1], 6), base - 1])
    assert s.tied_with_best(table, rng).tolist() == [False, True, True, False]
    assert s.tied_with_best(base[None], rng).tolist() == [True]


def test_resamples_draw_plantings_together_then_tasks_then_prompts() -> None:
    rng = np.random.default_rng(0)
    weights = s.resampling_weights(np.array([[0, 1, 2], [0, 1, 2], [7, 7, 7]]), rng, 4000)
    assert weights.sum(axis=(1, 2)) == pytest.approx(1)
    assert weights.mean(axis=0) == pytest.approx(np.full((3, 3), 1 / 9), abs=0.01)
    both = (weights[:, :2].sum(axis=2) > 0).all(axis=1)  # both tasks of the preset were drawn
    shares = weights[both, :2] / weights[both, :2].sum(axis=2, keepdims=True)
    assert shares[:, 0] == pytest.approx(shares[:, 1])


def test_what_was_drawn_apart() -> None:
    fixed, drawn = [5, 5], [0, 1]
    assert s.units_of(np.array([fixed])).tolist() == [[0, 1]]
    assert s.units_of(np.array([fixed, fixed])).tolist() == [[0, 0], [1, 1]]
    assert s.units_of(np.array([drawn, drawn, fixed])).tolist() == [[0, 1], [0, 1], [2, 2]]


def test_disjoint_groups_and_rank_transfer() -> None:
    assert s.disjoint_groups([(0, 1), (0.5, 2), (1.5, 3), (4, 5)]) == 3
    assert s.disjoint_groups([]) == 0
    ours = np.array([[3.0, 2, 1], [3, 2, 1], [1, 2, 3]])
    same = s.rank_transfer(ours, ours)
    assert same is not None
    assert [same[0], *same[1]] == pytest.approx([1, 1, 1])
    found = s.rank_transfer(ours, ours[:1].repeat(3, axis=0))
    assert found is not None
    assert found[1][0] < 0 < found[1][1]
    assert s.rank_transfer(ours[:, :2], ours[:, :2]) is None
