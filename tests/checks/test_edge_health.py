"""The gate's checks of edges pass every planted truth, and fail one that is wrong by one edge."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from circuitbench.checks.edge_health import edge_checks
from circuitbench.checks.health import validate_task
from circuitbench.checks.health_card import Check
from circuitbench.core.circuit import Edge
from circuitbench.models.limits import Limits
from circuitbench.models.planted.presets import Copies, PlantedConfig, planted_model
from circuitbench.oracle import Oracle
from circuitbench.plugins import registry
from circuitbench.tasks.planted.induction import Induction

SHOWN = ("planted-easy", "planted", "planted-redundant", "planted-hard", "planted-mlp")
TASKS = ("induction", "ioi", "docstring", "greater-than", "two-hop")
ONE = {"previous_token": Copies(1), "induction": Copies(1)}
IOI_ROLES = {"duplicate_token": Copies(1), "s_inhibition": Copies(1), "name_mover": Copies(2)}
SMALL = planted_model("small", PlantedConfig(4, 4, ONE | IOI_ROLES, lookalikes=2))
COPIES = planted_model(
    "copies",
    PlantedConfig(4, 4, {"previous_token": Copies(3, "or"), "induction": Copies(2)}, lookalikes=2),
)
MLPS = planted_model(
    "mlps",
    PlantedConfig(
        4,
        4,
        {"code_reader": Copies(2)},
        lookalikes=2,
        mlps={"number_code": 1, "number_table": 1},
        lookalike_mlps=1,
    ),
)


def checked(model: Any, name: str, change: Any = None, sets: int = 1) -> tuple[Check, ...]:
    """The edge checks of a task on a model, its true edges changed."""
    task = registry.load_task(name)
    truth: Any = task.truth(model)
    if change is not None:
        truth = replace(truth, edges=frozenset(change(truth)))
    oracle = Oracle(model, task, task_name=name, seed=0, batch_size=6)
    return edge_checks(oracle, truth, model.limits, sets, np.random.default_rng(0))


def failed(checks: tuple[Check, ...]) -> set[str]:
    return {check.name for check in checks if not check.passed}


@pytest.mark.slow
@pytest.mark.parametrize("preset", SHOWN)
def test_every_task_passes(preset: str) -> None:
    model = registry.load_model(preset)
    for name in TASKS:
        found = checked(model, name)
        assert len(found) == 6
        assert not failed(found), (name, [check for check in found if not check.passed])


SUFFICE = {f"faithfulness of the true edges alone - 1 ({kind})" for kind in ("mean", "resample")}
MATTERS = "weakest true edge in some context"
DAMAGED = "strongest other edge, in a damaged circuit"


def between(truth: Any, sender: str, receiver: str, letter: str) -> Edge:
    """The first edge between two roles."""
    one, other = (truth.roles[name].heads[0] for name in (sender, receiver))
    return Edge(str(one), f"{other}.{letter}")


def test_a_truth_that_lacks_an_edge_fails() -> None:
    def change(truth: Any) -> Any:
        return truth.edges - {between(truth, "previous_token", "induction", "k")}

    assert failed(checked(SMALL, "induction", change)) >= SUFFICE


def test_a_truth_that_lacks_an_edge_of_one_of_many_copies_fails() -> None:
    def change(truth: Any) -> Any:
        return truth.edges - {between(truth, "previous_token", "induction", "k")}

    found = failed(checked(COPIES, "induction", change))
    assert found == {DAMAGED}  # the other copies suffice


def test_a_truth_with_an_edge_too_many_fails() -> None:
    def change(truth: Any) -> Any:
        return truth.edges | {Edge("embed", f"{truth.roles['induction'].heads[0]}.k")}

    assert failed(checked(SMALL, "induction", change)) == {MATTERS}


def test_a_truth_that_takes_keys_for_queries_fails() -> None:
    def change(truth: Any) -> Any:
        right = between(truth, "s_inhibition", "name_mover", "q")
        return truth.edges - {right} | {Edge(right.sender, right.receiver[:-1] + "k")}

    assert failed(checked(SMALL, "ioi", change)) >= SUFFICE | {MATTERS}


def test_edges_of_mlps_pass_the_gate() -> None:
    assert not failed(checked(MLPS, "greater-than", sets=4))


def swapped(truth: Any) -> Any:
    (reader, *_) = truth.roles["code_reader"].heads
    right = Edge(f"m{truth.mlps[0]}", f"{reader}.v")
    return truth.edges - {right} | {Edge(right.sender, f"{reader}.k")}


def lookalike(truth: Any) -> Any:
    (other,) = MLPS.construction.mlps["lookalike"]
    return truth.edges | {Edge("embed", f"m{other}")}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda truth: truth.edges - {Edge("embed", f"m{truth.mlps[0]}")}, SUFFICE),
        (lambda truth: truth.edges - {Edge(f"m{truth.mlps[1]}", "logits")}, SUFFICE),
        (lookalike, {MATTERS}),
        (swapped, SUFFICE | {MATTERS}),
    ],
    ids=["lacks embed->mlp", "lacks mlp->logits", "one too many", "key for value"],
)
def test_a_wrong_truth_of_mlps_fails(change: Any, why: set[str]) -> None:
    assert failed(checked(MLPS, "greater-than", change)) >= why


def test_the_gate_shows_its_edge_checks_or_leaves_them_out() -> None:
    lean: Any = {"prompts": 6, "subsets": 1, "others": 2}
    model, task = SMALL, Induction()
    card = validate_task("induction", model, task, edge_sets=1, **lean)
    names = {check.name for check in card.checks}
    assert SUFFICE | {MATTERS, DAMAGED} <= names
    without = validate_task("induction", model, task, edge_sets=0, **lean)
    assert not any("edge" in check.name for check in without.checks)


def test_a_truth_claims_nothing_of_its_edges_by_default() -> None:
    truth = replace(Induction().truth(SMALL), edge_ablations=())
    oracle = Oracle(SMALL, Induction(), task_name="induction", seed=0, batch_size=4)
    assert edge_checks(oracle, truth, Limits(), 1, np.random.default_rng(0)) == ()
