import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agents_kit import GAINS, FixedDifference, additive_model

from circuitbench.core.circuit import Circuit, Head, Role
from circuitbench.core.errors import InvalidSpec
from circuitbench_experiments.mechrl import protocol as experiment
from circuitbench_experiments.mechrl.count_prior import CountPrior
from circuitbench_experiments.mechrl.matched_episodes import (
    Stage,
    bandit_control,
    count_control,
    fixed_control,
    layer_control,
    oracle_control,
    play,
    random_control,
    score,
)
from circuitbench_experiments.mechrl.protocol import MechRL, reproduce
from circuitbench_experiments.mechrl.report import (
    crossed_interval,
    lines,
    markdown,
    verdicts,
    write_report,
)

TRUTH = Circuit({"a": Role((Head(0, 0), Head(1, 1))), "b": Role((Head(2, 2),))}, "x", "constructed")


def stage(make_oracle: Any, gains: Any = GAINS) -> Any:
    return Stage(make_oracle(gains, pool=4), TRUTH, (1, 2))


def test_scores_are_against_the_oracles_best_head(make_oracle: Any) -> None:
    rewards = GAINS.ravel()
    taken = [[(8, 1.0)], [(4, 2.0), (2, 0.5)], [(0, 3.0), (1, 0.0)]]
    got = score(taken, rewards, stage(make_oracle))
    assert got.curve == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert (got.ratio, got.steps_to_90, got.queries_to_90, got.queries) == (1.0, 3, 5, 5)
    assert (got.auroc, got.recall, got.roles) == (1.0, 1.0, {"a": 1.0, "b": 1.0})


def test_never_getting_near_counts_as_one_step_more_than_played(make_oracle: Any) -> None:
    got = score([[(1, 0.0)], [(2, 0.5)]], GAINS.ravel(), stage(make_oracle))
    assert (got.steps_to_90, got.queries_to_90) == (3, 3)
    assert got.ratio == pytest.approx(0.5 / 3)


def test_controls_do_what_they_say(make_oracle: Any) -> None:
    here = stage(make_oracle)
    rng = np.random.default_rng(0)
    known = {"fixed": np.arange(9.0)}

    def order(contender: Any) -> Any:
        return play(contender, here, 3, 1, rng).curve * 3.0

    assert order(oracle_control()) == pytest.approx([3.0, 3.0, 3.0])
    assert order(fixed_control(known)) == pytest.approx([1.0, 1.0, 1.0])  # 8, 7, 6
    assert order(layer_control(known, 3))[-1] == pytest.approx(1.0)  # the last layer's
    firsts = [play(random_control(), here, 1, 1, rng).ratio for _ in range(100)]
    assert np.mean(firsts) == pytest.approx(GAINS.mean() / 3, abs=0.15)
    for thompson in (True, False):
        got = play(bandit_control(thompson), here, 9, 1, rng)
        assert got.ratio == pytest.approx(1.0)


def test_random_planning_pays_for_every_candidate(make_oracle: Any) -> None:
    here, rng = stage(make_oracle), np.random.default_rng(0)
    played = [play(random_control(3), here, 2, 1, rng) for _ in range(200)]
    assert {score.queries for score in played} == {6}
    firsts = np.mean([score.curve[0] for score in played])
    alone = np.mean([play(random_control(), here, 1, 1, rng).ratio for _ in range(200)])
    assert firsts > alone + 0.2  # chance gains from planning too


def test_the_count_prior_moves_on_when_a_layer_is_exhausted() -> None:
    grid = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    prior = CountPrior([grid] * 50)
    none = np.zeros(3, dtype=int)
    first = prior.chance(none, none)
    assert first == pytest.approx([0.5, 0.25, 0.0], abs=0.02)
    found = prior.chance(np.array([2, 0, 0]), np.array([2, 0, 0]))
    assert found[0] < 0.05 < found[1]
    missed = prior.chance(np.array([2, 0, 0]), none)
    assert missed[0] == pytest.approx(1.0, abs=0.05)  # both good heads are among the two left
    whole = prior.chance(np.array([4, 4, 4]), np.array([0, 4, 2]))
    assert np.isfinite(whole).all()


def test_the_count_prior_takes_the_heads_of_the_likeliest_layer(make_oracle: Any) -> None:
    gains = np.zeros((3, 3))
    gains[1, 1], gains[2] = 1.0, 1.0
    here = Stage(make_oracle(gains, pool=4), TRUTH, (1,))
    control = count_control({"fixed": [gains > 0] * 20})
    got = play(control, here, 4, 1, np.random.default_rng(0))
    assert got.average_precision is not None
    assert got.curve == pytest.approx([1.0] * 4)
    assert got.roles["b"] == 1.0  # 2.2 is among the first three


def test_a_fixed_order_for_an_unknown_task_is_the_mean_of_the_known(make_oracle: Any) -> None:
    here = Stage(make_oracle(task_name="other"), TRUTH, (1,))
    values = np.zeros(9)
    values[4] = 1.0
    known = {"a": values, "b": 5 * values}
    got = play(fixed_control(known), here, 1, 1, np.random.default_rng(0))
    assert got.ratio == pytest.approx(2 / 3)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The experiment on additive models: ``tiny@k`` has its gains rolled by k."""

    def model(name: str) -> Any:
        shift = int(name.partition("@")[2] or 0)
        made = additive_model(np.roll(GAINS, shift))
        return type(made)(name, made.n_layers, made.n_heads, made.transformer)

    class Known(FixedDifference):
        def truth(self, model: Any) -> Any:
            return TRUTH

    monkeypatch.setattr(experiment, "load_model", model)
    monkeypatch.setattr(experiment, "load_task", lambda name: Known())
    return MechRL(
        model="tiny",
        train_tasks=("a", "b"),
        held_out_task="c",
        seeds=2,
        total_steps=400,
        steps=4,
        episodes=2,
        candidates=(1, 5),
        batch_size=2,
        pool=4,
        token_models=2,
        token_rehearsal=1,
        token_steps=400,
        held_out_models=2,
        token_batch=2,
    )


def test_the_whole_experiment(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = reproduce(tiny, tmp_path)
    table = lines(results)
    parts = {line.part for line in table}
    assert parts == {"a", "b", "c", "held-out models"}
    pretending = {line.contender for line in table if line.part == "c"}
    assert {"rl-ppo (K=5)", "rl-ppo as a (K=1)", "rl-ppo as b (K=5)", "random"} <= pretending
    oracle = next(x for x in table if (x.part, x.contender) == ("a", "oracle"))
    assert oracle.estimates["ratio"].mean == pytest.approx(1.0)
    assert oracle.estimates["steps_to_90"].mean == 1.0
    text = markdown(results)
    assert "400 queries per seed" in text
    assert len(verdicts(table)) == text.count("reached: ") == 3 * 2 + 4 + 10
    assert {"random (K=5)", "count-prior"} <= {line.contender for line in table if line.part == "a"}
    models = {row["model"] for run in results["seeds"] for row in run["rows"]}
    assert models == {"tiny@201", "tiny@202", "tiny@1", "tiny@2"}
    due = text.partition("due to")[2]
    assert "learning: held-out models, rl-transformer (K=1) minus count-prior: " in due
    assert due.count("\n- ") == 3
    assert all(path.stat().st_size for path in write_report(results, tmp_path))

    def forbidden(self: Any, *args: Any) -> None:
        raise AssertionError("a finished seed must not run again")

    monkeypatch.setattr(experiment.Lab, "run", forbidden)
    assert json.dumps(reproduce(tiny, tmp_path)) == json.dumps(results)
    with pytest.raises(InvalidSpec, match="other settings"):
        reproduce(MechRL(model="tiny"), tmp_path)


def test_a_killed_experiment_loses_no_seed_and_ends_the_same(tiny: Any, tmp_path: Path) -> None:
    def die(fraction: Any, text: str) -> None:
        if text.startswith("seed 1: rl-ppo"):
            raise KeyboardInterrupt

    whole = reproduce(tiny, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        reproduce(tiny, tmp_path / "killed", die)
    assert (tmp_path / "killed" / "seed-0.json").is_file()
    resumed = reproduce(tiny, tmp_path / "killed")
    for a, b in zip(whole["seeds"], resumed["seeds"], strict=True):
        assert a["rows"] == b["rows"]


def test_intervals_do_not_take_runs_on_one_model_for_independent() -> None:
    rng = np.random.default_rng(0)
    models = rng.normal(size=20)
    values = np.broadcast_to(models, (2, 50, 20))  # all seeds agree, so models alone count
    low, high = crossed_interval(values, rng)
    assert high - low == pytest.approx(2 * 1.96 * models.std() / 20**0.5, rel=0.1)
    assert low < models.mean() < high
    seeds = np.broadcast_to(rng.normal(size=(5, 1)), (1, 5, 1))
    assert np.ptp(crossed_interval(seeds, rng)) > 0.3
    assert crossed_interval(np.ones((1, 1, 1)), rng) == (1.0, 1.0)


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="held-out task"):
        MechRL(held_out_task="ioi")
    with pytest.raises(InvalidSpec, match="seeds must be 1"):
        MechRL(seeds=0)
    with pytest.raises(InvalidSpec, match="planted@3 is one planting; name the preset"):
        MechRL(model="planted@3")
    assert MechRL(model="hf:gpt2", plantings=1, token_models=0).judged_on(3) == "hf:gpt2"
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSpec, match="cannot use"):
        reproduce(MechRL(), tmp_path / "file")
