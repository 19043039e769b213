"""Comparing two methods or folders, and validating a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_records import record, rows, store, sweep

from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.results import write_record
from circuitbench.results.validate import validate
from circuitbench_leaderboard import compare


def test_two_methods_are_compared_on_matched_runs(tmp_path: Path) -> None:
    records = sweep(("acdc", "rl-ppo"), seeds=range(4))
    folder = store(
        [r for r in records if (r.method, r.task, r.seed) != ("acdc", "ioi", 3)], tmp_path
    )
    found = compare("acdc", "rl-ppo", folder)
    total, induction, ioi = found.differences
    assert (total.group, induction.group, ioi.group) == (
        "all",
        "induction / planted",
        "ioi / planted",
    )
    assert (total.pairs, induction.pairs, ioi.pairs) == (7, 4, 3)
    values = {
        (r.method, r.seed): r.values["average_precision"]
        for r in rows(records)
        if r.task == "ioi" and r.seed < 3
    }
    assert ioi.a == pytest.approx(sum(values["acdc", s] for s in range(3)) / 3)
    assert ioi.difference == pytest.approx(ioi.b - ioi.a)
    assert total.p_value == 2 / 2**7
    assert ioi.improvement == 1
    assert found.only_b == ("rl-ppo, ioi / planted, seed 3",)
    assert found.only_a == ()
    text = found.text()
    assert "| ioi / planted | 3 |" in text
    assert "Only in B:\n- rl-ppo, ioi / planted, seed 3" in text
    assert json.loads(json.dumps(found.as_dict()))["matched"] == 7


def test_the_direction_of_a_metric_decides_who_beats_whom(tmp_path: Path) -> None:
    folder = store(sweep(("acdc", "rl-ppo"), seeds=range(2)), tmp_path)
    found = compare("acdc", "rl-ppo", folder, by="queries")
    assert found.differences[0].a < found.differences[0].b
    assert found.differences[0].improvement == 0
    assert "Queries (lower is better) of acdc (A) and rl-ppo (B)" in found.text()
    with pytest.raises(InvalidSpec, match="neither higher nor lower cpr_zero is better"):
        compare("acdc", "rl-ppo", folder, by="cpr_zero")


def test_a_method_against_itself_does_not_differ(tmp_path: Path) -> None:
    found = compare("acdc", "acdc", store(sweep(("acdc",), seeds=range(2)), tmp_path))
    assert found.identical == found.matched == 4
    assert all(d.difference == 0 and d.p_value == 1 for d in found.differences)


def test_folders_match_by_spec_across_versions(tmp_path: Path) -> None:
    old = sweep(("acdc",), seeds=range(2))
    newer = [r.replace(versions={**r.versions, "torch": "9"}) for r in old[:-1]]
    changed = record("acdc", newer[0].task, skill=0.1).replace(versions=newer[0].versions)
    a, b = store(old, tmp_path / "a"), store([changed, *newer[1:]], tmp_path / "b")
    found = compare(str(a), str(b))
    assert (found.matched, found.identical) == (3, 2)
    assert found.versions == {"torch": ("2.13.0", "9")}
    assert found.only_a == ("acdc, ioi / planted, seed 1",)
    assert "torch: A has 2.13.0, B has 9" in found.text()


def test_nothing_in_common_is_said_not_tested(tmp_path: Path) -> None:
    a, b = store([record("acdc")], tmp_path / "a"), store([record("random")], tmp_path / "b")
    found = compare(str(a), str(b))
    assert found.differences == ()
    assert "0 runs matched" in found.text()


def test_settings_that_keep_runs_apart_are_named(tmp_path: Path) -> None:
    one = record("acdc")
    other = one.replace(spec={**one.spec, "hyperparameters": {"rounds": 4}, "batch_size": 16})
    a, b = store([one], tmp_path / "a"), store([other], tmp_path / "b")
    found = compare(str(a), str(b))
    assert found.settings == {"batch_size": ("none", "16"), "hyperparameters.rounds": ("3", "4")}
    assert "Nothing to compare: the settings differ." in found.text()
    assert "hyperparameters.rounds: A has 3, B has 4" in found.text()


def test_versions_from_records_are_harmless(tmp_path: Path) -> None:
    one = record("acdc")
    evil = one.replace(versions={**one.versions, "torch": "<script>|\n\x1b[31mx"})
    a, b = store([one], tmp_path / "a"), store([evil], tmp_path / "b")
    text = compare(str(a), str(b)).text()
    assert "<script>" not in text
    assert "\x1b" not in text


def test_wrong_requests(tmp_path: Path) -> None:
    folder = store([record("acdc")], tmp_path / "a")
    with pytest.raises(UnknownName, match="did you mean 'acdc'"):
        compare("acdc", "acd", folder)
    with pytest.raises(InvalidSpec, match="is a folder and acdc is not"):
        compare(str(folder), "acdc", folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidSpec, match="no records in"):
        compare(str(folder), str(tmp_path / "empty"))
    with pytest.raises(UnknownName, match="unknown metric"):
        compare("acdc", "acdc", folder, by="speed")


def test_a_good_folder_validates(tmp_path: Path) -> None:
    report = validate(store(sweep(("acdc", "random"), seeds=range(2)), tmp_path))
    assert report.ok
    assert report.n_records == 8
    assert report.text() == f"{tmp_path}: 8 valid records, 0 problems\n"


def test_an_empty_folder_validates_and_an_absent_one_does_not(tmp_path: Path) -> None:
    assert validate(tmp_path).text() == f"{tmp_path}: 0 valid records, 0 problems\n"
    with pytest.raises(InvalidSpec, match="no such results folder"):
        validate(tmp_path / "absent")


ONE = record("acdc")
BIG = [[0.0] * 8] * 5 + [["1e999"] * 8]
FAULTS: dict[str, dict[str, Any]] = {
    "scores have shape": {"discovery": {**ONE.discovery, "scores": [[1.0]]}},
    "outside the model": {"discovery": {**ONE.discovery, "selected": ["9.9"]}},
    "rising queries": {"discovery": {**ONE.discovery, "trace": ONE.discovery["trace"][::-1]}},
    "of a budget of 10": {"spec": {**ONE.spec, "budget": 10}},
    "but 5 were spent": {"costs": {"discovery": {"queries": 5}}},
    "cannot be read": {"discovery": {}},
    "not a finite": {"discovery": {**ONE.discovery, "trace": [{"queries": 1, "scores": BIG}]}},
    "without a reason": {"status": "failed"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_record_claims_is_checked(tmp_path: Path, fault: Any) -> None:
    path = write_record(ONE.replace(**FAULTS[fault]), tmp_path)
    report = validate(tmp_path)
    assert report.n_records == 0
    assert {problem.path for problem in report.problems} == {path}
    with pytest.raises(AssertionError, match=fault):
        raise AssertionError(report.text())


def test_damaged_and_duplicated_files_are_named(tmp_path: Path) -> None:
    path = write_record(ONE, tmp_path)
    (tmp_path / "same.json").write_text(path.read_text())
    later = ONE.replace(created="2027-01-01T00:00:00+00:00")
    write_record(later, tmp_path / "more").rename(tmp_path / "zz.json")
    (tmp_path / "cut.json").write_text(path.read_text()[:300])
    report = validate(tmp_path)
    assert report.n_records == 1
    assert [problem.path.name for problem in report.problems] == ["cut.json", "zz.json"]
    assert "2 problems" in report.text()
