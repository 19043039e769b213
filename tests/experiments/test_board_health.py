"""The script that makes the health cards a board shows."""

from __future__ import annotations

from pathlib import Path

from scripts import load_script
from synthetic_records import record, store

from circuitbench_leaderboard.cards import read_health


def test_each_task_on_a_board_gets_the_card_of_the_model_shown(tmp_path: Path) -> None:
    invented = [record("acdc", seed=seed) for seed in (0, 1)]
    asked = {"task": "most-frequent", "model": "compiled-most-frequent"}
    runs = [found.replace(spec={**found.spec, **asked}) for found in invented]
    folder = tmp_path / "health"
    script = load_script("board_health")
    script.make(store(runs, tmp_path / "records"), folder)
    health = read_health(folder)
    assert list(health) == [("most-frequent", "compiled-most-frequent")]
    (card,) = health.values()
    assert card["passed"] is True
    (path,) = folder.iterdir()
    path.write_text(path.read_text().replace("true", "false"))
    script.make(tmp_path / "records", folder)  # what is there stays
    assert read_health(folder)["most-frequent", "compiled-most-frequent"]["passed"] is False
