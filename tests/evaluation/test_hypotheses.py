"""Shi et al.'s tests on arrays: p-values counted by hand, and their error rates."""

import numpy as np
import pytest
from scipy import stats

from circuitbench.evaluation.without_truth import hypotheses as hy


def test_equivalence_p_value_by_hand() -> None:
    # 4 prompts, circuit always worse: t = 1/2, only k = 0 or 4 wins are as extreme
    result = hy.equivalence(np.zeros(4), np.ones(4), epsilon=0.1)
    assert result["p_value"] == pytest.approx(0.6**4 + 0.4**4)
    assert result["share"] == 0
    # 3 of 4: k in {0, 1, 3, 4}
    result = hy.equivalence(np.array([1.0, 1, 1, -1]), np.zeros(4))
    assert result["p_value"] == pytest.approx(1 - 6 * 0.6**2 * 0.4**2)


def test_equivalence_ties_are_half_wins() -> None:
    result = hy.equivalence(np.array([1e-6, -1e-6, 2.0, -2.0]), np.zeros(4), resolution=1e-4)
    assert result == {"share": 0.5, "ties": 2, "n": 4, "p_value": 1.0}


def test_equivalence_keeps_its_level_inside_the_null() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(stats.norm.ppf(0.6), 1, size=(400, 60))  # P(win) on the edge, 0.6
    rejected = [hy.equivalence(d, np.zeros(60))["p_value"] < 0.05 for d in draws]
    assert np.mean(rejected) < 0.09


def test_the_binomial_is_that_of_scipy() -> None:
    for n, p in ((1, 0.5), (29, 0.9), (64, 0.6), (2000, 0.6)):
        expected = stats.binom.pmf(np.arange(n + 1), n, p)
        assert hy.binomial(n, p) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_hsic_by_hand() -> None:
    # two points: sigma 1 for both, K = L = [[1, e], [e, 1]], e = exp(-1/2)
    e = np.exp(-0.5)
    # centred K has entries +-(1 - e)/2; trace of its product with L is (1 - e)^2
    assert hy.hsic(np.array([0.0, 1.0]), np.array([5.0, 4.0])) == pytest.approx((1 - e) ** 2)


def test_independence_finds_dependence_that_is_not_correlation() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=80)
    assert abs(np.corrcoef(x, x**2)[0, 1]) < 0.3
    assert hy.independence(x**2, x, rng, 200)["p_value"] < 0.01
    assert hy.independence(rng.normal(size=80), x, rng, 200)["p_value"] > 0.05


def test_a_constant_is_independent_of_anything() -> None:
    result = hy.independence(np.zeros(5) + 1e-6, np.arange(5.0), np.random.default_rng(0))
    assert (result["hsic"], result["p_value"]) == (0, 1)
    assert "same on every prompt" in result["note"]


def test_minimality_p_values_by_hand() -> None:
    random = np.arange(10.0)
    # exceeding all, 7 and none of ten: P(Bin(10, .9) <= 10, 7, 0), then Holm over three
    p = hy.minimality_p_values(np.array([99.0, 6.5, -1.0]), random)
    seven = stats.binom.cdf(7, 10, 0.9)
    assert p == pytest.approx([1, 2 * seven, 3 * 0.1**10])


def test_better_than_random_by_hand() -> None:
    result = hy.better_than_random(5.0, np.array([1.0, 2, 3, 5]), quantile=0.5)
    assert result["share"] == 0.75  # the tie is no win
    assert result["p_value"] == pytest.approx(5 / 16)
    assert hy.better_than_random(0.0, np.ones(3))["p_value"] == 1
