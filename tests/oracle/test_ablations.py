import typing
from typing import Any

import numpy as np
import pytest
import torch
from oracle_kit import Hooked, RandomTask, random_model, transformer_of
from pydantic import TypeAdapter

from circuitbench.core.errors import InvalidSpec
from circuitbench.oracle import AblationName, Oracle
from circuitbench.oracle.ablations import ABLATIONS, Optimal
from circuitbench.oracle.derivatives import Of
from circuitbench.oracle.engine.fast import FastEngine
from circuitbench.oracle.engine.hooks import HookEngine

N_HEADS = 12  # of the random model, 3 x 4


@pytest.fixture(scope="module")
def model() -> Any:
    return random_model(5, d_mlp=12, normalization="layer")


def oracle_on(model: Any, engine: Any = None, **options: Any) -> Oracle:
    engine = FastEngine(transformer_of(model)) if engine is None else engine
    options = {"batch_size": 5, "seed": 0, **options}
    return Oracle(model, RandomTask(k=2), task_name="random", engine=engine, **options)


def alone(oracle: Oracle, ablation: str) -> torch.Tensor:
    """KL to the intact model of every head ablated by itself."""
    kl = oracle.query(oracle.head_masks(), ablation=ablation, control=False, kl=True).kl
    assert kl is not None
    return kl


def test_names_are_those_of_the_registry_and_unknown_ones_give_the_nearest() -> None:
    assert {name: a.name for name, a in ABLATIONS.items()} == {name: name for name in ABLATIONS}
    setting: TypeAdapter[str] = TypeAdapter(AblationName)
    assert setting.validate_python("mean") == "mean"
    with pytest.raises(InvalidSpec, match="no ablation 'optmal'; did you mean 'optimal'"):
        setting.validate_python("optmal")


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shape", [{}, dict(d_mlp=12, normalization="layer")])
def test_the_optimal_constant_does_least_harm(shape: Any, seed: int) -> None:
    oracle = oracle_on(random_model(7, **shape), seed=seed, batch_size=24)
    least = alone(oracle, "optimal")
    assert (least <= alone(oracle, "zero") + 1e-4).all()
    assert least.sum() < 0.9 * alone(oracle, "zero").sum()
    # The mean is another one at every position, which one constant cannot always beat.
    assert (least <= alone(oracle, "mean") + 0.04).all()
    assert least.sum() < 1.05 * alone(oracle, "mean").sum()


def test_no_constant_nearby_does_less_harm(model: Any) -> None:
    """The objective written out: hooks that put constants in, and the KL of full logits."""
    oracle, hooked = oracle_on(model, batch_size=24), Hooked(transformer_of(model))
    least = alone(oracle, "optimal")
    prompts = oracle.batch.source.prompts
    rows = torch.arange(24)[:, None]
    engine = oracle.engine
    assert isinstance(engine, FastEngine)
    (fitted,) = [p.fitted["optimal"] for p in engine._prepared.values()]
    intact = hooked.logits(prompts.tokens, torch.ones(3, 4), None)
    log_p = intact[rows, prompts.positions].log_softmax(-1)

    def kl(layer: int, head: int, constant: torch.Tensor) -> float:
        mask = torch.ones(3, 4)
        mask[layer, head] = 0
        swap = [constant.expand(1, 1, 4, -1)] * 3
        log_q = hooked.logits(prompts.tokens, mask, swap)[rows, prompts.positions].log_softmax(-1)
        return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())

    rng = torch.Generator().manual_seed(0)
    for layer, head in ((0, 1), (1, 3), (2, 0)):
        constant = fitted[layer][0, 0, head]
        found = kl(layer, head, constant)
        assert found == pytest.approx(float(least[4 * layer + head]), abs=1e-4)
        for _ in range(8):
            step = 0.3 * torch.randn(constant.shape, generator=rng) * constant.norm()
            assert kl(layer, head, constant + step) > found - 2e-3


@pytest.mark.parametrize("pool", [None, 7])
def test_both_engines_fit_the_same_constants(model: Any, pool: Any) -> None:
    hooks = HookEngine(Hooked(transformer_of(model)).bridge, 3, 4)
    fast, slow = oracle_on(model, pool=pool), oracle_on(model, hooks, pool=pool)
    rng = torch.Generator().manual_seed(3)
    masks = torch.rand(6, 3, 4, generator=rng) < 0.6
    got, want = (o.query(masks, ablation="optimal", kl=True) for o in (slow, fast))
    torch.testing.assert_close(got.task, want.task, atol=1e-4, rtol=0)
    torch.testing.assert_close(got.control, want.control, atol=1e-4, rtol=0)
    torch.testing.assert_close(got.kl, want.kl, atol=1e-4, rtol=0)
    for of in typing.get_args(Of):
        soft = torch.full((1, 3, 4), 0.7)
        there, here = (o.gradient(soft, ablation="optimal", of=of) for o in (slow, fast))
        torch.testing.assert_close(there, here, atol=1e-4, rtol=1e-3)


def test_fitting_is_deterministic_and_does_not_depend_on_memory_or_what_came_before(
    model: Any,
) -> None:
    first = alone(oracle_on(model), "optimal")
    assert torch.equal(first, alone(oracle_on(model), "optimal"))
    small = FastEngine(transformer_of(model), cache_bytes=0, chunk_tokens=1)
    other = oracle_on(model, small)
    other.query(other.head_masks(), ablation="mean")
    torch.testing.assert_close(alone(other, "optimal"), first, atol=1e-5, rtol=0)


def test_one_fit_per_batch_on_the_meter_and_none_on_the_budget(model: Any) -> None:
    oracle = oracle_on(model, budget=100)
    before = oracle.meter.copy()
    oracle.query(oracle.head_masks()[:2], ablation="optimal")
    spent = oracle.meter.since(before)
    fits = N_HEADS * Optimal.evaluations
    assert (spent.queries, spent.forwards, spent.backwards) == (2, 2 * 2 + 1 + fits, fits)
    assert spent.tokens == 2 * 5 * (9 + 7) + 5 * 9 * (1 + fits)
    before, flops = oracle.meter.copy(), oracle.meter.flops
    oracle.query(oracle.head_masks()[2:3], ablation="optimal", control=False)
    assert oracle.meter.since(before).forwards == 1
    assert 0 < oracle.meter.flops - flops < flops / 20  # fitted once
    pooled = oracle_on(model, pool=40)
    for seed in (1, 2):
        before = pooled.meter.copy()
        batch = pooled.draw(seed)
        pooled.query(pooled.head_masks()[:1], ablation="optimal", control=False, batch=batch)
        assert pooled.meter.since(before).backwards == (fits if seed == 1 else 0)
    fit = ABLATIONS["optimal"].fit(N_HEADS, 40)
    assert (fit.prompts, fit.forwards, fit.backwards) == (32, 1 + fits, fits)


def test_control_text_takes_the_constants_of_the_prompts(model: Any) -> None:
    oracle, hooked = oracle_on(model), Hooked(transformer_of(model))
    mask = torch.ones(1, 3, 4, dtype=torch.bool)
    mask[0, 1, 2] = mask[0, 2, 0] = False
    found = oracle.query(mask, ablation="optimal").control
    engine = oracle.engine
    assert isinstance(engine, FastEngine)
    (fitted,) = [p.fitted["optimal"] for p in engine._prepared.values()]
    tokens = oracle.batch.source.control
    logits = hooked.logits(tokens, mask[0].float(), fitted)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert found is not None
    assert float(found) == pytest.approx(float(loss) - oracle.clean_control, abs=1e-4)


def test_denoising_and_zero_need_no_fit(model: Any) -> None:
    oracle = oracle_on(model)
    masks = oracle.head_masks()
    found = oracle.query(masks, ablation="optimal", direction="denoising")
    assert torch.equal(found.task, oracle.query(masks, direction="denoising").task)
    assert oracle.meter.backwards == 0


def test_head_ablation_runs_with_it(model: Any) -> None:
    from circuitbench_baselines.ablation import HeadAblation

    oracle = oracle_on(model, ablation="optimal")
    found = HeadAblation().discover(oracle, np.random.default_rng(0))
    want = oracle.query(oracle.head_masks()).reward.view(3, 4).numpy()
    assert np.array_equal(found.scores, want)
