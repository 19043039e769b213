"""Trackers are told what a record says, and can end nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from records_kit import make

from circuitbench.cli import cli
from circuitbench.core.errors import InvalidSpec
from circuitbench.core.extras import MissingExtra
from circuitbench.results import Record
from circuitbench.runs.tracking import TRACKERS, tracking

DONE = make(spec={**make().spec, "hyperparameters": {"threshold": 0.1}})
FAILED = make(1, status="failed", stage="discovering", reason="no luck", discovery={}, truth={})


def tracked(name: str | None, out: Path, *records: Record) -> list[str]:
    """What was said of a tracker that was shown some records."""
    said: list[str] = []
    with tracking(name, out, said.append) as track:
        for record in records:
            track(record)
    return said


class FakeWandb(ModuleType):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[Any] = []
        self.Settings = lambda **settings: settings

    def init(self, **given: Any) -> Any:
        run = SimpleNamespace(given=given, steps=[], summary={}, status=None)
        run.log = lambda values, step: run.steps.append((step, values))
        run.finish = lambda exit_code: setattr(run, "status", exit_code)
        self.runs.append(run)
        return run


class FakeMLflow(ModuleType):
    """A client that keeps what it is told, and may be down."""

    def __init__(self, down: bool = False) -> None:
        super().__init__("mlflow")
        self.runs: list[dict[str, Any]] = []
        self.down = down
        self.entities = SimpleNamespace(Metric=lambda *m: m, Param=lambda *p: p)
        self.MlflowClient = lambda: self

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str) -> str:
        return name

    def create_run(self, experiment: str, run_name: str, tags: dict[str, str]) -> Any:
        if self.down:
            raise ConnectionError("nobody there")
        self.runs.append({"in": experiment, "name": run_name, "tags": tags, "metrics": []})
        return SimpleNamespace(info=SimpleNamespace(run_id=len(self.runs) - 1))

    def log_batch(self, run_id: int, metrics: Any = (), params: Any = ()) -> None:
        self.runs[run_id]["metrics"] += metrics
        self.runs[run_id].setdefault("params", dict(params))

    def set_terminated(self, run_id: int, status: str) -> None:
        self.runs[run_id]["status"] = status


def test_weights_and_biases_is_told_of_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    assert tracked("wandb", tmp_path, DONE, FAILED) == []
    done, failed = fake.runs
    assert done.given["name"] == "acdc on ioi (planted@1) seed 0"
    assert done.given["project"] == "circuitbench"
    assert done.given["config"]["hyperparameters.threshold"] == "0.1"
    assert done.given["config"]["run_id"] == DONE.run_id
    assert done.summary["queries"] == 4
    assert [step for step, _ in done.steps] == [4]
    assert "average_precision_by_queries" in done.steps[0][1]
    assert (done.status, failed.status) == (0, 1)
    assert failed.given["config"]["reason"] == "no luck"


def test_mlflow_is_told_of_each_run_and_left_out_when_it_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    assert tracked("mlflow", tmp_path, DONE, FAILED) == []
    done, failed = fake.runs
    assert (done["in"], done["status"], failed["status"]) == ("circuitbench", "FINISHED", "FAILED")
    assert done["params"]["budget"] == "500"
    values = {key: value for key, value, _, step in done["metrics"] if step == 0}
    assert values["queries"] == 4
    assert {step for key, *_, step in done["metrics"] if key.endswith("_by_queries")} == {4}
    assert failed["tags"] == {"run_id": FAILED.run_id, "status": "failed", "reason": "no luck"}
    fake.down = True
    (said,) = tracked("mlflow", tmp_path, DONE, FAILED)
    assert said == "--track mlflow failed, and is left out: ConnectionError: nobody there"


def test_mlflow_itself_keeps_what_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra 'mlflow' is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "runs").as_uri())
    assert tracked("mlflow", tmp_path, DONE) == []
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("circuitbench").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.data.metrics["queries"] == 4
    assert run.data.params["budget"] == "500"
    assert run.data.tags["run_id"] == DONE.run_id


@pytest.mark.slow
def test_weights_and_biases_itself_keeps_runs_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="the extra 'wandb' is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    assert tracked("wandb", tmp_path, DONE) == []
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 1


def test_tensorboard_events_lie_beside_the_records(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert tracked("tensorboard", tmp_path, DONE) == []
    events = EventAccumulator(str(tmp_path / "tensorboard" / DONE.run_id))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("queries")] == [(0, 4.0)]
    assert [e.step for e in events.Scalars("average_precision_by_queries")] == [4]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_without_its_package_one_line_says_which(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=rf"--track {name} needs {name}: .*\[{name}\]"):
        tracked(name, tmp_path, DONE)


def test_no_tracker_and_a_wrong_one(tmp_path: Path) -> None:
    assert tracked(None, tmp_path, DONE) == []
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InvalidSpec, match="did you mean 'mlflow'"):
        tracked("mlflo", tmp_path, DONE)
    assert list(TRACKERS) == ["mlflow", "tensorboard", "wandb"]


def test_the_command_line_tells_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    command = ["sweep", "--methods", "random", "--tasks", "reverse", "--in-process"]
    command += ["--functional", "none", "--batch-size", "4", "--out", str(tmp_path)]
    for runs in (1, 1):  # what has its record is not told again
        ended = CliRunner().invoke(cli, [*command, "--track", "wandb"], catch_exceptions=False)
        assert ended.exit_code == 0
        assert len(fake.runs) == runs
