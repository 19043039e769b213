"""Records of schema 1, as the first reference run wrote them, read as records of today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from circuitbench.core.errors import CorruptRecord
from circuitbench.evaluation.against_truth.ranking import average_precision
from circuitbench.evaluation.outcome import Outcome
from circuitbench.results import read_folder, read_record, write_record
from circuitbench.results.convert import checksum
from circuitbench.results.packing import pack_folder
from circuitbench.results.validate import validate

FOLDER = Path(__file__).parent / "schema1"
FILES = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.split("_")[0])
def test_it_is_the_same_run_without_what_follows_from_it(path: Path, tmp_path: Path) -> None:
    old = json.loads(path.read_text())
    record = read_record(path)
    assert record.run_id == old["run_id"]
    for name in ("spec", "status", "discovery", "truth", "costs", "model", "versions", "created"):
        assert getattr(record, name) == old[name]
    measured = old["metrics"]["efficiency"]
    efficiency = {key: measured[key] for key in ("area", "queries_to_90")}
    assert record.measurements == {**old["metrics"]["functional"], "efficiency": efficiency}
    assert (record.stage, record.traceback) == ("", "")
    assert record.info["method"]["title"]
    written = write_record(record, tmp_path)
    assert written.name == path.name
    assert read_record(written) == record
    assert "metrics" not in json.loads(written.read_text())


def test_what_it_measured_before_it_rounded_the_trace_is_kept() -> None:
    old = json.loads(FILES[-1].read_text())
    measurements = read_record(FILES[-1]).measurements
    measurements["efficiency"]["area"]["average_precision"] = 0.125
    costs = {**old["costs"], "training": {"queries": 0}}  # training moves the whole curve
    outcome = Outcome(old["discovery"], old["truth"], costs, measurements)
    assert outcome.area(average_precision) == 0.125
    assert outcome.queries_to_target == old["metrics"]["efficiency"]["queries_to_90"]


def test_it_is_read_packed_and_validated_like_any_other(tmp_path: Path) -> None:
    assert len(FILES) == 3
    assert validate(FOLDER).ok
    pack_folder(FOLDER, tmp_path)
    assert read_folder(tmp_path) == (read_folder(FOLDER)[0], [])


def test_it_is_checked_as_it_always_was(tmp_path: Path) -> None:
    content = json.loads(FILES[0].read_text())
    path = tmp_path / "old.json"
    changes: list[tuple[dict[str, object], str]] = [
        ({"status": "failed"}, "checksum does not match"),
        ({"checksum": None, "run_id": "0" * 16}, "run_id does not belong"),
        ({"checksum": None, "extra": 1}, "wrong entries: extra"),
        ({"checksum": None, "discovery": []}, "discovery must be an object"),
        ({"checksum": None, "metrics": []}, "measurements must be an object"),
        ({"checksum": None, "spec": 3}, "spec must be an object"),
        ({"checksum": None, "status": "great"}, "unknown status"),
    ]
    for change, fault in changes:
        forged = {**content, **change}
        if forged["checksum"] is None:
            forged["checksum"] = checksum(forged)
        path.write_text(json.dumps(forged))
        with pytest.raises(CorruptRecord, match=fault):
            read_record(path)
    del content["family"]
    content["checksum"] = checksum(content)
    path.write_text(json.dumps(content))
    with pytest.raises(CorruptRecord, match="wrong entries: family"):
        read_record(path)
