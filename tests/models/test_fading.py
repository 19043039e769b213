"""Planted circuits that fade: what the dials promise holds of the maps and of the model."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuitbench.core.errors import InvalidSpec
from circuitbench.models.planted.fading import Division, Fading, divide
from circuitbench.models.planted.presets import DIFFUSE, GRADED, Copies, planted_model
from circuitbench.oracle import Oracle
from circuitbench.plugins.registry import load_task

TASKS = ("induction", "ioi", "docstring", "greater-than", "two-hop")
GRADED_MODEL = planted_model("planted-graded", GRADED, "100")
DIFFUSE_MODEL = planted_model("planted-diffuse", DIFFUSE, "100")


@given(
    n=st.integers(1, 6),
    tokens=st.integers(2, 12),
    partial=st.floats(0, 1),
    spread=st.floats(0, 2),
    excess=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_every_token_gets_the_same_from_all_copies(
    n: int, tokens: int, partial: float, spread: float, excess: float, seed: int
) -> None:
    fading = Fading(partial=partial, spread=spread, excess=(0.0, excess))
    division = divide(n, tokens, fading, True, np.random.default_rng(seed))
    total = division.strength.sum()
    written = division.strength[:, None] * division.serves
    assert written.sum(0) == pytest.approx(np.full(tokens, total))
    assert 1 - 1e-9 <= total <= 1 + excess + 1e-9
    assert division.strength.min() >= fading.least / (n * (1 + n)) * total
    assert 1 <= division.needed <= n


def test_needed_are_the_fewest_that_write_enough() -> None:
    even = np.ones((3, 4))
    assert Division(np.array([0.5, 0.5, 0.5]), even).needed == 2
    assert Division(np.array([1.0, 0.3, 0.2]), even).needed == 1
    assert Division(np.array([0.5, 0.3, 0.2]), even).needed == 3


def effects(model: Any, task: str, ablated: list[list[Any]]) -> Any:
    oracle = Oracle(model, load_task(task), task_name=task, seed=0, batch_size=16)
    masks = torch.ones(len(ablated) + 1, *oracle.shape, dtype=torch.bool)
    masks[-1] = False
    for mask, heads in zip(masks, ablated, strict=False):
        for head in heads:
            mask[head] = False
    damage = oracle.query(masks).task
    return (damage[:-1] / damage[-1]).numpy()


@pytest.mark.parametrize("task", TASKS)
def test_the_metric_of_diffuse_circuits_falls_step_by_step(task: str) -> None:
    truth: Any = load_task(task).truth(DIFFUSE_MODEL)
    assert 25 <= len(truth.heads) <= 40
    heads = sorted(truth.heads)
    order = [heads[i] for i in np.random.default_rng(0).permutation(len(heads))]
    falling = effects(DIFFUSE_MODEL, task, [order[:n] for n in range(len(order) + 1)])
    assert falling[-1] == pytest.approx(1.0, abs=0.15)
    assert np.diff(falling).max() < 0.5
    assert (np.diff(falling) > 0.01).sum() >= 5


def test_stand_ins_give_back_part_of_a_loss() -> None:
    heads = GRADED_MODEL.construction.heads
    base, stand_in = list(heads["argument_reader"]), list(heads["argument_reader_stand_in"])
    alone, without, with_both = effects(
        GRADED_MODEL, "docstring", [stand_in, base, base + stand_in]
    )
    assert abs(alone) < 0.02
    assert without < with_both - 0.3


def test_heads_against_the_answer_raise_the_metric_when_ablated() -> None:
    heads = list(GRADED_MODEL.construction.heads["negative_chain_mover"])
    assert effects(GRADED_MODEL, "two-hop", [heads])[0] < -0.1


def test_true_edges_of_a_graded_circuit_keep_the_metric() -> None:
    task = load_task("ioi")
    truth: Any = task.truth(GRADED_MODEL)
    oracle = Oracle(GRADED_MODEL, task, task_name="ioi", seed=0, batch_size=8)
    others = [edge for edge in oracle.edges.edges if edge not in truth.edges]
    masks = torch.stack([oracle.edges.without(others), oracle.edges.without(oracle.edges.edges)])
    lost, gap = oracle.edges.query(masks, ablation="mean").task.tolist()
    assert abs(lost / gap) < 0.15


def test_what_cannot_fade_is_refused() -> None:
    for wrong, match in (
        ({"fading": None}, "exists only where circuits fade"),
        ({"roles": {**GRADED.roles, "first_hop": Copies(2, "or")}}, "copies are 'and'"),
        ({"roles": {**GRADED.roles, "previous_token_3": Copies(2)}}, "path"),
    ):
        with pytest.raises(InvalidSpec, match=match):
            replace(GRADED, **wrong)
    for wrong_fading, match in (
        ({"repair": (0.9, 0.2)}, "range"),
        ({"paths": (0.5, 0.2)}, "sum to 1"),
        ({"softness": 0.0}, "between"),
    ):
        with pytest.raises(InvalidSpec, match=match):
            Fading(**wrong_fading)
