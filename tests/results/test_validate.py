"""Validation: what a record claims must hold together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from records_kit import fill, make

from circuitbench.core.errors import InvalidSpec
from circuitbench.results.validate import checked_records, validate

ONE = make()
TRACE = ONE.discovery["trace"]


def test_a_sound_folder_has_no_problem(tmp_path: Path) -> None:
    report = validate(fill(tmp_path, make(0), make(1), make(2, status="failed", reason="boom")))
    assert report.ok
    assert report.text() == f"{tmp_path}: 3 valid records, 0 problems\n"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"status": "skipped"}, "status skipped without a reason"),
        ({"model": {"n_layers": 3, "n_heads": 2}}, "scores have shape"),
        ({"model": {}}, "discovery or truth cannot be read"),
        ({"discovery": {}}, "discovery or truth cannot be read"),
        ({"discovery": {**ONE.discovery, "selected": ["5.5"]}}, "outside the model"),
        ({"discovery": {**ONE.discovery, "selected": ["x"]}}, "not a head"),
        ({"discovery": {**ONE.discovery, "trace": TRACE * 2}}, "rising queries"),
        ({"truth": {"roles": ["x"]}}, "discovery or truth cannot be read"),
        ({"costs": {"discovery": {"queries": 501}}}, "501 queries were spent of a budget of 500"),
        ({"costs": {"discovery": {"queries": 3}}}, "the trace ends after 4 queries, but 3"),
    ],
)
def test_what_does_not_hold_together_is_named(
    tmp_path: Path, change: dict[str, Any], fault: str
) -> None:
    fill(tmp_path, make(1), ONE.replace(**change))
    good, problems = checked_records(tmp_path)
    assert [record.seed for record in good] == [1]
    (problem,) = problems
    assert fault in problem.message
    assert ONE.run_id in str(problem.path)
    assert "\n" not in str(problem)


def test_an_absent_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="no such results folder"):
        validate(tmp_path / "absent")
