"""Records: what goes in comes out, what is damaged is refused by name."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitbench.core.circuit import Circuit, Head, Role
from circuitbench.core.errors import CorruptRecord, InvalidSpec, RunFailed
from circuitbench.results import (
    Record,
    check_folder,
    check_name,
    hardware,
    plain,
    read_folder,
    read_record,
    run_id,
    versions,
    write_record,
)
from circuitbench.results.record import truth_of


def make(seed: int = 0, **changes: Any) -> Record:
    spec = {"task": "ioi", "model": "planted@1", "method": "acdc", "seed": seed, "budget": 500}
    values = {
        "spec": spec,
        "status": "done",
        "metrics": {"ranking": {"auroc": 0.75}},
        "discovery": {"scores": np.eye(2), "selected": {Head(1, 1), Head(0, 0)}},
        "created": "2026-01-01T00:00:00Z",
        "versions": {"circuitbench": "0.1.0", "commit": "abc"},
    }
    return Record(**{**values, **changes})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    record = make(truth=truth_of(Circuit({"mover": Role((Head(1, 0),), sign=-1)}, "x", "trained")))
    path = write_record(record, tmp_path / "new" / "folder")
    again = read_record(path)
    assert again == record
    assert again.path == path
    assert again.discovery == {"scores": [[1.0, 0.0], [0.0, 1.0]], "selected": ["0.0", "1.1"]}
    assert again.truth["roles"]["mover"] == {"heads": ["1.0"], "needed": 1, "sign": -1}
    assert (again.method, again.task, again.model_name, again.seed) == (
        "acdc",
        "ioi",
        "planted@1",
        0,
    )
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_identity_is_the_spec_and_versions_but_not_the_outcome() -> None:
    record = make()
    same = [
        make(metrics={"ranking": {"auroc": 0.5}}),
        make(created="2027"),
        make(versions={"circuitbench": "0.1.0", "commit": "other"}),
    ]
    assert all(other.run_id == record.run_id for other in same)
    assert all(other.checksum() != record.checksum() for other in same)
    other_spec = make(spec={**record.spec, "budget": 501})
    assert len({record.run_id, make(1).run_id, make(versions={}).run_id, other_spec.run_id}) == 4
    assert run_id(dict(reversed(record.spec.items())), record.versions) == record.run_id


def test_plain_values() -> None:
    values = {
        "a": np.float32(0.5),
        "b": torch.arange(3),
        "c": (Head(9, 6),),
        "d": Path("x"),
        3: None,
    }
    assert plain(values) == {"a": 0.5, "b": [0, 1, 2], "c": ["9.6"], "d": "x", "3": None}
    with pytest.raises(InvalidSpec, match="info is a object"):
        plain(object(), "info")


@pytest.mark.parametrize("bad", [float("nan"), np.inf, torch.tensor(float("nan"))])
def test_numbers_that_are_not_finite_are_refused(bad: Any) -> None:
    with pytest.raises(RunFailed, match=r"metrics\.ranking\.auroc is"):
        make(metrics={"ranking": {"auroc": bad}})


BAD_NAMES = [
    "<script>",
    "a|b",
    "=cmd",
    "../x",
    "a..b",
    "",
    "-x",
    "@x",
    "a b",
    "a/b",
    "a\nb",
    "x" * 101,
]


@pytest.mark.parametrize("name", [*BAD_NAMES, None, 3])
def test_unsafe_names_are_refused_at_the_source(name: str) -> None:
    with pytest.raises(InvalidSpec, match="not a task name"):
        check_name("task", name)
    for kind in ("method", "task", "model"):
        with pytest.raises(InvalidSpec, match=f"not a {kind} name"):
            make(spec={**make().spec, kind: name})


def test_usual_names_are_accepted() -> None:
    for name in ("rl-ppo", "planted@3", "ioi", "EleutherAI:pythia-70m", "a.b_c+d"):
        assert check_name("model", name) == name


@pytest.mark.parametrize(
    "change",
    [{"status": "finished"}, {"spec": {"task": "t", "model": "m", "method": "x", "seed": 1.5}}],
)
def test_other_invalid_records(change: Any) -> None:
    with pytest.raises(InvalidSpec):
        make(**change)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_damaged_files_are_refused_by_path_and_fault(tmp_path: Path) -> None:
    path = write_record(make(), tmp_path)
    whole = path.read_text()
    for text, fault in [
        (whole[: len(whole) // 2], "truncated|not JSON"),
        ("", "truncated"),
        ("hello", "not JSON"),
        ("[1]", "expected a JSON object"),
        ("{}", "no schema"),
        (whole.replace("0.75", "0.99"), "checksum does not match"),
        (whole.replace("0.75", "NaN"), "holds NaN"),
        (whole.replace("0.75", "-Infinity"), "holds -Infinity"),
        (whole.replace('"schema": 1', '"schema": 0'), "schema 0, but this version reads 1; run it"),
        (whole.replace('"schema": 1', '"schema": 2'), "schema 2.* newer circuitbench"),
        (whole.replace('"schema": 1', '"schema": true'), "schema True"),
        ("[" * 100_000, "nested too deeply|not JSON|truncated"),
    ]:
        path.write_text(text)
        with pytest.raises(CorruptRecord, match=fault) as caught:
            read_record(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorruptRecord, match="not a text file"):
        read_record(path)
    with pytest.raises(CorruptRecord, match="cannot be read"):
        read_record(tmp_path / "absent.json")


def test_forged_content_with_a_right_checksum_is_still_checked(tmp_path: Path) -> None:
    from circuitbench.results.record import checksum

    content = make().content()
    path = tmp_path / "forged.json"
    faults: list[tuple[dict[str, Any], str]] = [
        ({"run_id": "0" * 16}, "run_id does not belong"),
        ({"metrics": []}, "metrics must be an object"),
        ({"reason": 3}, "reason must be text"),
        ({"extra": 1}, "wrong entries: extra"),
        ({"status": "great"}, "unknown status"),
        ({"spec": {**content["spec"], "task": "<script>"}}, "not a task name"),
    ]
    for change, fault in faults:
        forged = {**content, **change}
        path.write_text(json.dumps({**forged, "checksum": checksum(forged)}))
        with pytest.raises(CorruptRecord, match=fault):
            read_record(path)


def test_an_unwritable_folder_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSpec, match="file"):
        write_record(make(), tmp_path / "file")
    with pytest.raises(InvalidSpec, match="file"):
        check_folder(tmp_path / "file" / "below")

    path = write_record(make(), tmp_path / "out")
    before = path.read_text()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, full)
            with pytest.raises(InvalidSpec, match=f"cannot write to {path.parent}: No space left"):
                write_record(make(metrics={}), path.parent)
    assert path.read_text() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_read_with_its_problems(tmp_path: Path) -> None:
    first, second = make(0), make(1)
    write_record(second, tmp_path)
    kept = write_record(first, tmp_path / "b")
    copy = tmp_path / "a.json"
    copy.write_text(write_record(replace(first, created="2030"), tmp_path / "c").read_text())
    broken = tmp_path / "z.json"
    broken.write_text('{"schema": 1')
    (tmp_path / "leaderboard.json").write_text("{}")
    records, problems = read_folder(tmp_path)
    assert records == [first, second]
    assert records[0].path == kept
    assert [p.path for p in problems] == [copy, next((tmp_path / "c").iterdir()), broken]
    assert "duplicate of" in str(problems[0])
    assert str(broken) in str(problems[2])


def test_an_empty_folder_and_an_absent_one(tmp_path: Path) -> None:
    assert read_folder(tmp_path) == ([], [])
    with pytest.raises(InvalidSpec, match="no such results folder"):
        read_folder(tmp_path / "absent")


def test_a_finished_record_wins_over_an_earlier_failed_one(tmp_path: Path) -> None:
    failed = make(status="failed", reason="boom", metrics={}, created="2020")
    write_record(failed, tmp_path / "a")
    write_record(make(), tmp_path / "b")
    (record,), (problem,) = read_folder(tmp_path)
    assert record.status == "done"
    assert problem.path.parent.name == "a"


def test_environment_is_complete_and_plain() -> None:
    found = versions(("no-such-distribution",))
    assert found["no-such-distribution"] is None
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert plain(found) == found
    machine = hardware()
    assert machine["gpu"] is None
    assert plain(machine) == machine


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=25)
@given(st.lists(NUMBERS, max_size=5), st.text(max_size=20), st.integers())
def test_any_finite_content_survives_the_disk(
    tmp_path_factory: Any, numbers: Any, text: str, seed: int
) -> None:
    record = make(seed, metrics={"x": numbers}, reason=text)
    again = read_record(write_record(record, tmp_path_factory.getbasetemp() / "any"))
    assert again == record
