"""A few of each fault; ``python tests/faults/campaign.py`` throws many more."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator
from pathlib import Path

import faulty_sweeps as faulty
import pytest
import rogues

STRANGE = [
    ("rogue-raises", {"what": "unreadable"}, "failed"),
    ("rogue-ends", {"how": "exit"}, "failed"),
    ("rogue-answers", {"what": "nan-info"}, "failed"),
    ("rogue-changes", {}, "done"),
]


@pytest.fixture
def plug_ins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("rogues")
    with rogues.installed(folder):
        yield


def nothing_lost(count: faulty.Count, injected: int) -> None:
    assert count.injected >= injected
    assert (count.lost, count.stray) == (0, 0), count


def test_workers_that_are_killed(tmp_path: Path) -> None:
    nothing_lost(faulty.workers_killed(tmp_path, times=5, runs=4), 5)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_driver_that_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    nothing_lost(faulty.driver_ended(tmp_path, number, times=1, runs=8), 1)


@pytest.mark.slow
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    nothing_lost(faulty.disk_full(tmp_path, runs=4), 1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_folder_that_takes_nothing(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_lost(faulty.folder_fails(tmp_path, number, 4, monkeypatch.setattr), 1)


def test_a_record_that_is_cut_or_changed(tmp_path: Path) -> None:
    nothing_lost(faulty.damaged(tmp_path, flips=3_000), 3_000)


def test_many_writers_of_one_record(tmp_path: Path) -> None:
    nothing_lost(faulty.many_writers(tmp_path, writers=16, times=4), 64)


def test_a_clock_that_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_lost(faulty.clock_jumps(tmp_path, 4, monkeypatch.setattr), 4)


def test_a_device_without_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_lost(faulty.memory_of_the_device(tmp_path, 6, monkeypatch.setattr), 2)


def test_plug_ins_that_misbehave(tmp_path: Path, plug_ins: None) -> None:
    nothing_lost(faulty.misbehaving(tmp_path, STRANGE, 4), 4)
