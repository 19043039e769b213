"""Many runs: nothing is done twice, nothing is loaded twice, everything is resolved first."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from circuitbench.core.errors import UnknownName
from circuitbench.plugins.registry import load_model
from circuitbench.results import environment, read_folder, write_record
from circuitbench.results.packing import pack_folder
from circuitbench.runs.run import run
from circuitbench.runs.spec import RunSpec
from circuitbench.runs.sweep import grid, run_all
from circuitbench_baselines.random import RandomRanking

BASE = RunSpec(batch_size=4, device="cpu", functional="none")
SPECS = grid(BASE, ["random", "head-ablation"], ["reverse", "histogram"], [0, 1])


def count(function: Any) -> Mock:
    """The function, with its calls noted."""
    return Mock(side_effect=function)


def fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no")


def test_each_model_is_loaded_once_and_git_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, asks = count(load_model), count(subprocess.run)
    monkeypatch.setattr("circuitbench.runs.sweep.load_model", loads)
    monkeypatch.setattr("subprocess.run", asks)
    environment._commit.cache_clear()
    done = list(run_all(SPECS, tmp_path))
    assert [new for _, new in done] == [True] * 8
    assert {record.status for record, _ in done} == {"done"}
    assert [call.args for call in loads.mock_calls] == [
        ("compiled-reverse",),
        ("compiled-histogram",),
    ]
    assert 1 <= len(asks.mock_calls) <= 3


def test_a_model_that_is_shared_gives_the_same_answers(tmp_path: Path) -> None:
    from circuitbench.runs.prepare import prepare

    specs = grid(BASE, ["head-ablation", "attribution-patching"], ["reverse"], [0])
    for spec, (record, _) in zip(specs, run_all(specs, tmp_path), strict=True):
        assert run(prepare(spec)).discovery == record.discovery


def test_names_are_resolved_before_the_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RandomRanking, "discover", fail)
    specs = grid(BASE, ["random", "head-ablaton"], ["reverse"], [0])
    with pytest.raises(UnknownName, match="did you mean 'head-ablation'"):
        list(run_all(specs, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_finished_runs_are_kept_also_from_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [record for record, _ in run_all(SPECS[:4], tmp_path)]
    pack_folder(tmp_path, tmp_path, remove=True)
    again = list(run_all(SPECS[:4], tmp_path))
    assert again == [(record, False) for record in first]
    assert {path.suffix for path in tmp_path.iterdir()} == {".zip"}


def test_the_folder_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count(read_folder)
    monkeypatch.setattr("circuitbench.runs.sweep.read_folder", reads)
    list(run_all(SPECS[:2], tmp_path))
    reads.assert_called_once()


def test_failed_runs_do_not_stop_the_others_and_are_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = grid(BASE, ["random", "head-ablation"], ["reverse"], [0])
    with monkeypatch.context() as patch:
        patch.setattr(RandomRanking, "discover", fail)
        assert [r.status for r, _ in run_all(specs, tmp_path)] == ["failed", "done"]
        with pytest.raises(RuntimeError, match="no"):
            list(run_all(specs, tmp_path, reraise=True))
    assert [(r.status, new) for r, new in run_all(specs, tmp_path)] == [
        ("done", True),
        ("done", False),
    ]


def test_a_run_that_was_not_measured_is_only_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = RunSpec(method="random", task="reverse", batch_size=4, device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr("circuitbench.evaluation.without_truth.measurements.measure", fail)
        ((record, _),) = run_all([spec], tmp_path)
        assert record.stage == "measuring"
    pack_folder(tmp_path, tmp_path, remove=True)
    monkeypatch.setattr(RandomRanking, "discover", fail)
    ((record, new),) = run_all([spec], tmp_path)
    assert (record.status, new) == ("done", True)
    (kept,), _ = read_folder(tmp_path)  # the finished one; the archive holds the other
    assert kept == record


def test_the_same_run_twice_is_run_once(tmp_path: Path) -> None:
    assert [new for _, new in run_all([SPECS[0], SPECS[0]], tmp_path)] == [True, False]


def test_a_folder_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from circuitbench.core.errors import InvalidSpec

    refuge = tmp_path / "refuge"
    refuge.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(refuge))

    def full(record: Any, folder: Path) -> Path:
        if "refuge" not in str(folder):
            raise InvalidSpec(f"cannot write to {folder}: No space left on device")
        return write_record(record, folder)

    monkeypatch.setattr("circuitbench.runs.once.write_record", full)
    with pytest.raises(InvalidSpec, match=r"No space left.*the record was saved to"):
        list(run_all(SPECS[:1], tmp_path / "out"))
    assert [record.status for record in read_folder(refuge)[0]] == ["done"]
