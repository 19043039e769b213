"""Submissions: what is packed, what is refused, and what repeating some runs says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from page_kit import data_of
from synthetic_records import record, store, sweep

from circuitbench.core.errors import CircuitBenchError, InvalidSpec, UnknownName
from circuitbench.results import Record, read_folder
from circuitbench_leaderboard import load_board
from circuitbench_leaderboard.commands import submit as submit_verb
from circuitbench_leaderboard.page import pages
from circuitbench_leaderboard.submission import Submitted, submit, verify
from circuitbench_leaderboard.submission.manifest import MANIFEST, VERIFICATION, standing_of
from circuitbench_leaderboard.submission.verify import sample

TUNED = "planted seeds 100-199"


@pytest.fixture
def submitted(tmp_path: Path) -> Submitted:
    results = store(sweep(("acdc", "random"), seeds=range(5)), tmp_path / "results")
    return submit(
        results, tmp_path / "out", tuned_on=TUNED, method="acdc", package="acdc-heads==1.0"
    )


def same(one: Record) -> Record:
    return one


def other(one: Record) -> Record:
    """What the run might give elsewhere."""
    return record(one.method, one.task, one.seed, skill=0.0)


def test_a_submission_holds_what_a_pull_request_needs(submitted: Submitted) -> None:
    assert submitted.folder.name == "acdc"
    files = {p.name for p in submitted.folder.rglob("*") if p.is_file()}
    assert files == {MANIFEST, "README.md", "requirements.txt", "acdc.zip"}
    said = yaml.safe_load((submitted.folder / MANIFEST).read_text())
    assert (said["method"], said["runs"], said["seeds"]) == ("acdc", 10, [0, 1, 2, 3, 4])
    assert said["source"] == "0.1.0 @ 012345678"
    assert said["tuned_on"] == TUNED
    assert said["settings"]["hyperparameters"] == {"rounds": "3"}
    assert said["tasks"] == {"embedded": ["induction / planted", "ioi / planted"]}
    assert "tier hard: all of it" in said["missing"]
    records, problems = read_folder(submitted.folder)
    assert (len(records), problems) == (10, [])
    assert "| ioi / planted | 5 |" in submitted.text


def test_the_same_records_are_packed_to_the_same_bytes(
    submitted: Submitted, tmp_path: Path
) -> None:
    again = submit(tmp_path / "results", tmp_path / "out", tuned_on=TUNED, method="acdc")
    assert again.manifest.sha256 == submitted.manifest.sha256


def test_missing_runs_are_named(tmp_path: Path) -> None:
    records = [r for r in sweep(("acdc",), seeds=range(3)) if (r.task, r.seed) != ("ioi", 1)]
    made = submit(store(records, tmp_path / "results"), tmp_path / "out", tuned_on=TUNED)
    assert made.manifest.missing[:2] == ["3 of 5 seeds", "ioi / planted: seed 1"]


def versions(**changes: str) -> dict[str, Any]:
    return {"versions": {**record().versions, **changes}}


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([record("acdc"), record("random")], "choose one with --method"),
        ([record(), record(seed=1, **versions(commit="f" * 40))], "one version and commit"),
        ([record(**versions(commit="f" * 40 + "-dirty"))], "a changed tree"),
        ([record(), record(seed=1, **versions(torch="1.0"))], "several settings"),
        ([record(hardware={"isolation": "in-process"})], "--in-process"),
        ([record(status="failed", reason="x", discovery={})], "none of the runs is finished"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    records: list[Record], why: str, tmp_path: Path
) -> None:
    results = store(records, tmp_path / "results")
    with pytest.raises(InvalidSpec, match=why):
        submit(results, tmp_path / "out", tuned_on=TUNED)


def test_damaged_records_are_refused(tmp_path: Path) -> None:
    results = store([record()], tmp_path / "results")
    (results / "broken.json").write_text("{")
    with pytest.raises(InvalidSpec, match=r"circuitbench validate"):
        submit(results, tmp_path / "out", tuned_on=TUNED)


def test_the_verb_says_what_to_say(tmp_path: Path) -> None:
    results = store([record()], tmp_path / "results")
    with pytest.raises(InvalidSpec, match="say on what the settings were tuned"):
        CliRunner().invoke(submit_verb, [str(results)], catch_exceptions=False)


def test_a_verified_submission_says_so_on_the_page(submitted: Submitted) -> None:
    def checked() -> Any:
        standing_of.cache_clear()
        shell = pages(load_board(submitted.folder.parent), [], [], Path())["index.html"]
        (method,) = data_of(shell)["methods"]
        return method["checked"]

    assert checked() == "claimed"
    found = verify(submitted.folder, 7, again=same)
    assert found.verification.outcome == "verified"
    assert "2 of 2 runs gave the same numbers" in found.text()
    assert checked() == "verified"
    path = submitted.folder / VERIFICATION
    path.write_text(path.read_text().replace(submitted.manifest.sha256, "0" * 64))
    assert checked() == "claimed"


def test_other_numbers_are_claimed(submitted: Submitted) -> None:
    found = verify(submitted.folder, 7, again=other).verification
    assert found.outcome == "claimed"
    assert all(any("average_precision was" in line for line in c.differs) for c in found.cells)


@pytest.mark.parametrize("error", [UnknownName("method", "acdc", []), CircuitBenchError("no")])
def test_what_cannot_be_repeated_is_claimed(submitted: Submitted, error: Exception) -> None:
    def fail(one: Record) -> Record:
        raise error

    found = verify(submitted.folder, 7, again=fail).verification
    assert found.outcome == "claimed"
    assert "could not be repeated" in found.cells[0].differs[0]


def test_an_exchanged_archive_is_refused(submitted: Submitted, tmp_path: Path) -> None:
    results = store(sweep(("acdc",), seeds=range(4)), tmp_path / "others")
    better = submit(results, tmp_path / "better", tuned_on=TUNED)
    theirs = (better.folder / better.manifest.archive).read_bytes()
    (submitted.folder / submitted.manifest.archive).write_bytes(theirs)
    with pytest.raises(InvalidSpec, match="SHA-256 differs"):
        verify(submitted.folder, 7, again=same)


def test_a_manifest_that_overstates_is_refused(submitted: Submitted) -> None:
    path = submitted.folder / MANIFEST
    path.write_text(path.read_text().replace("runs: 10", "runs: 100"))
    with pytest.raises(InvalidSpec, match="states something else"):
        verify(submitted.folder, 7, again=same)


@pytest.mark.parametrize("archive", ["../../secret.zip", "/etc/passwd", "records/../x.zip"])
def test_an_archive_is_looked_for_inside_only(submitted: Submitted, archive: str) -> None:
    path = submitted.folder / MANIFEST
    said = yaml.safe_load(path.read_text()) | {"archive": archive}
    path.write_text(json.dumps(said))
    with pytest.raises(InvalidSpec, match="archive"):
        verify(submitted.folder, 7, again=same)


def test_a_sample_is_one_run_per_task_whatever_the_planting() -> None:
    records = [
        record("acdc", task, seed, model=f"planted-hard@{1000 + seed}")
        for task in ("ioi", "induction")
        for seed in range(5)
    ]
    drawn = {number: [(r.task, r.seed) for r in sample(records, number)] for number in range(8)}
    assert all([task for task, _ in found] == ["induction", "ioi"] for found in drawn.values())
    assert len({tuple(found) for found in drawn.values()}) > 1
    assert drawn[3] == [(r.task, r.seed) for r in sample(records[::-1], 3)]
