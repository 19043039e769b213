"""The table of the frozen policy against what does not learn, from invented records."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts import load_script
from synthetic_records import record, store

from circuitbench.plugins.tiers import planting

SKILLS = {"rl-ppo": (9.0, 9.0), "acdc": (0.3, 9.0), "random": (0.0, 0.0)}


def test_rivals_are_compared_on_the_same_plantings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [
        record(method, "ioi", s, model=f"planted-hard@{planting('hard', s)}", skill=skill)
        for method, skills in SKILLS.items()
        for s, skill in enumerate(skills)
    ]
    records.append(record("head-ablation", "ioi", 0, model=records[0].spec["model"], skill=9.0))
    folder = store(records, tmp_path)
    load_script("frozen_policy").show(folder, "rl-ppo")
    _, _, row = capsys.readouterr().out.splitlines()
    _, task, plantings, ours, rival, compared, control, _ = (
        part.strip() for part in row.split("|")
    )
    assert (task, plantings, compared, control) == ("ioi", "2", "1, 0", "–")
    assert ours == "1.000 [1.000, 1.000]"
    assert rival.startswith("acdc 0.")  # head-ablation lacks a planting
    assert rival.endswith(", 1.000]")
