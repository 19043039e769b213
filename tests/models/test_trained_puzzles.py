import json
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from oracle_kit import transformer_of

from circuitbench.checks.contracts import check_task
from circuitbench.checks.health import render, validate_task
from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.models.forward import forward
from circuitbench.models.trained import load as trained
from circuitbench.models.trained.load import training_seeds
from circuitbench.models.trained.prompts import puzzle_prompts
from circuitbench.models.trained.puzzles import PUZZLES, Brackets, Chains
from circuitbench.models.trained.training import puzzle
from circuitbench.models.trained.training.family import (
    faithfulness,
    heads_in,
    metric_of_subsets,
    minimal,
)
from circuitbench.models.trained.training.network import REPLACEMENTS, detached, initial
from circuitbench.models.weight_names import parameters
from circuitbench.oracle import Oracle
from circuitbench.plugins.registry import load_model, load_task

VARIANTS = [(name, seed) for name in PUZZLES for seed in training_seeds(name)]
MODELS = {(name, seed): load_model(f"{name}@{seed}") for name, seed in VARIANTS}


def masks_of(sets: list[Any], shape: tuple[int, int]) -> torch.Tensor:
    masks = torch.zeros(len(sets), *shape, dtype=torch.bool)
    for mask, heads in zip(masks, sets, strict=True):
        for head in heads:
            mask[head] = True
    return masks


def test_a_chain_is_followed_to_its_end() -> None:
    # pairs 5 6, 6 7, 1 2, 2 3; queries 5, 2, 1, 6
    tokens = torch.tensor([[0, 1, 2, 6, 7, 5, 6, 2, 3, 5, 2, 1, 6]])
    assert Chains().answers(tokens)[0, 9:].tolist() == [7, 3, 3, 7]
    drawn = Chains().draw(50, np.random.default_rng(0))
    right, wrong = (Chains().answers(x) for x in (drawn.tokens, drawn.counterfactual))
    at = drawn.positions
    assert (right.gather(1, at) != wrong.gather(1, at)).all()
    assert (drawn.tokens.gather(1, at) == drawn.counterfactual.gather(1, at)).all()


def test_brackets_close_the_innermost() -> None:
    # ( [ ] { } ) ( : 1 opens with 4, 2 with 5, 3 with 6; 7 is none
    tokens = torch.tensor([[0, 1, 2, 5, 3, 6, 4, 1]])
    assert Brackets().answers(tokens)[0, 1:].tolist() == [4, 5, 4, 6, 4, 7, 4]
    drawn, _ = Brackets().practice(200, np.random.default_rng(0))
    # every closing bracket is the one that was due
    due, closes = Brackets().answers(drawn)[:, :-1], drawn[:, 1:] > 3
    assert (due[closes] == drawn[:, 1:][closes]).all()
    assert int((Brackets().answers(drawn) == 7).sum()) > 0


def test_brackets_are_read_where_the_answer_needs_a_head() -> None:
    drawn = Brackets().draw(200, np.random.default_rng(0))
    assert drawn.positions.shape == (200, 4)
    assert (drawn.tokens.gather(1, drawn.positions) > 3).all()


@pytest.mark.parametrize("name", PUZZLES)
def test_puzzle_models_are_healthy(name: str) -> None:
    task, model = load_task(name), MODELS[name, training_seeds(name)[-1]]
    check_task(task, model)
    card = validate_task(name, model, task)
    assert card.passed, render(card)
    assert {"faithfulness of minimal sets, least", "faithfulness of less one head, greatest"} < {
        check.name for check in card.checks
    }


@pytest.mark.parametrize(("name", "seed"), VARIANTS)
def test_minimal_sets_suffice_and_do_not_without_a_head(name: str, seed: str) -> None:
    model, task = MODELS[name, seed], load_task(name)
    truth: Any = task.truth(model)
    oracle = Oracle(model, task, task_name=name, seed=3, batch_size=256)
    sets = sorted(truth.family, key=sorted)[:3]
    less = [heads - {head} for heads in sets for head in heads]
    masks = masks_of([frozenset(), *sets, *less], oracle.shape)
    kept = []
    for ablation in truth.ablations:
        lost = oracle.query(masks, ablation=ablation, control=False).task
        kept.append(1 - lost[1:] / lost[0])
    worst = torch.stack(kept).amin(0)
    assert truth.faithfulness == 0.9
    assert worst[: len(sets)].min() > 0.9 - 0.05
    assert worst[len(sets) :].max() < 0.9 + 0.05
    assert not any(one < other for one in truth.family for other in truth.family)


def test_a_gate_fails_a_family_that_is_wrong() -> None:
    name = "trained-ioi"
    model, task = MODELS[name, "0"], load_task(name)
    built: Any = model.construction
    truth = task.truth(model)
    assert truth is not None
    short = sorted(map(str, sorted(truth.family[0])))[1:]
    report = {**built.report, "family": [" ".join(short)]}
    wrong = trained.PuzzleConstruction(built.language, report, built.puzzle)
    card = validate_task(name, replace(model, construction=wrong), task, subsets=2)
    failed = {check.name for check in card.checks if not check.passed}
    assert "faithfulness of minimal sets, least" in failed


@pytest.mark.parametrize("ablation", REPLACEMENTS)
def test_metrics_of_subsets_are_those_of_masked_forward_passes(ablation: str) -> None:
    weights = transformer_of(MODELS["trained-brackets", "0"])
    drawn = puzzle_prompts(PUZZLES["trained-brackets"], 12, np.random.default_rng(0))
    table = metric_of_subsets(weights, drawn, ablation)
    assert table.shape == (2**18,)
    given = [REPLACEMENTS[ablation](z) for z in forward(weights, drawn.counterfactual).z]
    for index in np.random.default_rng(1).integers(len(table), size=8):
        (mask,) = masks_of([heads_in(int(index), 6)], (3, 6))
        edit = partial(_masked, mask, given)
        wanted = float(drawn.metric(forward(weights, drawn.tokens, edit).logits).mean())
        assert table[index] == pytest.approx(wanted, abs=1e-3)


def _masked(
    mask: torch.Tensor, given: list[torch.Tensor], layer: int, z: torch.Tensor
) -> torch.Tensor:
    return torch.where(mask[layer, :, None], z, given[layer])


def test_minimal_sets_by_looking_at_every_subset() -> None:
    rng = np.random.default_rng(0)
    for share in (0.02, 0.2, 0.6):
        enough = rng.random(2**8) < share
        wanted = [
            s
            for s in range(2**8)
            if enough[s] and not any(enough[t] for t in range(s) if t & s == t)
        ]
        assert minimal(enough).tolist() == wanted
    assert faithfulness(np.array([1.0, 2.0, 3.0])).tolist() == [0, 0.5, 1]
    assert {str(h) for h in heads_in(0b1000001, 6)} == {"0.0", "1.0"}


def test_other_models_are_not_enumerated() -> None:
    deep = detached(
        initial(
            puzzle.config(PUZZLES["trained-ioi"], trained.language("x")), np.random.default_rng(0)
        )
    )
    drawn = puzzle_prompts(PUZZLES["trained-ioi"], 4, np.random.default_rng(0))
    with pytest.raises(InvalidSpec, match="attention-only"):
        metric_of_subsets(
            replace(deep, config=replace(deep.config, normalization="layer")), drawn, "zero"
        )


def test_training_twice_gives_the_same_weights() -> None:
    one, two = (
        parameters(puzzle.train(PUZZLES["trained-brackets"], trained.language("x"), 3, steps=4))
        for _ in range(2)
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(("name", "seed"), VARIANTS)
def test_reports_and_weights_belong_together(name: str, seed: str) -> None:
    folder = trained.folder()
    report = json.loads((folder / f"{name}@{seed}.json").read_text())
    assert report["training"]["seed"] == int(seed)
    assert report["training"]["command"].endswith(f"training {name} --seed {seed}")
    assert report["accuracy"] >= 0.98
    assert report["searched"]["all"]["minimal"] == len(report["family"])
    assert (folder / f"{name}@{seed}.safetensors").stat().st_size < 150_000


def test_wrong_seeds_and_wrong_models_are_refused() -> None:
    with pytest.raises(UnknownName, match="training seed of trained-ioi"):
        load_model("trained-ioi@7")
    with pytest.raises(InvalidSpec, match="runs on the model trained-ioi"):
        load_task("trained-ioi").truth(MODELS["trained-brackets", "0"])
