"""Whether one number predicts another, on arrays small enough to count by hand."""

import numpy as np
import pytest

from circuitbench.evaluation import prediction as p
from circuitbench.evaluation.statistics import resampling_weights

NONE = np.empty((4, 0))
TRUTH = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5], [0.9, 0.8, 0.9, 0.8]])


def weights(tasks: int = 2, seeds: int = 2) -> np.ndarray:
    design = np.arange(tasks * seeds).reshape(tasks, seeds)
    drawn = resampling_weights(design, np.random.default_rng(0), 200)
    return drawn.reshape(len(drawn), -1).T


def value(found: p.Spread | None) -> float:
    assert found is not None
    return found.value


def test_what_orders_methods_alike_predicts_perfectly_whatever_its_scale() -> None:
    for measure in (p.over_methods, p.within_places):
        found = measure(100 + TRUTH**3, TRUTH, weights())
        assert value(found) == pytest.approx(1)
        assert found is not None
        assert found.interval is None or found.interval == pytest.approx((1, 1))
        assert value(measure(-TRUTH, TRUTH, NONE)) == pytest.approx(-1)
    assert value(p.over_everything(TRUTH, TRUTH, weights())) == pytest.approx(1)


def test_a_constant_predicts_nothing_and_a_constant_truth_asks_nothing() -> None:
    same = np.ones_like(TRUTH)
    for measure in (p.over_methods, p.within_places, p.over_everything):
        assert value(measure(same, TRUTH, NONE)) == 0
        assert measure(TRUTH, same, NONE) is None
    half = TRUTH.copy()
    half[:, :2] = 1.0  # these runs say nothing; the others are right
    assert value(p.within_places(half, half, NONE)) == pytest.approx(1)


def test_a_shift_by_place_spoils_values_elsewhere_but_no_choice() -> None:
    shifted = TRUTH + np.array([0.0, 10, 20, 30])
    assert value(p.within_places(shifted, TRUTH, NONE)) == pytest.approx(1)
    assert value(p.over_everything(shifted, TRUTH, NONE)) < 0.6


def test_means_are_over_the_runs_that_have_both() -> None:
    proxy = TRUTH.copy()
    proxy[0, 0] = np.nan  # one of four: it stays
    assert value(p.over_methods(proxy, TRUTH, NONE)) == pytest.approx(1)
    odd = np.vstack([TRUTH, [0.95, 0.95, 0.95, 0.95]])
    proxy = odd.copy()
    proxy[3] = [np.nan, np.nan, np.nan, 0.0]  # it looks worst, but is there in too few to count
    assert value(p.over_methods(proxy, odd, NONE)) == pytest.approx(1)
    assert value(p.within_places(proxy, odd, NONE)) < 1
    assert p.over_methods(proxy[:2], odd[:2], NONE) is None  # two methods are too few


def test_choosing_by_it_earns_what_the_preferred_have() -> None:
    assert value(p.chosen_by(TRUTH, TRUTH, NONE)) == pytest.approx(0.85)
    assert value(p.chosen_by(-TRUTH, TRUTH, NONE)) == pytest.approx(0.25)
    assert value(p.chosen_by(np.ones_like(TRUTH), TRUTH, NONE)) == pytest.approx(TRUTH.mean())


def test_noise_is_what_neither_method_nor_seed_explains() -> None:
    rng = np.random.default_rng(0)
    methods = rng.normal(size=(60, 1, 1)) * 2.0
    seeds = rng.normal(size=(1, 40, 5)) * 9.0  # alike for all methods: no noise
    found = p.noise(methods + seeds + rng.normal(size=(60, 40, 5)) * 0.5)
    assert found is not None
    assert found.reseed == pytest.approx(0.5, rel=0.05)
    assert found.between == pytest.approx(methods.std(ddof=1), rel=0.05)
    assert found.reliability == pytest.approx(
        found.between**2 / (found.between**2 + 0.25), abs=0.02
    )
    assert p.noise(np.ones((3, 2, 1))) is None  # one seed says nothing of noise
    nothing = p.noise(np.ones((3, 2, 2)))
    assert nothing == p.Noise(0.0, 0.0, 0.0)


def test_pairs_are_told_apart_by_intervals_of_their_difference() -> None:
    table = np.array([[1.0, 1.1, 0.9, 1.0], [0.0, 0.1, 0.2, 0.1], [0.0, 0.3, 0.0, 0.1]])
    assert p.told_apart(table, weights()).tolist() == [1, 1, 0]
    assert p.told_apart(-table, weights()).tolist() == [-1, -1, 0]


def test_intervals_hold_the_estimate_and_narrow_with_more_places() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(8, 90))
    proxy = truth + rng.normal(size=truth.shape)
    few = p.within_places(proxy[:, :6], truth[:, :6], weights(3, 2))
    many = p.within_places(proxy, truth, weights(45, 2))
    assert few is not None
    assert many is not None
    assert few.interval is not None
    assert many.interval is not None
    assert many.interval[0] < many.value < many.interval[1]
    assert np.ptp(many.interval) < np.ptp(few.interval)
