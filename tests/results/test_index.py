"""The index: same answers as the records, made anew whenever anything changed, never believed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_records import record, store, sweep

from circuitbench.core.errors import InvalidSpec
from circuitbench.evaluation import metrics
from circuitbench.evaluation.outcome import EXAMPLE
from circuitbench.results import index, read_folder, write_record
from circuitbench.results import store as store_module
from circuitbench.results.index import FILE, frame, read_runs
from circuitbench.results.packing import pack_folder
from circuitbench.results.run_row import RunRow


def content(rows: list[RunRow]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in vars(row).items() if name in RunRow.__dataclass_fields__}
        for row in rows
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    failed = record("acdc", "ioi", 7, status="failed", reason="boom", stage="training")
    return store([*sweep(("acdc", "random"), seeds=range(2)), failed], tmp_path / "results")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the records that were parsed."""
    parsed: list[str] = []
    read = store_module.read

    def counted(entry: Any) -> Any:
        parsed.append(entry.path.name)
        return read(entry)

    monkeypatch.setattr(index, "read", counted)
    return parsed


def test_rows_are_the_records_in_short_with_and_without_the_index(folder: Path) -> None:
    records, _ = read_folder(folder)
    expected = content([RunRow.of(one) for one in records])
    for _ in range(2):
        rows, problems = read_runs(folder)
        assert not problems
        assert content(rows) == expected
        assert [row.record for row in rows] == records
        assert [row.spec for row in rows] == [one.spec for one in records]
        assert [row.family for row in rows] == [one.info["method"]["family"] for one in records]
    assert (folder / FILE).is_file()
    assert content(read_runs(folder, index=False)[0]) == expected


def test_processes_that_read_give_the_same_rows_and_problems(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    next(folder.glob("*.json")).write_text("{")
    expected, problems = read_runs(folder, index=False)
    monkeypatch.setattr(index, "_WORTH_WORKERS", 1)
    rows, found = read_runs(folder, index=False, workers=2)
    assert content(rows) == content(expected)
    assert found == problems
    assert len(problems) == 1


def test_only_what_changed_is_read_again(folder: Path, reads: list[str]) -> None:
    read_runs(folder)
    assert len(reads) == 9
    reads.clear()
    read_runs(folder)
    assert reads == []
    new = write_record(record("rl-ppo", "ioi", 0), folder)
    first = min(folder.glob("acdc*"))
    first.unlink()
    rows, _ = read_runs(folder)
    assert reads == [new.name]
    assert {row.path for row in rows} == set(folder.glob("*.json"))


def test_a_changed_record_is_noticed_whatever_its_time_and_size(
    folder: Path, reads: list[str]
) -> None:
    read_runs(folder)
    reads.clear()
    path = min(folder.glob("acdc*"))
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b'"queries":', b'"queries" ', 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    rows, problems = read_runs(folder)
    assert reads == [path.name]
    assert len(rows) == 8
    assert [problem.path for problem in problems] == [path]


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "folder"])
def test_a_broken_index_is_made_anew(folder: Path, reads: list[str], damage: str) -> None:
    expected = content(read_runs(folder)[0])
    path = folder / FILE
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "cut": data[:-50], "noise": b"PAR1" * 100}[damage])
    reads.clear()
    assert content(read_runs(folder)[0]) == expected
    assert len(reads) == 9


def test_an_index_of_other_code_is_made_anew(
    folder: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_runs(folder)
    reads.clear()
    monkeypatch.setattr(index, "_current", lambda: b"another version")
    read_runs(folder)
    read_runs(folder)
    assert len(reads) == 9


def test_without_pyarrow_or_a_writable_folder_everything_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = content(read_runs(folder, index=False)[0])

    def refuse(path: Path, data: bytes) -> None:
        raise InvalidSpec("cannot write")

    with monkeypatch.context() as patched:
        patched.setattr(index, "write_atomically", refuse)
        assert content(read_runs(folder)[0]) == expected
    assert not (folder / FILE).exists()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert content(read_runs(folder)[0]) == expected
    assert not (folder / FILE).exists()


def test_archives_are_indexed_like_folders(folder: Path, reads: list[str], tmp_path: Path) -> None:
    expected = content(read_runs(folder)[0])
    packed = tmp_path / "packed"
    pack_folder(folder, packed)
    reads.clear()
    for _ in range(2):
        rows, problems = read_runs(packed)
        assert not problems
        assert [r | {"path": None} for r in content(rows)] == [r | {"path": None} for r in expected]
        assert rows[0].record.run_id == rows[0].run_id
    assert len(reads) == 9


def test_an_empty_folder_has_no_runs(tmp_path: Path) -> None:
    assert read_runs(tmp_path) == ([], [])
    assert read_runs(tmp_path) == ([], [])
    with pytest.raises(InvalidSpec, match="no such results folder"):
        read_runs(tmp_path / "absent")


@pytest.fixture
def picky_metric(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def picky(run: Any) -> float:
        if run is not EXAMPLE and len(run.trace) > 1:
            raise ValueError("no")
        return 1.0

    extra = metrics.Metric("picky", "Picky", picky, origin="other 2.0")
    monkeypatch.setattr(metrics, "OURS", (*metrics.OURS, extra))
    metrics._load.cache_clear()
    yield
    metrics._load.cache_clear()


def test_a_metric_that_raises_gives_one_line_each_time(folder: Path, picky_metric: None) -> None:
    for _ in range(2):
        lines: list[str] = []
        rows, problems = read_runs(folder, lines.append)
        assert len(rows) == 9
        assert not problems
        assert len(lines) == 1
        assert "metric 'picky' (other 2.0) has no value for 8 of 9 runs" in lines[0]
        assert "ValueError: no" in lines[0]
        assert all("average_precision" in row.values for row in rows if row.status == "done")


def test_runs_as_a_data_frame(folder: Path) -> None:
    rows, _ = read_runs(folder)
    table = frame(rows)
    assert len(table) == 9
    assert list(table.columns[:6]) == ["method", "task", "model", "seed", "status", "run_id"]
    assert table["hyperparameters.rounds"].eq(3).all()
    done = table[table.status == "done"].groupby(["method", "task"]).average_precision.mean()
    own = [row for row in rows if (row.method, row.task, row.status) == ("acdc", "ioi", "done")]
    assert done["acdc", "ioi"] == pytest.approx(
        sum(row.values["average_precision"] for row in own) / 2
    )


def test_a_record_that_was_never_stored_is_still_reached() -> None:
    one = record()
    assert RunRow.of(one).record is one
    with pytest.raises(LookupError, match="never stored"):
        _ = replace(RunRow.of(one), whole=None).record
