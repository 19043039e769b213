"""Folders of records: damage is named, nothing is torn, duplicates are settled."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from records_kit import fill, make, seal

from circuitbench.core.errors import CorruptRecord, InvalidSpec
from circuitbench.results import (
    check_folder,
    entries,
    find_record,
    read,
    read_folder,
    read_record,
    write_record,
)
from circuitbench.results.text import to_bytes


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
        (whole + "\n", "checksum does not match"),
        (
            whole.replace('"schema": 2', '"schema": 0'),
            "schema 0.* reads 1 to 2; run it",
        ),
        (whole.replace('"schema": 2', '"schema": 3'), "schema 3.* newer circuitbench"),
        (whole.replace('"schema": 2', '"schema": true'), "schema True"),
        (whole.replace('"schema": 2', '"schema": 1'), "checksum does not match"),
        ("[" * 100_000, "nested too deeply|not JSON|truncated"),
        ('{"schema": 2, "spec": ' + "[" * 5000 + "]" * 5000 + "}", "deeply|checksum"),
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


def test_every_truncation_and_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = write_record(make(), tmp_path)
    whole = path.read_bytes()
    rng = random.Random(0)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptRecord, match=path.name):
            read_record(path)
    for _ in range(300):
        place, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
        damaged = bytearray(whole)
        damaged[place] ^= bit
        path.write_bytes(damaged)
        with pytest.raises(CorruptRecord, match=path.name) as caught:
            read_record(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"run_id": "0" * 16}, "run_id does not belong"),
        ({"discovery": []}, "discovery must be an object"),
        ({"reason": 3}, "reason must be text"),
        ({"extra": 1}, "wrong entries: extra"),
        ({"metrics": {}}, "wrong entries: metrics"),
        ({"status": "great"}, "unknown status 'great'; valid: done"),
        ({"stage": "great"}, "unknown stage 'great'; valid: loading"),
        ({"spec": {"task": "<script>", "method": "x", "model": "m", "seed": 0}}, "not a task name"),
    ],
)
def test_forged_content_with_a_right_checksum_is_still_checked(
    tmp_path: Path, change: dict[str, Any], fault: str
) -> None:
    path = tmp_path / "forged.json"
    path.write_bytes(seal({**make().content(), **change}))
    with pytest.raises(CorruptRecord, match=fault):
        read_record(path)


@pytest.mark.parametrize("number", ["1e999", "-1E400", "1" * 400 + ".0", "[[0.5, 1e+309]]"])
def test_a_number_that_overflows_is_not_finite(tmp_path: Path, number: str) -> None:
    path = tmp_path / "forged.json"
    data = seal({**make().content(), "measurements": {"x": "HERE"}}).replace(b'"HERE"', b"HERE")
    body = data[: data.index(b'"checksum"')].replace(b"HERE", number.encode())
    import hashlib

    path.write_bytes(body + f'"checksum": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode())
    with pytest.raises(CorruptRecord, match=r"measurements\.x.* is -?inf; a record holds finite"):
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
                write_record(make(measurements={}), path.parent)
    assert path.read_text() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_read_with_its_problems(tmp_path: Path) -> None:
    first, second = make(0), make(1)
    write_record(second, tmp_path)
    kept = write_record(first, tmp_path / "b")
    other = tmp_path / "a.json"
    other.write_bytes(to_bytes(first.replace(created="2030")))
    write_record(first, tmp_path / "c")  # the same to the last byte: no problem
    broken = tmp_path / "z.json"
    broken.write_text('{"schema": 1')
    (tmp_path / "leaderboard.json").write_text("{}")
    (tmp_path / ".hidden.json").write_text("{}")
    records, problems = read_folder(tmp_path)
    assert records == [first, second]
    assert records[0].path == kept
    assert [p.path for p in problems] == [other, broken]
    assert f"duplicate of {kept}, and not the same" in str(problems[0])
    assert str(broken) in str(problems[1])


def test_an_empty_folder_and_an_absent_one(tmp_path: Path) -> None:
    assert read_folder(tmp_path) == ([], [])
    assert entries(tmp_path) == ([], [])
    with pytest.raises(InvalidSpec, match="no such results folder"):
        read_folder(tmp_path / "absent")


def test_a_finished_record_wins_over_an_earlier_failed_one(tmp_path: Path) -> None:
    failed = make(status="failed", reason="boom", discovery={}, created="2020")
    write_record(failed, tmp_path / "a")
    write_record(make(), tmp_path / "b")
    (record,), (problem,) = read_folder(tmp_path)
    assert record.status == "done"
    assert problem.path.parent.name == "a"


def test_entries_list_without_reading_and_change_with_the_file(tmp_path: Path) -> None:
    fill(tmp_path, make(0), make(1))
    (tmp_path / "broken.json").write_text("{")
    before, problems = entries(tmp_path)
    assert problems == []
    assert [entry.path.name for entry in before] == sorted(p.name for p in tmp_path.iterdir())
    assert {read(entry).seed for entry in before[:2]} == {0, 1}
    changed = write_record(make(1, reason="longer"), tmp_path)
    after, _ = entries(tmp_path)
    assert {entry.path for entry in set(after) - set(before)} == {changed}


def test_a_run_is_found_by_the_first_digits_of_its_id(tmp_path: Path) -> None:
    first, second = make(0), make(1)
    fill(tmp_path, first, second)
    assert find_record(first.run_id[:6], tmp_path) == first
    failed = first.replace(status="failed", reason="boom", discovery={}, created="2020")
    fill(tmp_path / "a", failed)
    assert find_record(first.run_id, tmp_path) == first
    for start, fault in (("", "no run begins"), ("zz", "no run begins with 'zz'")):
        with pytest.raises(InvalidSpec, match=fault):
            find_record(start, tmp_path)
    fill(tmp_path, *(make(seed) for seed in range(2, 40)))
    with pytest.raises(InvalidSpec, match=r"\d+ runs begin with '.'"):
        find_record(max("0123456789abcdef", key=lambda x: _n(tmp_path, x)), tmp_path)


def _n(folder: Path, digit: str) -> int:
    return sum(path.stem.rpartition("_")[2].startswith(digit) for path in folder.iterdir())
