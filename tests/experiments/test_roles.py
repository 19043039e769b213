"""The table of what methods find: its classes of heads, and recall of them."""

from typing import Any

import numpy as np
import pytest
from scripts import load_script

from circuitbench import Discovery


@pytest.fixture(scope="module")
def roles() -> Any:
    return load_script("roles")


def test_classes_are_read_off_the_truth(roles: Any) -> None:
    ioi = roles.classes_of("planted-redundant", 100, "ioi")
    assert {name: len(heads) for name, heads in ioi.items()} == {
        "stand-ins": 6,
        "copies": 2,
        "backups": 2,
        "negative": 1,
        "shared": 0,
    }
    assert len(roles.classes_of("planted-redundant", 100, "two-hop")["shared"]) == 5


def test_ties_count_by_their_expectation(roles: Any) -> None:
    scores = np.array([3.0, 1.0, 1.0, 1.0])
    assert roles.recall(scores, np.array([True, True, False, False]), 2) == pytest.approx(2 / 3)


def test_an_answer_that_is_the_truth_finds_every_class(roles: Any) -> None:
    truth = roles.truth_of("planted-mlp", 100, "greater-than")
    scores = np.zeros((12, 12))
    for head in truth.heads:
        scores[head] = 1
    found = Discovery(scores, truth.heads, dict.fromkeys(truth.edges, 1.0))
    for measure in (roles.of_heads, roles.of_edges):
        values = measure(found, "planted-mlp", 100, "greater-than")
        assert set(values.values()) == {1.0}
    assert "MLPs" in values
