"""A board stands on one version and one commit; tiers and tracks as records state them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from page_kit import data_of
from synthetic_records import light, record, rows, sweep

from circuitbench.core.errors import InvalidSpec
from circuitbench.plugins import tiers
from circuitbench.results.record import canonical
from circuitbench_leaderboard.board import board
from circuitbench_leaderboard.cards import read_health
from circuitbench_leaderboard.groups import TRACKS, tier_of, tiers_in_order, track_of
from circuitbench_leaderboard.page import pages
from circuitbench_leaderboard.sources import ANY, choose_source
from circuitbench_leaderboard.tables import tables

OTHER = {"circuitbench": "0.2.0", "torch": "2.13.0", "commit": "f" * 40}
OLD, NEW = "0.1.0 @ 012345678", "0.2.0 @ fffffffff"


@pytest.fixture
def mixed() -> Any:
    """Two methods of one commit, and one of another."""
    others = [r.replace(versions=OTHER) for r in sweep(("rl-ppo",), seeds=range(2))]
    return rows([*sweep(("acdc", "random"), seeds=range(2)), *others])


def test_rows_of_another_commit_are_not_ranked(mixed: Any) -> None:
    shown = board(mixed)
    assert shown.source == OLD
    assert [s.entry.label for s in shown.overall.standings] == ["acdc", "random"]
    (table,) = (table for table in tables(shown) if table.key == "elsewhere")
    ((name, value, *_),) = (row.fields for row in table.rows)
    assert name.text == "rl-ppo"
    alone = board([run for run in mixed if run.method == "rl-ppo"])
    found = alone.overall.standings[0].estimates["average_precision"]
    assert found is not None
    assert value.raw == pytest.approx(found.mean)
    assert OLD in table.note


@pytest.mark.parametrize(
    ("commit", "ranked"),
    [("0.2.0", ["rl-ppo"]), ("fff", ["rl-ppo"]), (ANY, ["acdc", "random", "rl-ppo"])],
)
def test_another_source_is_ranked_when_asked_for(mixed: Any, commit: str, ranked: Any) -> None:
    shown = board(mixed, commit=commit)
    assert [s.entry.label for s in shown.overall.standings] == ranked
    assert all(table.key != "elsewhere" for table in tables(shown)) == (commit == ANY)


def test_an_unknown_source_is_refused_with_those_that_are_there(mixed: Any) -> None:
    with pytest.raises(InvalidSpec, match=f"no sources .*{OLD}, {NEW}"):
        choose_source(mixed, "0.9")
    with pytest.raises(InvalidSpec, match="2 sources"):
        choose_source(mixed, "0.")


def test_of_equally_many_runs_the_newest_source_is_ranked() -> None:
    old = light("acdc", "ioi", 0, 0.5, created="2026-01-01", versions_text=canonical({"a": 1}))
    new = light("acdc", "ioi", 0, 0.5, created="2026-01-02", versions_text=canonical(OTHER))
    assert choose_source([new, old]) == choose_source([old, new]) == NEW


def test_a_tier_counts_only_where_the_run_belongs_to_it() -> None:
    model = tiers.model_for("hard", tiers.Place("ioi", "planted-hard", True), 3)
    assert tier_of(light("acdc", "ioi", 3, 0.5, model_name=model)) == "hard"
    assert tier_of(light("acdc", "ioi", 4, 0.5, model_name=model)) == "embedded"
    assert tiers_in_order(["embedded", "trained", "easy"]) == ["easy", "trained", "embedded"]


def test_tracks() -> None:
    told = canonical({"training": {"track": "other-models"}})
    assert track_of(light("x", "ioi", 0, 0.5, info_text=told)) == TRACKS["other-models"]
    trained = light("x", "ioi", 0, 0.5, values={"training_queries": 10.0})
    assert track_of(trained) == TRACKS["same-model"]
    assert track_of(light("x", "ioi", 0, 0.5)) == TRACKS["none"]


def test_health_cards_are_shown_with_their_task(tmp_path: Path) -> None:
    check = '{"name": "accuracy", "value": 1, "relation": ">=", "limit": 0.99, "passed": true}'
    (tmp_path / "ioi.json").write_text(
        f'{{"task": "ioi", "model": "planted", "ablation": "zero", "passed": true, '
        f'"checks": [{check}]}}'
    )
    (tmp_path / "broken.json").write_text("[]")
    said: list[str] = []
    health = read_health(tmp_path, said.append)
    assert health["ioi", "planted"]["checks"] == [["accuracy", 1.0, ">= 0.99", True]]
    assert len(said) == 1
    assert "broken.json is no health card" in said[0]
    with pytest.raises(InvalidSpec, match="no folder of health cards"):
        read_health(tmp_path / "absent")


def test_a_page_names_what_a_method_misses() -> None:
    shown = board(rows([record("random", "ioi", seed) for seed in range(3)]))
    (method,) = data_of(pages(shown, [], [], Path())["index.html"])["methods"]
    assert method["weakest"][0][1] in {"name_mover", "s_inhibition", "duplicate_token"} | {
        "negative_mover"
    }
    recalls = [recall for *_, recall in method["weakest"]]
    assert recalls == sorted(recalls)
    assert recalls[0] < 1
