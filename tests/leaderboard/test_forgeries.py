"""Boards of forged records: what cannot be shown is left out and named, and nothing crashes."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from forgeries import forge, put, sealed
from synthetic_records import record, store, sweep

from circuitbench.results.text import to_bytes
from circuitbench.results.validate import validate
from circuitbench_leaderboard import FORMATS, render

CONTENT = json.loads(to_bytes(record("acdc", "ioi")))


def forged(rng: random.Random) -> bytes:
    while True:
        try:
            return sealed(forge(CONTENT, rng))
        except ValueError:  # more digits than Python writes
            continue


def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("circuitbench_leaderboard.figures.draw", lambda board: [])


@pytest.mark.parametrize("format", FORMATS)
def test_forged_records_never_crash_a_board(
    tmp_path: Path, format: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_figures(monkeypatch)
    folder = store([record("random", "ioi")], tmp_path / "records")
    rng = random.Random(format)
    for i in range(60):
        (folder / f"forged{i}.json").write_bytes(forged(rng))
    text = render(folder, format)
    assert "random" in text
    assert "<script>alert(1)" not in text or format in ("csv", "latex", "json")
    assert validate(folder).n_records


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (("versions", "torch"), "\ud800", "no Unicode"),
        (("discovery", "scores", 0, 0), "\u0663", "no number"),
        (("discovery", "scores", 0, 0), "0.5", "no number"),
        (("discovery", "selected"), ["\u0669.\u0666"], "not a head"),
        (("discovery", "trace", 0, "queries"), "\u0663", "no whole number"),
        (("discovery", "trace", 0, "queries"), -3, "rising"),
        (("discovery", "info"), json.loads("[" * 300 + "]" * 300), "recursion limit"),
    ],
)
def test_what_no_record_holds_is_named_and_left_out(
    tmp_path: Path, path: Any, value: Any, fault: str
) -> None:
    folder = store([record("random", "ioi")], tmp_path)
    (folder / "forged.json").write_bytes(sealed(put(CONTENT, path, value)))
    warnings: list[str] = []
    render(folder, "markdown", warn=warnings.append)
    assert len(warnings) == 1
    assert "forged.json" in warnings[0]
    assert fault in warnings[0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("format", FORMATS)
def test_numbers_at_the_end_of_the_scale_are_no_means(
    tmp_path: Path, format: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_figures(monkeypatch)
    runs = []
    for one in sweep(("acdc", "random"), seeds=range(2)):
        spent = {**one.costs["discovery"], "method_seconds": 1e308, "peak_memory_bytes": 1e308}
        scores = [[1e308 * (-1) ** (i + j) for j in range(8)] for i in range(6)]
        runs.append(
            one.replace(
                costs={"discovery": spent, "training": {"queries": 1e308}},
                discovery={**one.discovery, "scores": scores},
            )
        )
    folder = store(runs, tmp_path)
    warnings: list[str] = []
    text = render(folder, format, warn=warnings.append)
    assert "acdc" in text
    assert "Infinity" not in text
    assert any("too large to be averaged" in line for line in warnings)


def test_what_is_no_file_is_named_and_not_read(tmp_path: Path) -> None:
    folder = store([record("random", "ioi")], tmp_path)
    os.mkfifo(folder / "pipe.json")
    (folder / "folder.json").mkdir()
    with (folder / "large.json").open("wb") as file:
        file.truncate((1 << 28) + 1)
    warnings: list[str] = []
    render(folder, "json", warn=warnings.append)
    assert sorted(line.rpartition(": ")[2] for line in warnings) == [
        "268,435,457 bytes; at most 268,435,456 are read",
        "not a file",
    ]


def test_long_names_fit_into_a_file_system(tmp_path: Path) -> None:
    one = record("acdc", "ioi")
    long = one.replace(spec={**one.spec, "method": "m" * 100, "task": "t" * 100, "seed": 10**80})
    folder = store([long], tmp_path)
    assert validate(folder).ok
    (path,) = folder.iterdir()
    assert path.name.endswith(f"_{long.run_id}.json")
