"""The prompts of the planted tasks say what they mean, and their truths name the planted heads."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_kit import transformer_of

from circuitbench.core.errors import InvalidSpec
from circuitbench.models.base import Model
from circuitbench.models.planted.language import BOS, PARAM
from circuitbench.models.planted.presets import (
    Copies,
    PlantedConfig,
    planted,
    planted_easy,
    planted_model,
)
from circuitbench.tasks.planted.docstring import Docstring
from circuitbench.tasks.planted.greater_than import GreaterThan
from circuitbench.tasks.planted.induction import Induction
from circuitbench.tasks.planted.ioi import IOI
from circuitbench.tasks.planted.two_hop import TwoHop

TASKS: dict[str, Any] = {
    "induction": Induction(),
    "ioi": IOI(),
    "docstring": Docstring(),
    "greater-than": GreaterThan(),
    "two-hop": TwoHop(),
}
MODEL = planted()
LANGUAGE = MODEL.construction.language
NAMES = set(LANGUAGE.names.tolist())


def draw(task: Any, seed: int, n: int = 6) -> Any:
    return TASKS[task].prompts(MODEL, n, np.random.default_rng(seed))


def rows(prompts: Any) -> Iterator[Any]:
    """Tokens, counterfactual, answer and wrong answer at the last position read."""
    for i in range(len(prompts)):
        answer, wrong = prompts.token_ids[i, -1].tolist()
        yield prompts.tokens[i].tolist(), prompts.counterfactual[i].tolist(), answer, wrong


def tensors(prompts: Any) -> list[Any]:
    """All that prompts are made of."""
    fixed = (v for v in vars(prompts).values() if isinstance(v, torch.Tensor))
    return [*fixed, *prompts.spans.values()]


@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_prompts_are_well_formed_and_a_pure_function_of_the_generator(task: Any, seed: int) -> None:
    prompts, again = draw(task, seed), draw(task, seed)
    for one in (prompts, again):
        assert one.spans is not None
    for mine, same in zip(tensors(prompts), tensors(again), strict=True):
        assert torch.equal(mine, same)
    assert (prompts.tokens[:, 0] == BOS).all()
    assert prompts.tokens.max() < LANGUAGE.size
    assert prompts.tokens.shape[1] <= transformer_of(MODEL).config.n_ctx
    assert not torch.equal(prompts.tokens, prompts.counterfactual)
    assert torch.allclose(prompts.weights.sum(-1), torch.zeros(()), atol=1e-6)
    assert torch.equal(prompts.tokens[:, -1] == 0, torch.zeros(6, dtype=torch.bool))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_induction_asks_what_followed(seed: int) -> None:
    prompts = draw("induction", seed)
    for i in range(len(prompts)):
        tokens, other = prompts.tokens[i].tolist(), prompts.counterfactual[i].tolist()
        for at, (answer, wrong) in zip(
            prompts.positions[i].tolist(), prompts.token_ids[i].tolist(), strict=True
        ):
            assert tokens[tokens.index(tokens[at]) + 1] == answer
            assert other[other.index(tokens[at]) + 1] == wrong


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_ioi_asks_for_the_name_that_is_not_repeated(seed: int) -> None:
    for tokens, other, answer, wrong in rows(draw("ioi", seed)):
        assert (tokens.count(answer), tokens.count(wrong)) == (1, 2)
        assert (other.count(answer), other.count(wrong)) == (1, 1)
        assert {answer, wrong} <= NAMES


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_docstring_asks_for_the_next_argument(seed: int) -> None:
    for tokens, other, answer, wrong in rows(draw("docstring", seed)):
        for text, right in ((tokens, answer), (other, wrong)):
            start = next(i for i, token in enumerate(text) if token in NAMES)
            arguments = text[start : start + 4]
            listed = [text[i + 1] for i, token in enumerate(text[:-1]) if token == PARAM]
            assert listed == arguments[: len(listed)]
            assert right == arguments[len(listed)]
            assert len(set(arguments)) == 4


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_greater_than_weighs_the_numbers_above(seed: int) -> None:
    prompts, nums = draw("greater-than", seed), LANGUAGE.nums.tolist()
    for i in range(len(prompts)):
        (year,) = [token for token in prompts.tokens[i].tolist() if token in nums]
        weights = dict(
            zip(prompts.token_ids[i, 0].tolist(), prompts.weights[i, 0].tolist(), strict=True)
        )
        assert {num for num, weight in weights.items() if weight > 0} == {
            num for num in nums if num > year
        }


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_two_hop_asks_two_names_further(seed: int) -> None:
    for tokens, other, answer, wrong in rows(draw("two-hop", seed)):
        start = tokens.index(tokens[-1])
        assert tokens[start + 1 : start + 3] == [wrong, answer]
        assert other[other.index(other[-1]) + 2] == wrong


@pytest.mark.parametrize("task", TASKS)
def test_truth_names_the_planted_heads(task: Any) -> None:
    circuit = TASKS[task].truth(MODEL)
    assert circuit.kind == "constructed"
    assert "modelled on" in circuit.source
    for name, role in circuit.roles.items():
        assert role.heads == MODEL.construction.heads[name]
        assert role.shows
        assert 1 <= role.needed <= len(role.heads)


def test_truth_states_its_blind_spots() -> None:
    circuit = TASKS["ioi"].truth(MODEL)
    assert circuit.roles["negative_name_mover"].sign == -1
    assert any(spot.startswith("backup_name_mover") for spot in circuit.blind_spots)
    assert TASKS["ioi"].truth(planted_easy()).blind_spots == ()


def test_tasks_share_heads_or_not() -> None:
    def shared(model: Any) -> Any:
        one, two = (TASKS[task].truth(model).heads for task in ("two-hop", "docstring"))
        return one & two

    assert shared(MODEL)
    assert not shared(planted_easy())


@pytest.mark.parametrize("task", TASKS)
def test_control_is_the_language(task: Any) -> None:
    text = TASKS[task].control(MODEL, 5, np.random.default_rng(1))
    assert (text[:, 0] == BOS).all()
    assert text.dtype == torch.long


@pytest.mark.parametrize("task", TASKS)
def test_a_model_that_cannot_do_the_task_is_refused(task: Any) -> None:
    stranger = Model("gpt2", 12, 12, None)
    with pytest.raises(InvalidSpec, match="runs on planted models, not on gpt2"):
        TASKS[task].prompts(stranger, 2, np.random.default_rng(0))
    bare = planted_model("bare", PlantedConfig(roles={"unigram": Copies(1)}))
    with pytest.raises(InvalidSpec, match="lacks one of"):
        TASKS[task].truth(bare)
