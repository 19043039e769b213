import gc
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from oracle_kit import Hooked, RandomTask, random_model, transformer_of

from circuitbench.core.errors import InvalidSpec, ModelUnavailable
from circuitbench.models.base import Model
from circuitbench.oracle import Oracle
from circuitbench.oracle.ablations import ABLATIONS
from circuitbench.oracle.engine.choice import engine_for
from circuitbench.oracle.engine.devices import dtypes, resolve_device
from circuitbench.oracle.engine.fast import FastEngine
from circuitbench.oracle.engine.hooks import HookEngine
from circuitbench.oracle.engine.limits import halving
from circuitbench.oracle.engine.prefix_cache import State, StateCache


@pytest.fixture(scope="module")
def model() -> Any:
    return random_model(5, d_mlp=12, normalization="layer")


def oracle_on(model: Any, engine: Any = None, **options: Any) -> Any:
    task = RandomTask(k=2)
    return Oracle(model, task, task_name="random", seed=0, batch_size=5, engine=engine, **options)


def random_masks(n: int, share: Any = 0.6, seed: int = 0) -> Any:
    return torch.rand(n, 3, 4, generator=torch.Generator().manual_seed(seed)) < share


@pytest.fixture(scope="module")
def unknown(model: Any) -> Any:
    """The same model as if its architecture were unknown."""
    return Model("odd", 3, 4, None, hooked=Hooked(model.transformer).bridge)


def test_unknown_architectures_fall_back_to_hooks_and_say_so_once(model: Any, unknown: Any) -> None:
    with pytest.warns(UserWarning, match="odd is not one the engine knows"):
        slow = oracle_on(unknown)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = oracle_on(unknown, pool=7)
    assert again.engine is slow.engine
    assert isinstance(slow.engine, HookEngine)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("pool", [None, 7])
def test_the_fallback_gives_the_same_numbers(
    model: Any, unknown: Any, ablation: Any, pool: Any
) -> None:
    engine = HookEngine(unknown.hooked, 3, 4)
    fast, slow = (oracle_on(m, e, pool=pool) for m, e in ((model, None), (unknown, engine)))
    assert slow.clean_metric == pytest.approx(fast.clean_metric, abs=1e-4)
    assert slow.clean_control == pytest.approx(fast.clean_control, abs=1e-4)
    assert slow.batch.accuracy == fast.batch.accuracy
    for direction in ("noising", "denoising"):
        options = dict(ablation=ablation, direction=direction)
        got, want = (o.query(random_masks(3), kl=True, **options) for o in (slow, fast))
        torch.testing.assert_close(got.task, want.task, atol=1e-4, rtol=0)
        torch.testing.assert_close(got.kl, want.kl, atol=1e-4, rtol=0)
        if direction == "noising":
            torch.testing.assert_close(got.control, want.control, atol=1e-4, rtol=0)
        soft = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(1))
        there, here = (o.differentiate(soft, of=("kl", "task"), **options) for o in (slow, fast))
        for name in ("task", "kl"):
            for got, want in (
                (there.values[name], here.values[name]),
                (there.gradients[name], here.gradients[name]),
            ):
                torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_answers_do_not_depend_on_memory(model: Any) -> None:
    masks = torch.cat([random_masks(20), random_masks(10, 0.1), random_masks(10, 0.9)])
    want = oracle_on(model, FastEngine(model.transformer)).query(masks)
    for cache_bytes, chunk_tokens in ((0, 1), (3000, 100), (1 << 20, 1 << 20)):
        engine = FastEngine(model.transformer, cache_bytes=cache_bytes, chunk_tokens=chunk_tokens)
        oracle = oracle_on(model, engine)
        got = [oracle.query(part).reward for part in masks.split(7)]
        torch.testing.assert_close(torch.cat(got), want.reward, atol=1e-5, rtol=0)
        assert engine.runner.cache.bytes <= cache_bytes


def test_prefixes_are_run_once(model: Any) -> None:
    """A sweep's work: attention is shared by a layer's masks, all below it by everyone."""
    engine = FastEngine(model.transformer, chunk_tokens=1 << 20)
    oracle = oracle_on(model, engine)
    _ = oracle.clean_metric, oracle.clean_control
    whole_sweep = [engine.flops]
    for masks in (oracle.head_masks()[8:], oracle.head_masks()[:4]):
        oracle.query(masks)
        whole_sweep.append(engine.flops)
    late, early = np.diff(whole_sweep)
    assert late < 0.6 * early


def test_growing_sets_restart_where_they_differ(model: Any) -> None:
    engine = FastEngine(model.transformer)
    oracle = oracle_on(model, engine)
    mask = torch.ones(1, 3, 4, dtype=torch.bool)
    mask[0, 0, 1] = False
    oracle.query(mask)
    mask[0, 2, 3] = False
    before = engine.flops
    oracle.query(mask)
    with_prefix = engine.flops - before
    fresh = FastEngine(model.transformer)
    other = oracle_on(model, fresh)
    _ = other.clean_metric, other.clean_control
    before = fresh.flops
    other.query(mask)
    assert with_prefix < 0.7 * (fresh.flops - before)


def test_few_heads_cost_little() -> None:
    wide = random_model(2, n_heads=16, d_model=64)
    engine = FastEngine(transformer_of(wide))
    oracle = oracle_on(wide, engine)
    spent = []
    for kept in (16, 2):
        mask = torch.zeros(1, 3, 16, dtype=torch.bool)
        mask[..., :kept] = True
        mask[0, 0, 0] = False
        _ = oracle.clean_metric, oracle.clean_control
        before = engine.flops
        oracle.query(mask)
        spent.append(engine.flops - before)
    assert spent[1] < 0.5 * spent[0]


def test_pruned_states_serve_smaller_sets_and_are_redone_for_larger_ones(model: Any) -> None:
    want, got = (oracle_on(model, FastEngine(model.transformer)) for _ in range(2))
    small = torch.zeros(3, 4, dtype=torch.bool)
    small[:, 1], small[2, 3] = True, True
    smaller, larger = small.clone(), small.clone()
    smaller[2, 3], larger[2, 0] = False, True
    alone = [want.query(m[None], batch=want.draw(0)).reward for m in (small, smaller, larger)]
    one_by_one = [got.query(m[None]).reward for m in (small, smaller, larger)]
    torch.testing.assert_close(one_by_one, alone, atol=1e-5, rtol=0)
    both = got.query(torch.stack([larger, smaller]), batch=got.draw(0)).reward
    torch.testing.assert_close(both, torch.cat([alone[2], alone[1]]), atol=1e-5, rtol=0)


class Tight:
    """Pretends to have memory for so many positions at once."""

    def __init__(self, engine: Any, positions: Any) -> None:
        self.heads, self.positions, self.failures = engine.forward.heads, positions, 0

    def __call__(self, layer: Any, x: Any, *more: Any) -> Any:
        if x.shape[0] * x.shape[1] > self.positions:
            self.failures += 1
            raise torch.OutOfMemoryError("pretended")
        return self.heads(layer, x, *more)


def test_running_out_of_memory_halves_the_batch_and_loses_nothing(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = random_masks(16)
    want = oracle_on(model, FastEngine(model.transformer)).query(masks)
    engine = FastEngine(model.transformer, chunk_tokens=1 << 20)
    tight = Tight(engine, 5 * 9 * 3)
    monkeypatch.setattr(engine.forward, "heads", tight)
    oracle = oracle_on(model, engine)
    got = oracle.query(masks)
    torch.testing.assert_close(got.reward, want.reward, atol=1e-5, rtol=0)
    failures = tight.failures
    assert failures > 0
    oracle.query(random_masks(16, seed=1))
    assert tight.failures == failures  # the size that sufficed is remembered
    soft = random_masks(1).float()
    whole = oracle_on(model, FastEngine(model.transformer)).gradient(soft, of="reward")
    torch.testing.assert_close(oracle.gradient(soft, of="reward"), whole, atol=1e-5, rtol=1e-4)
    tight.positions = 1
    with pytest.raises(torch.OutOfMemoryError):
        oracle.query(random_masks(2, seed=2))


def test_halving_gives_up_at_one() -> None:
    tried = []

    def never(size: Any) -> None:
        tried.append(size)
        raise torch.OutOfMemoryError("never")

    with pytest.raises(torch.OutOfMemoryError):
        halving(never, 9, lambda: None)
    assert tried == [9, 4, 2, 1]


def test_cache_keeps_to_its_bytes_and_drops_the_oldest() -> None:
    def state(numbers: Any) -> Any:
        return State(torch.zeros(numbers), torch.zeros(0), None)

    a, b, c, d, e = (((serial, None, None), 0, b"") for serial in range(5))
    cache = StateCache(limit=100)
    for key in (a, b, c):
        cache.put(key, state(10))
    assert cache.get(a) is None
    assert cache.get(b) is not None
    cache.put(d, state(10))
    assert (cache.get(c), cache.get(b) is None) == (None, False)
    cache.put(e, state(26))
    assert cache.bytes <= 100
    assert cache.get(e) is None
    cache.dead.append({1, 3})
    cache.forget_dead()
    assert cache.bytes == 0


def test_states_of_forgotten_batches_are_dropped(model: Any) -> None:
    engine = FastEngine(model.transformer)
    oracle = oracle_on(model, engine)
    _ = oracle.clean_metric, oracle.clean_control
    kept = engine.runner.cache.bytes
    assert kept > 0
    for seed in range(5):
        oracle.query(random_masks(3), batch=oracle.draw(seed))
    gc.collect()
    engine.runner.cache.forget_dead()
    assert engine.runner.cache.bytes == kept


@pytest.mark.parametrize(("body", "tolerance"), [(torch.float32, 5e-3), (torch.bfloat16, 0.15)])
def test_rough_precision_is_close_and_measured(
    model: Any, body: Any, tolerance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("circuitbench.oracle.engine.fast.FAST_TOLERANCE", 1.0)
    masks = random_masks(12)
    want = oracle_on(model, FastEngine(model.transformer)).query(masks)
    engine = FastEngine(model.transformer, body=body, unembed=torch.bfloat16)
    got = oracle_on(model, engine).query(masks)
    assert (got.reward - want.reward).abs().max() < tolerance
    assert not torch.equal(got.control, want.control)
    if body == torch.float32:
        assert engine.error is not None
        assert 0 < engine.error < 5e-3


def test_a_rough_unembedding_that_is_too_rough_is_replaced(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("circuitbench.oracle.engine.fast.FAST_TOLERANCE", 0.0)
    masks = random_masks(6)
    want = oracle_on(model, FastEngine(model.transformer)).query(masks)
    engine = FastEngine(model.transformer, unembed=torch.bfloat16)
    got = oracle_on(model, engine).query(masks)
    torch.testing.assert_close(got.control, want.control, atol=1e-5, rtol=0)


def test_precisions_by_name(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr("circuitbench.oracle.engine.linear.bfloat16_is_fast", lambda _: True)
    assert dtypes(cpu, "exact") == (torch.float32, torch.float32)
    assert dtypes(cpu, "fast") == (torch.float32, torch.bfloat16)
    assert dtypes(cpu, "approx") == (torch.bfloat16, torch.bfloat16)
    monkeypatch.setattr("circuitbench.oracle.engine.linear.bfloat16_is_fast", lambda _: False)
    assert dtypes(cpu, "approx") == (torch.float32, torch.float32)
    with pytest.raises(InvalidSpec, match="did you mean 'exact'"):
        engine_for(model, precision="exat")


def test_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="not a device"):
        resolve_device("gpu")
    with pytest.raises(InvalidSpec, match="expected cpu or cuda"):
        resolve_device("meta")
    with pytest.raises(ModelUnavailable, match="CUDA devices were found"):
        resolve_device("cuda:99")


def test_models_without_anything_to_run_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="neither plain weights nor a hooked model"):
        engine_for(Model("empty", 1, 1, None))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("precision", ["exact", "fast", "approx"])
def test_gpu_agrees_with_cpu(model: Any, precision: Any) -> None:
    masks = random_masks(12)
    want = oracle_on(model).query(masks)
    got = oracle_on(model, device="cuda", precision=precision).query(masks)
    tolerance = {"exact": 1e-4, "fast": 2e-3, "approx": 0.15}[precision]
    assert (got.reward - want.reward).abs().max() < tolerance
