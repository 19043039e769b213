"""A GPU gives the answers of the CPU, and survives running out of memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracle_kit import ARCHITECTURES, Hooked, RandomTask, random_model, transformer_of

from circuitbench.models.base import Model
from circuitbench.oracle import Oracle, query_together
from circuitbench.oracle.ablations import ABLATIONS
from circuitbench.oracle.edges import query_edges_together
from circuitbench.oracle.paths import GradPath, Straight
from circuitbench.oracle.rules import RULES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

MODELS = {name: random_model(4, **shape) for name, shape in ARCHITECTURES.items()}
WITH_EDGES = [name for name in MODELS if name != "partial-rotary"]


def both(name: str = "gpt2", **options: Any) -> tuple[Oracle, Oracle]:
    """Two oracles that differ in where they compute."""
    options = {"batch_size": 6, **options}
    on = [
        Oracle(MODELS[name], RandomTask(k=2), task_name="x", seed=0, device=device, **options)
        for device in ("cpu", "cuda")
    ]
    return on[0], on[1]


def random_masks(*shape: int, share: float = 0.6) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < share


def agree(want: Any, got: Any) -> None:
    assert got.device.type == "cpu"
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("pool", [None, 9])
@pytest.mark.parametrize("name", MODELS)
def test_damages_of_heads(name: str, pool: int | None) -> None:
    cpu, gpu = both(name, pool=pool)
    masks = random_masks(8, *cpu.shape)
    for ablation in ABLATIONS:
        atol = 1e-3 if ablation == "optimal" else 1e-4  # which is fitted step by step
        want, got = (o.query(masks, ablation=ablation, kl=True) for o in (cpu, gpu))
        for quantity in ("task", "control", "reward", "kl"):
            values = getattr(want, quantity), getattr(got, quantity)
            torch.testing.assert_close(values[1], values[0], atol=atol, rtol=1e-3)
    want, got = (o.query(masks, direction="denoising", per_prompt=True) for o in (cpu, gpu))
    agree(want.task, got.task)
    assert gpu.meter.queries == cpu.meter.queries


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", MODELS)
def test_slopes_of_heads(name: str, rule: str) -> None:
    cpu, gpu = both(name, ablation="resample")
    soft = torch.rand(2, *cpu.shape, generator=torch.Generator().manual_seed(1))
    of: tuple[Any, ...] = ("task", "kl") if RULES[rule].reference else ("task", "kl", "reward")
    want, got = (o.differentiate(soft, of=of, rule=rule) for o in (cpu, gpu))
    for quantity in of:
        agree(want.values[quantity], got.values[quantity])
        agree(want.gradients[quantity], got.gradients[quantity])


@pytest.mark.parametrize("share", [0.9, 0.5, 0.03])
@pytest.mark.parametrize("name", WITH_EDGES)
def test_damages_of_edges(name: str, share: float) -> None:
    cpu, gpu = both(name, ablation="resample")
    masks = random_masks(6, len(cpu.edges.edges), share=share)
    asked: list[dict[str, Any]] = [{"control": True}, {"direction": "denoising"}]
    for options in (*asked, {"ablation": "mean"}):
        want, got = (o.edges.query(masks, kl=True, **options) for o in (cpu, gpu))
        agree(want.task, got.task)
        agree(want.kl, got.kl)
    here, there = (
        query_edges_together([(o.edges, mask, o.draw(k)) for k, mask in enumerate(masks)])
        for o in (cpu, gpu)
    )
    agree(torch.cat([one.task for one in here]), torch.cat([one.task for one in there]))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", WITH_EDGES)
def test_slopes_and_attributions_of_edges(name: str, rule: str) -> None:
    cpu, gpu = both(name, ablation="resample")
    soft = torch.rand(2, len(cpu.edges.edges), generator=torch.Generator().manual_seed(1))
    want, got = (o.edges.differentiate(soft, per_prompt=True, rule=rule) for o in (cpu, gpu))
    agree(want.gradients["task"], got.gradients["task"])
    agree(want.gradients["kl"], got.gradients["kl"])
    for path in (Straight((0.0, 0.5, 1.0)), Straight((0.5,), ("0.1", "1.2")), GradPath(2)):
        here, there = (o.edges.attribution(path, of="kl", rule=rule) for o in (cpu, gpu))
        agree(here, there)


def test_offsets_and_proximity() -> None:
    cpu, gpu = both(ablation="resample")
    offsets = torch.randn(cpu.edges.offsets_shape, generator=torch.Generator().manual_seed(2))
    soft = torch.full((1, len(cpu.edges.edges)), 0.7)
    want, got = (o.edges.differentiate(soft, offsets=offsets) for o in (cpu, gpu))
    agree(want.gradients["task"], got.gradients["task"])
    agree(cpu.edges.proximity(), gpu.edges.proximity())


def test_batches_asked_together() -> None:
    cpu, gpu = both(pool=20)
    masks = random_masks(8, *cpu.shape)
    want, got = (
        query_together([(o, mask, o.draw(k)) for k, mask in enumerate(masks)]) for o in (cpu, gpu)
    )
    agree(torch.cat([one.reward for one in want]), torch.cat([one.reward for one in got]))


@pytest.mark.filterwarnings("ignore:the architecture of odd is not one")
def test_models_run_by_hooks() -> None:
    cpu, _ = both()
    odd = Model("odd", 3, 4, None, hooked=Hooked(transformer_of(MODELS["gpt2"])).bridge)
    gpu = Oracle(odd, RandomTask(k=2), task_name="x", seed=0, batch_size=6, device="cuda")
    masks = random_masks(4, *cpu.shape)
    agree(cpu.query(masks).reward, gpu.query(masks).reward)
    agree(cpu.gradient(masks.float()), gpu.gradient(masks.float()))


def test_running_out_of_memory_halves_the_chunk() -> None:
    model = random_model(6, d_model=64, d_head=16, d_mlp=256, normalization="layer")
    on = [
        Oracle(model, RandomTask(), task_name="x", seed=0, batch_size=64, device=device)
        for device in ("cpu", "cuda")
    ]
    masks = random_masks(512, *on[0].shape)
    want = on[0].query(masks)
    _ = on[1].clean_metric, on[1].clean_control
    at_once = on[1].engine.runner.chunk_tokens  # type: ignore[attr-defined]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    limit = torch.cuda.memory_reserved() + (128 << 20)
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(limit / whole)
    try:
        got = on[1].query(masks)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    agree(want.reward, got.reward)
    assert torch.cuda.max_memory_reserved() <= limit
    assert on[1].engine.runner.chunk_tokens < at_once  # type: ignore[attr-defined]
