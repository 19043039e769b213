"""Lists: what plug-ins and metrics say of themselves, in 100 columns."""

import json
from typing import Any

import pytest

from circuitbench.cli import main

KNOWN = {
    "methods": ("edge-attribution-patching", "Gradient attribution", "Syed et al. 2023"),
    "tasks": ("greater-than", "Planted", "Hanna et al. 2023"),
    "models": ("compiled-dyck", "Compiled", "Lindner et al. 2023"),
    "metrics": ("average_precision", "quality", "higher"),
}


@pytest.mark.parametrize("what", KNOWN)
def test_a_list_fits_100_columns_and_names_everything(
    what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", what]) == 0
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 100
    for part in KNOWN[what]:
        assert part in table
    assert main(["list", what, "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    lines = {line.split()[0] for line in table.splitlines()}
    assert {row["name"] for row in rows} <= lines
    assert all(row["title"] and row["origin"] for row in rows)


def test_an_unknown_list_is_told_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "metric"]) == 2
    assert "did you mean 'metrics'" in capsys.readouterr().err
