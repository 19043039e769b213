"""The file with the learning curve that stands beside a record."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import InvalidSpec
from circuitbench.plugins.method import Curriculum, TrainingTools
from circuitbench.results.validate import validate
from circuitbench.runs.learning_curve import LONGEST, SUFFIX, learning_curve
from circuitbench.runs.once import run, run_and_write
from circuitbench.runs.prepare import prepare
from circuitbench.runs.spec import build_spec

SHORT = {
    "training.total_steps": 64,
    "training.n_envs": 4,
    "training.pool": 4,
    "ppo.n_steps": 4,
    "ppo.minibatch": 8,
    "search.steps": 4,
    "network.width": 8,
    "discovery.episodes": 1,
}
SPEC: dict[str, Any] = {"task": "reverse", "batch_size": 4, "functional": "none"}


@pytest.mark.parametrize("in_process", [True, False])
def test_a_run_leaves_its_curve_beside_its_record(tmp_path: Path, in_process: bool) -> None:
    record = run("rl-ppo", out=tmp_path, in_process=in_process, hyperparameters=SHORT, **SPEC)
    assert record.status == "done", record.reason
    assert record.path is not None
    path = record.path.with_suffix(SUFFIX)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    kept = record.discovery["info"]["learning_curve"]
    assert [int(row["steps"]) for row in rows] == [16, 32, 48, 64]
    assert [float(row["episode_return"]) for row in rows] == [p["episode_return"] for p in kept]
    assert [float(row["hits"]) for row in rows] == [p["hits"] for p in kept]
    path.write_text('=HYPERLINK("x")')  # nobody reads it
    assert validate(tmp_path).ok


class Diverging:
    """Learns for two updates."""

    def curriculum(self) -> Curriculum:
        return Curriculum()

    def train(
        self, oracles: Any, rng: np.random.Generator, tools: TrainingTools = TrainingTools()
    ) -> None:
        tools.plot({"steps": 1, "loss": 0.5})
        tools.plot({"steps": 2, "loss": float("inf")})
        raise ArithmeticError("the loss is infinite")

    def discover(self, oracle: Any, rng: np.random.Generator) -> Discovery:
        raise AssertionError("it never gets there")


def test_a_training_that_fails_leaves_its_curve(tmp_path: Path) -> None:
    prepared = replace(prepare(build_spec({"method": "random", **SPEC})), method=Diverging())
    record = run_and_write(prepared, tmp_path)
    assert (record.status, record.stage) == ("failed", "training")
    assert record.path is not None
    lines = record.path.with_suffix(SUFFIX).read_text().splitlines()
    assert lines == ["steps,loss", "1,0.5", "2,inf"]


def test_a_method_that_learns_nothing_leaves_none(tmp_path: Path) -> None:
    run("random", out=tmp_path, in_process=True, **SPEC)
    assert not list(tmp_path.glob(f"*{SUFFIX}"))


def write(folder: Path, *points: Any) -> list[str]:
    with learning_curve(folder / "run.json") as plot:
        for point in points:
            plot(point)
    return (folder / f"run{SUFFIX}").read_text().splitlines()


def test_numbers_come_back_as_they_were_and_an_earlier_file_goes(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    (tmp_path / f"run{SUFFIX}").symlink_to(outside)
    first = {"steps": 8, "loss": 0.1, "gain": None}
    lines = write(tmp_path, first, {"steps": 16.0, "loss": float("nan"), "gain": 1e-300})
    assert lines == ["steps,loss,gain", "8,0.1,", "16,nan,1e-300"]
    assert outside.read_text() == "kept"


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([{}], "1 to 16 figures"),
        ([{"=cmd()": 1.0}], "named by a word"),
        ([{f"a{i}": 1.0 for i in range(17)}], "1 to 16 figures"),
        ([{"a": "=1+1"}], "a of a learning curve must be a number"),
        ([{"a": 10**400}], "must be a number"),
        ([{"a": 1.0}, {"b": 1.0}], "began with a;"),
    ],
)
def test_what_is_no_curve_is_refused(tmp_path: Path, points: Any, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        write(tmp_path, *points)


def test_a_curve_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LONGEST == 100_000
    monkeypatch.setattr("circuitbench.runs.learning_curve.LONGEST", 2)
    assert write(tmp_path, *({"a": i} for i in range(5))) == ["a", "0", "1"]
