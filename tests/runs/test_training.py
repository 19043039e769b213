"""What a run gives a learner to train with: checkpoints, TensorBoard, and its curriculum."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuitbench.cli import main
from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import InvalidPlugin, InvalidSpec, UnknownName
from circuitbench.plugins.method import (
    Curriculum,
    Learner,
    TrainableMethod,
    TrainingTools,
    track_of,
)
from circuitbench.plugins.registry import load_model, load_task
from circuitbench.runs.prepare import Prepared, load_method, prepare
from circuitbench.runs.run import run
from circuitbench.runs.spec import build_spec
from circuitbench.runs.sweep import run_all
from circuitbench.runs.training import training_tools

SHORT = {
    "training.total_steps": 800,
    "training.n_envs": 2,
    "training.pool": 4,
    "ppo.n_steps": 8,
    "ppo.minibatch": 8,
    "ppo.epochs": 1,
    "network.width": 8,
    "search.steps": 4,
    "discovery.episodes": 2,
}


def spec(**changes: Any) -> Any:
    base = {"method": "rl-ppo", "task": "reverse", "batch_size": 4, "functional": "none"}
    return build_spec({**base, "hyperparameters": SHORT}, changes)


def die_late(stage: str, fraction: float | None) -> None:
    if stage.startswith("training") and fraction is not None and fraction > 0.8:
        raise KeyboardInterrupt


def test_a_run_killed_in_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    whole = run(prepare(spec()))
    tools = TrainingTools(checkpoints=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(prepare(spec()), die_late, tools=tools)
    stages = []
    resumed = run(prepare(spec()), lambda stage, fraction: stages.append(fraction), tools=tools)
    assert whole.status == resumed.status == "done", resumed.reason
    assert min(f for f in stages if f) > 0.4  # the first updates were not made again
    assert resumed.run_id == whole.run_id
    for part in ("scores", "selected", "trace"):
        assert np.array_equal(resumed.discovery[part], whole.discovery[part])
    for cost in ("queries", "forwards", "tokens"):
        assert resumed.costs["training"][cost] == whole.costs["training"][cost]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"ablation": "mean"}, "ablation"),
        ({"hyperparameters": {"warm_start": "random"}}, "warm_start"),
        ({"hyperparameters": {"search.penalty": -2.0}}, "search.penalty"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_name(
    tmp_path: Path, changes: Any, named: str
) -> None:
    tools = TrainingTools(checkpoints=tmp_path)
    assert run(prepare(spec()), tools=tools).status == "done"
    other = run(prepare(spec(**changes)), tools=tools)
    assert other.status == "failed"
    assert f"was trained with another {named}; use another folder" in other.reason
    # What comes after training may differ.
    later = spec(budget=5, hyperparameters={"discovery.threshold": 0.5})
    assert run(prepare(later), tools=tools).status == "done"


def test_a_sweep_keeps_each_learners_training_apart(tmp_path: Path) -> None:
    specs = [spec(), spec(seed=1), replace(spec(), method="random", hyperparameters={})]
    records = [
        record for record, _ in run_all(specs, tmp_path / "out", checkpoints=tmp_path / "training")
    ]
    assert [record.status for record in records] == ["done"] * 3
    folders = {folder.name for folder in (tmp_path / "training").iterdir()}
    assert folders == {records[0].run_id, records[1].run_id}


@pytest.mark.parametrize("option", ["--checkpoints", "--tensorboard"])
def test_a_method_that_does_not_learn_has_no_use_for_folders(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--method", "random", option, "folder"]) == 2
    assert f"random is no learner, so it has no use for {option}" in capsys.readouterr().err
    assert not list(tmp_path.glob("results/*.json"))


@pytest.mark.parametrize("verb", [["run", "--method"], ["sweep", "--methods"]])
def test_a_missing_tensorboard_is_said_before_any_training(
    verb: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("circuitbench.runs.training.find_spec", lambda name: None)
    assert main([*verb, "rl-ppo", "--tensorboard", "events"]) == 2
    err = capsys.readouterr().err
    assert "pip install 'circuitbench[tensorboard]'" in err
    assert "training" not in err.replace("--tensorboard", "")
    assert not list(tmp_path.glob("results/*.json"))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSpec, match="file"):
        training_tools(prepare(spec()).method, "rl-ppo", tmp_path / "file", None)


@dataclass
class Simple:
    """A stranger's method that trains and wants nothing else."""

    trained: list[Any] = field(default_factory=list, init=False, compare=False)

    def train(self, oracles: Any, rng: np.random.Generator) -> None:
        self.trained += [(oracle.task_name, oracle.pool) for oracle in oracles]

    def discover(self, oracle: Any, rng: np.random.Generator) -> Discovery:
        return Discovery(rng.random(oracle.shape), frozenset())


@dataclass
class Choosy(Simple):
    """One that chooses what it trains on."""

    def curriculum(self) -> Curriculum:
        return Curriculum(("ioi", "induction"), pool=2)

    def train(
        self, oracles: Any, rng: np.random.Generator, tools: TrainingTools = TrainingTools()
    ) -> None:
        super().train(oracles, rng)
        tools.report(0.5, "half")


def prepared_with(method: Any, task: str) -> Prepared:
    plain = {"method": "random", "task": task, "batch_size": 4, "functional": "none"}
    return replace(prepare(build_spec(plain)), method=method)


def test_train_of_two_arguments_is_enough() -> None:
    method = Simple()
    assert isinstance(method, TrainableMethod)
    assert not isinstance(method, Learner)
    assert run(prepared_with(method, "reverse")).status == "done"
    assert method.trained == [("reverse", None)]


def test_a_curriculum_chooses_tasks_and_a_pool_of_at_least_a_batch() -> None:
    method = Choosy()
    stages: list[tuple[str, float | None]] = []
    record = run(prepared_with(method, "induction"), lambda *told: stages.append(told))
    assert record.status == "done", record.reason
    assert method.trained == [("ioi", 4), ("induction", 4)]
    assert ("training half", 0.5) in stages


def test_a_curriculum_that_fails_is_the_plugins_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object) -> Curriculum:
        raise KeyError("tasks")

    monkeypatch.setattr("circuitbench_agents.ppo.PPOHeadDiscovery.curriculum", broken)
    with pytest.raises(InvalidPlugin, match=r"'rl-ppo'.*curriculum.*KeyError"):
        prepare(spec())


@dataclass
class Widely(Simple):
    """One that learns on other models."""

    models: tuple[str, ...] = ("compiled-reverse@1", "compiled-reverse@2")
    labelled: bool = True
    truths: list[Any] = field(default_factory=list, init=False, compare=False)

    def curriculum(self) -> Curriculum:
        return Curriculum(("reverse",), models=self.models, labelled=self.labelled)

    def train(
        self, oracles: Any, rng: np.random.Generator, tools: TrainingTools = TrainingTools()
    ) -> None:
        for oracle in oracles:
            oracle.query(oracle.head_masks()[:2])
        self.trained += [(oracle.batch.metric, rng.random()) for oracle in oracles]
        self.truths += tools.truths


def test_other_models_come_with_their_truths_and_their_cost_is_trainings() -> None:
    method = Widely()
    record = run(prepared_with(method, "reverse"))
    assert record.status == "done", record.reason
    assert [truth.kind for truth in method.truths] == ["constructed"] * 2
    known: list[Any] = [load_task("reverse").truth(load_model(name)) for name in method.models]
    wanted = [truth.heads for truth in known]
    assert [truth.heads for truth in method.truths] == wanted
    assert (record.costs["training"]["queries"], record.costs["discovery"]["queries"]) == (4, 0)
    told = {"track": "other-models", "models": list(method.models), "labelled": True}
    assert record.info["training"] == told


def test_what_is_learnt_on_other_models_does_not_depend_on_what_is_scored() -> None:
    one, other = Widely(labelled=False), Widely(labelled=False)
    run(prepared_with(one, "reverse"))
    run(prepared_with(other, "sort"))
    assert one.trained == other.trained
    assert not one.truths


def test_tracks_tell_what_is_learnt_on() -> None:
    assert track_of(Simple()) == track_of(Choosy()) == "same-model"
    assert track_of(Widely()) == "other-models"
    assert run(prepared_with(Simple(), "reverse")).info["training"]["track"] == "same-model"
    assert track_of(load_method("random")) == "none"


@pytest.mark.parametrize(
    ("scored", "others"),
    [
        ("compiled-reverse@1", ("compiled-reverse@2", "compiled-reverse@1")),
        ("compiled-reverse", ("compiled-reverse@0",)),
    ],
)
def test_the_truth_of_the_scored_model_is_never_told(scored: str, others: tuple[str, ...]) -> None:
    method = Widely(models=others)
    wanted = build_spec({"method": "random", "task": "reverse", "model": scored})
    with pytest.raises(InvalidSpec, match="it is scored on"):
        prepare(wanted, method_of=lambda name, **more: method)
    method.models = ("compiled-sort", "no-such-model")
    with pytest.raises(UnknownName, match="no-such-model"):
        prepare(wanted, method_of=lambda name, **more: method)


def test_nor_under_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    disguised = replace(load_model("compiled-reverse"), name="another")
    monkeypatch.setattr("circuitbench.runs.stages.load_model", lambda name: disguised)
    method = Widely()
    record = run(prepared_with(method, "reverse"))
    assert (record.status, record.stage) == ("failed", "training")
    assert "it is scored on" in record.reason
    assert not method.truths
    with pytest.raises(InvalidSpec, match="of other models only"):
        Curriculum(labelled=True)


def test_records_hold_groups_as_mappings() -> None:
    found = run(prepare(spec())).spec["hyperparameters"]
    assert found["ppo"]["n_steps"] == 8
    assert found["training"]["tasks"] == []
    assert json.dumps(found)


def test_an_unknown_task_to_train_on_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb = ["run", "--method", "rl-ppo", "--out", str(tmp_path)]
    assert main([*verb, "--set", "training.tasks=[inductoin]"]) == 2
    assert "did you mean 'induction'?" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))
