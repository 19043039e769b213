"""Truth-free metrics on small made-up models whose every value can be computed by hand."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from circuitbench.core.circuit import Head
from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import InvalidSpec, RunFailed
from circuitbench.evaluation.metrics import metric
from circuitbench.evaluation.outcome import Outcome
from circuitbench.evaluation.without_truth import faithfulness as fn
from circuitbench.evaluation.without_truth.measurements import (
    QUICK,
    MeasurementSettings,
    circuit_tests,
    measure,
)
from circuitbench.oracle import Meter


class FakeOracle:
    """``metric(kept [layers, heads], difficulty [prompts]) -> [prompts]`` instead of a model."""

    def __init__(self, metric: Any, shape: Any = (2, 2), prompts: Any = 16) -> None:
        self.metric, self.prompts, self.ablation = metric, prompts, "zero"
        self.n_layers, self.n_heads = shape
        self.meter = Meter()

    def draw(self, seed: int) -> Any:
        level = np.random.default_rng(seed).uniform(0.5, 1.5, self.prompts)
        full = np.ones((self.n_layers, self.n_heads), bool)
        return SimpleNamespace(level=level, clean=lambda b, part: self.metric(full, b.level))

    def query(self, masks: Any, *, ablation: Any, control: Any, per_prompt: Any, batch: Any) -> Any:
        assert not control
        assert per_prompt
        self.meter.queries += len(masks)
        values = np.stack([self.metric(m, batch.level) for m in masks.numpy()])
        clean = batch.clean(batch, "task")
        return SimpleNamespace(per_prompt_task=torch.from_numpy(clean - values))


def fake(metric: Any, **kwargs: Any) -> Any:
    return FakeOracle(metric, **kwargs)


def probe_of(metric: Any, **kwargs: Any) -> Any:
    oracle = fake(metric, **kwargs)
    return fn.Probe(oracle, [oracle.draw(0)], "zero")


def additive(kept: Any, level: Any) -> Any:  # 4 + 3 + (-1) + 0, whatever the prompt
    return np.full(len(level), kept.ravel() @ np.array([4.0, 3.0, -1.0, 0.0]))


def backed_up(
    kept: Any, level: Any
) -> Any:  # 0.0 writes 4; 0.1 steps in only while 0.0 is off; 1.0 adds 2
    a, b, c, _ = kept.ravel()
    return np.full(len(level), 4.0 * (a or b) + 2.0 * c)


RNG = np.random.default_rng


def test_faithfulness_formula() -> None:
    assert fn.faithfulness(3.0, 1.0, 5.0) == 0.5
    assert fn.faithfulness(3.0, 2.0, 2.0) is None


def test_areas_are_trapezoids() -> None:
    # f = 0 at 0, 2 at half, 1 at all: under f .5 + .75, under |1 - f| the flat 1, then 1 to 0
    areas = fn.curve_areas(np.array([0.0, 0.5, 1.0]), np.array([0.0, 2.0, 1.0]))
    assert areas == {"cpr": pytest.approx(1.25), "cmd": pytest.approx(0.75)}


def test_mib_areas_by_hand() -> None:
    scores = np.array([[4.0, 3.0], [-1.0, 0.0]])
    result = fn.mib_areas(probe_of(additive), scores, np.abs(scores), RNG(0))
    assert result["heads"] == [0] * 8 + [2, 4]
    # signed keeps 4 + 3 of 6 at half; absolute too; below half of the 4 heads nothing is kept
    assert result["signed"] == pytest.approx([0] * 8 + [7 / 6, 1])
    assert result["cpr"] == pytest.approx(0.3 * 7 / 12 + 0.5 * 13 / 12)
    assert result["cmd"] == pytest.approx(0.199 + 0.3 * (1 + 1 / 6) / 2 + 0.5 * (1 / 6) / 2)


def test_signed_and_absolute_rankings_differ() -> None:
    effects = np.array([[2.0, -4.0], [3.0, 0.0]])
    probe = probe_of(lambda kept, level: np.full(len(level), (kept * effects).sum()))
    result = fn.mib_areas(probe, effects, np.abs(effects), RNG(0))
    assert result["signed"][8] == pytest.approx(5.0)  # 2 + 3 of 1
    assert result["absolute"][8] == pytest.approx(-1.0)  # 3 - 4


def test_a_task_nothing_affects_has_no_areas() -> None:
    result = fn.mib_areas(probe_of(lambda k, level: level), np.eye(2), np.eye(2), RNG(0))
    assert result["cpr"] is None
    assert result["cmd"] is None
    assert "does not change" in result["undefined"]


def test_completeness_sees_a_missing_backup() -> None:
    probe = probe_of(backed_up)
    whole, missing = np.array([[1, 1], [1, 0]], bool), np.array([[1, 0], [1, 0]], bool)
    assert fn.completeness(probe, whole, 8, RNG(0))["max"] == 0
    result = fn.completeness(probe, missing, 16, RNG(0))
    # wherever K takes 0.0, the model still has its backup's 4 of 6
    assert result["max"] == pytest.approx(4)
    assert result["relative_max"] == pytest.approx(4 / 6)
    assert 0 < result["mean"] < 4


def test_minimality_sees_backups_and_spare_heads() -> None:
    result = fn.minimality(probe_of(backed_up), np.ones((2, 2), bool), 4, RNG(0))
    assert result["heads"] == pytest.approx({"0.0": 4, "0.1": 4, "1.0": 2, "1.1": 0})
    assert result["min"] == 0
    assert result["relative_mean"] == pytest.approx(2.5 / 6)
    some = fn.minimality(probe_of(backed_up), np.ones((2, 2), bool), 4, RNG(0), max_heads=2)
    assert len(some["heads"]) == 2


def noisy(kept: Any, level: Any) -> Any:
    """Two of 36 heads carry a 5 x level metric; every other head moves it by at most 0.03."""
    weight = np.linspace(-0.03, 0.03, kept.size).reshape(kept.shape)
    weight[0, 0], weight[3, 3] = 3, 2
    return (kept * weight).sum() * level


def circuit_of(*heads: Any) -> Any:
    grid = np.zeros((6, 6), bool)
    for head in heads:
        grid[head] = True
    return grid


def test_the_right_circuit_passes_shis_tests() -> None:
    probe = probe_of(noisy, shape=(6, 6), prompts=64)
    tests = circuit_tests(probe, circuit_of((0, 0), (3, 3)), RNG(0))
    assert tests["sufficiency"]["p_value"] < 0.01
    assert tests["partial_necessity"]["p_value"] < 0.01
    assert tests["minimality"]["unnecessary"] == []


def test_a_wrong_circuit_fails_them() -> None:
    probe = probe_of(noisy, shape=(6, 6), prompts=64)
    wrong = circuit_tests(probe, circuit_of((1, 1), (2, 2)), RNG(0))
    assert wrong["sufficiency"]["p_value"] > 0.05
    assert wrong["partial_necessity"]["p_value"] > 0.05
    assert wrong["equivalence"]["p_value"] < 1e-6  # never beats the model
    assert wrong["independence"]["p_value"] < 0.01  # what is left still does the task
    padded = circuit_tests(probe, circuit_of((0, 0), (3, 3), (2, 5)), RNG(0))
    assert padded["minimality"]["unnecessary"] == ["2.5"]


def test_the_whole_model_is_equivalent_but_no_better_than_random() -> None:
    probe = probe_of(noisy, shape=(6, 6))
    tests = circuit_tests(probe, np.ones((6, 6), bool), RNG(0))
    assert tests["equivalence"] == {"share": 0.5, "ties": 16, "n": 16, "p_value": 1.0}
    assert tests["minimality"] is None
    assert tests["sufficiency"]["share"] == 0
    assert tests["independence"]["p_value"] == 1  # nothing is left, so nothing can tell


def test_functional_is_json_metered_and_reproducible() -> None:
    oracle = fake(noisy, shape=(6, 6))
    scores = circuit_of((0, 0), (3, 3)).astype(float)
    found = Discovery(scores, frozenset({Head(0, 0), Head(3, 3)}), info={"note": "x"})
    settings = MeasurementSettings(random_circuits=20, permutations=50)
    first = measure(oracle, found, RNG(1), settings)
    json.dumps(first, allow_nan=False)
    assert first["faithfulness"]["mean"]["value"] == pytest.approx(1, abs=0.02)
    assert set(first["mib"]) == {"zero", "mean", "resample"}
    assert first["cost"]["queries"] == oracle.meter.queries > 0
    again = measure(fake(noisy, shape=(6, 6)), found, RNG(1), settings)
    assert {k: v for k, v in again.items() if k != "cost"} == {
        k: v for k, v in first.items() if k != "cost"
    }


def test_a_quick_run_tests_too_and_its_tests_change_no_other_number() -> None:
    scores = circuit_of((0, 0), (3, 3)).astype(float)
    found = Discovery(scores, frozenset({Head(0, 0), Head(3, 3)}))
    quick = measure(fake(noisy, shape=(6, 6)), found, RNG(1), QUICK)
    assert quick["tests"]["sufficiency"]["p_value"] < 0.05  # as many circuits as that takes
    untested = replace(QUICK, random_circuits=0)
    without = measure(fake(noisy, shape=(6, 6)), found, RNG(1), untested)
    for key in ("faithfulness", "mib", "completeness", "minimality"):
        assert quick[key] == without[key]
    run = Outcome({}, {}, {}, quick)
    assert metric("test_sufficiency").of(run) == metric("test_necessity").of(run) == 1
    assert metric("test_minimality").of(run) == 1
    assert metric("test_equivalence").of(run) == quick["tests"]["equivalence"]["p_value"]
    assert metric("completeness").of(run) == quick["completeness"]["relative_mean"]
    assert metric("completeness").better == "lower"
    assert metric("test_minimality").of(Outcome({}, {}, {}, without)) is None


def test_an_empty_selection_has_reasons() -> None:
    result = measure(fake(additive), Discovery(np.eye(2), frozenset()), RNG(0))
    assert result["faithfulness"]["zero"]["value"] == 0
    assert result["tests"] is None
    assert result["undefined"]["tests"] == "nothing was selected"


def test_signed_scores_rank_for_cpr_only() -> None:
    signed = [[1.0, -4.0], [0.5, 0.0]]
    found = Discovery(np.abs(signed), frozenset(), signed=np.asarray(signed))
    result = measure(fake(additive), found, RNG(0))
    assert result["rankings"] == {"cpr": "signed", "cmd": "scores"}
    assert result["mib"]["zero"]["signed"][8] == pytest.approx(3 / 6)  # keeps 0.0 and 1.0
    assert result["mib"]["zero"]["absolute"][8] == pytest.approx(7 / 6)  # keeps 0.1 and 0.0


@pytest.mark.parametrize("wrong", [{"batches": 0}, {"subsets": -1}, {"quantile": 1.0}])
def test_settings_out_of_range_are_refused(wrong: Any) -> None:
    with pytest.raises(InvalidSpec, match=next(iter(wrong))):
        MeasurementSettings(**wrong)


def test_a_model_that_gives_no_number_is_a_failed_run() -> None:
    probe = probe_of(lambda kept, level: level if kept.all() else level * np.inf)
    with pytest.raises(RunFailed, match="not finite"):
        probe.empty()
