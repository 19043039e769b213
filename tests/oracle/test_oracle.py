from typing import Any

import pytest
import torch
from oracle_kit import RandomTask, random_model

from circuitbench.core.errors import BudgetExceeded, InvalidSpec
from circuitbench.oracle import Meter, Oracle, query_together


@pytest.fixture(scope="module")
def model() -> Any:
    return random_model(3, d_mlp=12, normalization="layer")


def oracle_on(model: Any, seed: int = 0, **options: Any) -> Any:
    task = RandomTask()
    return Oracle(model, task, **{"task_name": "random", "batch_size": 5, **options, "seed": seed})


def some_masks(n: int = 6, seed: int = 0) -> Any:
    return torch.rand(n, 3, 4, generator=torch.Generator().manual_seed(seed)) < 0.7


def test_intact_mask_does_no_damage(model: Any) -> None:
    oracle = oracle_on(model)
    damages = oracle.query(torch.ones(1, 3, 4, dtype=torch.bool), kl=True)
    assert damages.task == 0
    assert damages.control == 0
    assert abs(float(damages.kl)) < 1e-6


def test_reward_is_task_minus_weighted_control(model: Any) -> None:
    oracle = oracle_on(model, weight=2.0)
    damages = oracle.query(oracle.head_masks())
    torch.testing.assert_close(damages.reward, damages.task - 2 * damages.control)


def test_no_reward_without_control(model: Any) -> None:
    oracle = oracle_on(model)
    for options in ({"control": False}, {"direction": "denoising"}):
        damages = oracle.query(some_masks(), **options)
        assert damages.control is None
        with pytest.raises(InvalidSpec, match="control"):
            _ = damages.reward


def test_head_masks_switch_off_one_head_each_row_major(model: Any) -> None:
    masks = oracle_on(model).head_masks()
    assert masks.shape == (12, 3, 4)
    assert [(~m).nonzero().tolist() for m in masks[[0, 5, 11]]] == [[[0, 0]], [[1, 1]], [[2, 3]]]


def test_answers_do_not_depend_on_company_or_order(model: Any) -> None:
    masks = some_masks(20)
    together = oracle_on(model).query(masks)
    oracle = oracle_on(model)
    for i in torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist():
        alone = oracle.query(masks[i : i + 1])
        torch.testing.assert_close(alone.reward[0], together.reward[i], atol=1e-5, rtol=0)


def test_same_seeds_same_answers_other_seeds_other_answers(model: Any) -> None:
    first, again, other = (oracle_on(model, seed=s).query(some_masks()).task for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_budget_is_checked_before_anything_is_spent(model: Any) -> None:
    oracle = oracle_on(model, budget=7)
    oracle.query(some_masks(5))
    before = oracle.meter.copy()
    with pytest.raises(BudgetExceeded, match="3 queries asked, 2 of the budget of 7 left"):
        oracle.query(some_masks(3))
    with pytest.raises(BudgetExceeded):
        oracle.gradient(some_masks(1))
    assert oracle.meter == before
    oracle.query(some_masks(2))
    assert oracle.remaining == 0


def test_memo_saves_compute_but_not_queries(model: Any) -> None:
    oracle = oracle_on(model)
    first = oracle.query(some_masks())
    flops = oracle.meter.flops
    again = oracle.query(some_masks())
    assert torch.equal(first.reward, again.reward)
    assert oracle.meter.flops == flops
    assert (oracle.meter.queries, oracle.meter.memo_hits) == (12, 6)


def test_lookup_is_free_and_knows_only_what_was_asked(model: Any) -> None:
    oracle = oracle_on(model)
    assert oracle.lookup(some_masks()) is None
    asked = oracle.query(some_masks())
    before = oracle.meter.copy()
    found = oracle.lookup(some_masks())
    assert torch.equal(found.reward, asked.reward)
    assert oracle.lookup(some_masks(), ablation="mean") is None
    assert oracle.lookup(some_masks(), kl=True) is None
    assert oracle.meter == before


def test_meter_counts_what_was_asked(model: Any) -> None:
    oracle = oracle_on(model)
    drawn = oracle.meter.copy()
    assert (drawn.forwards, drawn.tokens, drawn.queries) == (2, 5 * (9 + 7), 0)
    oracle.query(some_masks())
    assert oracle.meter.since(drawn).forwards == 12
    assert oracle.meter.since(drawn).tokens == 6 * 5 * (9 + 7)
    before = oracle.meter.copy()
    oracle.query(some_masks(), ablation="mean", control=False)
    oracle.query(some_masks(), direction="denoising")
    assert oracle.meter.since(before).forwards == 6 + 6 + 1  # one counterfactual pass
    before = oracle.meter.copy()
    oracle.gradient(some_masks(2), of="reward")
    spent = oracle.meter.since(before)
    assert (spent.queries, spent.gradients, spent.forwards, spent.backwards) == (6, 2, 4, 4)


def test_per_prompt_values_average_to_the_damages(model: Any) -> None:
    damages = oracle_on(model).query(some_masks(), per_prompt=True)
    torch.testing.assert_close(damages.per_prompt_task.mean(1), damages.task)
    torch.testing.assert_close(damages.per_prompt_control.mean(1), damages.control)


def test_each_mask_on_its_own_batch(model: Any) -> None:
    oracle = oracle_on(model)
    batches = [oracle.draw(s) for s in range(6)]
    masks = some_masks()
    got = oracle.query(masks, batch=batches)
    for i, batch in enumerate(batches):
        alone = oracle.query(masks[i : i + 1], batch=batch)
        torch.testing.assert_close(got.reward[i], alone.reward[0], atol=1e-5, rtol=0)
    with pytest.raises(InvalidSpec, match="6 masks need 6 batches"):
        oracle.query(masks, batch=batches[:2])


def test_resample_changes_the_default_batch(model: Any) -> None:
    oracle = oracle_on(model)
    first = oracle.clean_metric
    oracle.resample(7)
    assert oracle.batch.seed == 7
    assert oracle.clean_metric != first
    assert oracle.draw(7).metric == oracle.clean_metric


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_pool_batches_are_exact_and_soon_free(model: Any, ablation: Any) -> None:
    oracle = oracle_on(model, pool=8, ablation=ablation)
    masks = oracle.head_masks()
    for seed in range(6):
        oracle.query(masks, batch=oracle.draw(seed))
    flops, batch = oracle.meter.flops, oracle.draw(99)
    pooled = oracle.query(masks, batch=batch, per_prompt=True)
    assert oracle.meter.flops == flops
    whole = oracle_on(model, pool=8, batch_size=8, ablation=ablation)
    everything = whole.batch
    assert torch.equal(everything.source.prompts.tokens, batch.source.prompts.tokens)
    all_rows = whole.query(masks, batch=everything, per_prompt=True)
    place = {int(row): i for i, row in enumerate(everything.prompt_rows)}
    expected = all_rows.per_prompt_task[:, [place[int(r)] for r in batch.prompt_rows]]
    torch.testing.assert_close(pooled.per_prompt_task, expected, atol=1e-5, rtol=0)


def test_query_together_meters_each_oracle(model: Any) -> None:
    oracles = [oracle_on(model, seed=s, task_name=f"task {s}", budget=2) for s in (0, 1)]
    assert oracles[0].engine is oracles[1].engine
    masks = some_masks(2)
    got = query_together([(o, m, o.batch) for o, m in zip(oracles, masks, strict=True)])
    for oracle, mask, damages in zip(oracles, masks, got, strict=True):
        assert oracle.meter.queries == 1
        alone = oracle_on(model, oracle.seed, task_name=oracle.task_name).query(mask[None])
        torch.testing.assert_close(damages.reward, alone.reward, atol=1e-5, rtol=0)
    with pytest.raises(BudgetExceeded):
        query_together([(oracles[0], mask, oracles[0].batch) for mask in masks])
    assert [o.meter.queries for o in oracles] == [1, 1]


def test_meter_can_be_shared(model: Any) -> None:
    meter = Meter()
    for seed in (0, 1):
        oracle_on(model, seed=seed, meter=meter).query(some_masks(3))
    assert meter.queries == 6
    assert meter.as_dict()["peak_memory_bytes"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(budget=-1), "negative"),
        (dict(batch_size=0), "at least one"),
        (dict(pool=3), "cannot fill"),
        (dict(ablation="men"), "did you mean 'mean'"),
    ],
)
def test_bad_oracles_are_refused(model: Any, options: Any, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        oracle_on(model, **options)


@pytest.mark.parametrize(
    ("masks", "options", "message"),
    [
        (torch.ones(3, 4), {}, r"must be \[n_masks, 3, 4\]"),
        (torch.full((1, 3, 4), 0.5), {}, "must be bool"),
        (torch.full((1, 3, 4), 2.0), {}, r"\[0, 1\]"),
        (torch.ones(1, 3, 4), dict(direction="denoise"), "did you mean 'denoising'"),
    ],
)
def test_bad_questions_are_refused(model: Any, masks: Any, options: Any, message: str) -> None:
    oracle = oracle_on(model)
    with pytest.raises(InvalidSpec, match=message):
        oracle.query(masks, **options)
    assert oracle.meter.queries == 0


def test_no_masks_is_a_valid_question(model: Any) -> None:
    oracle = oracle_on(model)
    assert oracle.query(torch.ones(0, 3, 4)).task.shape == (0,)
    assert oracle.gradient(torch.ones(0, 3, 4)).shape == (0, 3, 4)
