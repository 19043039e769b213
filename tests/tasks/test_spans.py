from typing import Any

import numpy as np
import pytest
import torch

from circuitbench.checks.contracts import ToyTask, toy_model
from circuitbench.core.errors import InvalidPlugin, InvalidSpec
from circuitbench.tasks.base import Prompts, spans_at


def prompts(spans: Any) -> Prompts:
    drawn = ToyTask().prompts(toy_model(), 3, np.random.default_rng(0))
    return Prompts(**{**vars(drawn), "spans": spans})


def test_spans_are_positions_or_ranges_and_the_rest_is_a_span_too() -> None:
    given = prompts(spans_at(3, {"one": 0, "own": np.array([1, 2, 3]), "two": np.array([[4, 6]])}))
    members = given.members()
    assert list(members) == ["one", "own", "two", "rest"]
    assert members["own"].nonzero().tolist() == [[0, 1], [1, 2], [2, 3]]
    assert members["two"][:, 4:].all()
    assert members["rest"].sum(1).tolist() == [2, 2, 2]
    assert torch.equal(given.take(torch.tensor([2])).members()["own"], members["own"][2:])


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ({}, "needs names"),
        ({"rest": 1}, "none of them 'rest'"),
        ({"late": 6}, "outside the prompts"),
        ({"none": np.array([[2, 2]])}, "empty or outside"),
        ({"one": 1, "both": np.array([[0, 3]])}, "overlap: one, both"),
    ],
)
def test_wrong_spans_are_refused(spans: Any, message: str) -> None:
    with pytest.raises(InvalidPlugin, match=message):
        prompts(spans_at(3, spans))
    with pytest.raises(InvalidPlugin, match=r"must be long \(3, 2\)"):
        prompts({"flat": torch.zeros(3, dtype=torch.long)})


def test_without_spans_there_are_no_members() -> None:
    with pytest.raises(InvalidSpec, match="name no positions"):
        prompts(None).members()
