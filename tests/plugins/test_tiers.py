"""Tiers: which tasks on which models, and plantings that follow from the seed."""

import json

import pytest

from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.models.trained import puzzles
from circuitbench.models.trained.load import training_seeds
from circuitbench.plugins.registry import list_plugins
from circuitbench.plugins.tiers import (
    PLACES,
    PUZZLES,
    TIERS,
    TRAININGS,
    TUNED_ON,
    model_for,
    places,
    planting,
    preset_of,
    tier_of,
)
from circuitbench.runs.spec import build_spec
from circuitbench.runs.sweep import tier_grid


def test_every_tier_has_four_tasks_that_exist_and_no_place_is_in_two() -> None:
    tasks, models = ({p.name for p in list_plugins(kind)} for kind in ("task", "model"))
    everywhere = [place for found in PLACES.values() for place in found]
    assert set(PLACES) == set(TIERS)
    assert len(set(everywhere)) == len(everywhere)
    for found in PLACES.values():
        assert len({place.task for place in found}) >= 4
    assert {place.task for place in everywhere} <= tasks
    assert {place.model for place in everywhere} <= models


def test_plantings_follow_from_tier_and_seed_and_are_none_that_was_tuned_on() -> None:
    drawn = [planting(tier, seed) for tier in TIERS for seed in range(200)]
    assert len(set(drawn)) == len(drawn)
    assert min(drawn) > max(TUNED_ON)
    assert planting("hard", 3) == planting("hard", 3)


def test_a_run_is_of_a_tier_only_on_the_planting_drawn_for_its_seed() -> None:
    model = f"planted-hard@{planting('hard', 2)}"
    assert tier_of("ioi", model, 2) == "hard"
    assert preset_of("ioi", model, 2) == "planted-hard"
    assert tier_of("ioi", model, 3) is None
    assert tier_of("ioi", "planted-hard", 0) is None
    assert tier_of("ioi", "planted-hard@0", 0) is None
    assert tier_of("trained-induction", "trained-induction", 7) == "trained"
    assert preset_of("trained-induction", "trained-induction", 7) is None


def test_training_seeds_follow_from_the_seed_and_all_of_them_ship() -> None:
    assert set(PUZZLES) == set(puzzles.PUZZLES)
    for name in PUZZLES:
        assert training_seeds(name) == [str(seed) for seed in range(TRAININGS)]
    (place,) = (found for found in places("trained") if found.task == "trained-ioi")
    names = [model_for("trained", place, seed) for seed in range(TRAININGS + 2)]
    assert names[:2] == ["trained-ioi@0", "trained-ioi@1"] == names[TRAININGS:]
    assert len(set(names)) == TRAININGS
    assert tier_of("trained-ioi", "trained-ioi@1", TRAININGS + 1) == "trained"
    assert preset_of("trained-ioi", "trained-ioi@1", 1) == "trained-ioi"
    for model in ("trained-ioi@1", "trained-ioi", "trained-two-hop@0"):
        assert tier_of("trained-ioi", model, 0) is None


def test_a_sweep_of_a_tier_puts_every_seed_on_a_planting_of_its_own() -> None:
    specs = tier_grid(build_spec(), ["acdc", "random"], "hard", [0, 1])
    assert len(specs) == 2 * len(places("hard")) * 2
    assert {s.model for s in specs if s.seed == 0}.isdisjoint(s.model for s in specs if s.seed == 1)
    at = places("hard")[0]
    assert specs[0].model == model_for("hard", at, 0)
    named = {str(s.model) for s in specs if s.seed == 1}
    assert len({name for name in named if name.startswith("planted-hard@")}) == 1
    with pytest.raises(UnknownName, match="did you mean 'hard'"):
        tier_grid(build_spec(), ["acdc"], "hrad", [0])
    with pytest.raises(InvalidSpec, match="models of its own"):
        tier_grid(build_spec({"model": "planted"}), ["acdc"], "hard", [0])


def test_json_of_tasks_says_their_tiers() -> None:
    from circuitbench.cli.listing import rows_of

    rows = json.loads(json.dumps(rows_of("tasks", "trained")))
    assert {"trained-induction"} <= {row["name"] for row in rows}
    assert all("trained" in row["tiers"] for row in rows)
    with pytest.raises(InvalidSpec, match="only tasks"):
        rows_of("methods", "hard")
