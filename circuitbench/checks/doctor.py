"""What this machine can do: device, precision, measured speed, and what a run would cost."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import Circuit
from circuitbench.core.errors import InvalidSpec
from circuitbench.models.base import Model
from circuitbench.oracle import Oracle
from circuitbench.oracle.engine.devices import PRECISIONS, dtypes, resolve_device
from circuitbench.oracle.engine.linear import Linear
from circuitbench.oracle.process_memory import peak_bytes
from circuitbench.tasks.base import Prompts

PACKAGES = ("circuitbench", "torch", "transformer_lens", "transformers", "numpy")
BUDGETS = (1_000, 10_000, 100_000)
_SECONDS = 3.0  # of measuring, at most
_PROMPT = 32  # tokens per prompt, or what the model's context allows
_TYPE_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def report(
    device: str = "cpu",
    model: Model | str = "planted",
    precision: str = "exact",
    batch_size: int = 32,
) -> dict[str, Any]:
    """Measure this machine on a model; JSON-able.

    Speed does not depend on what prompts say, so random tokens stand in for a task. Takes a few
    seconds for a small model; a large one is measured on as many masks as fit in that time.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        model: a model or a registered model's name.
        precision: ``exact``, ``fast`` or ``approx``.
        batch_size: prompts, and control spans, per batch.

    Raises:
        ModelUnavailable: if the device is not there or the model's weights are not.
    """
    place = resolve_device(device)
    if isinstance(model, str):
        from circuitbench.plugins.registry import load_model

        model = load_model(model)
    measured = measure(model, str(place), precision, batch_size)
    peak = matmul_peak(str(place))
    per_query = 1 / measured["queries_per_second"]
    return {
        "versions": {name: _version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "device": _device(place),
        "threads": torch.get_num_threads(),
        "precision": {
            name: dict(
                zip(("layers", "control_logits"), map(_name, dtypes(place, name)), strict=True)
            )
            for name in PRECISIONS
        },
        "matmul_gflops": peak / 1e9,
        "model": model.name,
        "heads": [model.n_layers, model.n_heads],
        "batch_size": batch_size,
        "measured_precision": precision,
        **measured,
        "share_of_matmul_peak": measured["gflops"] * 1e9 / peak,
        "estimated_seconds": {
            "sweep of all heads": measured["sweep_seconds"],
            **{f"budget of {n:,} queries": n * per_query for n in BUDGETS},
        },
    }


def render(found: Mapping[str, Any]) -> str:
    """The report for people, plain text."""
    device, versions = found["device"], found["versions"]
    lines = [
        "versions    " + ", ".join(f"{k} {v}" for k, v in versions.items()),
        f"device      {device['name']}, {device['memory_gib']:.0f} GiB, {found['threads']} threads",
        "precision   "
        + "; ".join(
            f"{name}: layers {kinds['layers']}, control logits {kinds['control_logits']}"
            for name, kinds in found["precision"].items()
        ),
        f"matmul      {found['matmul_gflops']:,.0f} GFLOP/s (float32, best measured)",
        f"model       {found['model']}, {found['heads'][0]} x {found['heads'][1]} heads, "
        f"batch of {found['batch_size']}",
        f"speed       {found['queries_per_second']:,.1f} queries/s on random masks, "
        f"{found['gflops']:,.0f} GFLOP/s = {found['share_of_matmul_peak']:.0%} of matmul",
        f"gradient    {found['gradient_seconds']:.2g} s per mask",
        "estimates",
    ]
    for what, seconds in found["estimated_seconds"].items():
        lines.append(f"  {what:<26}{_duration(seconds)}")
    return "\n".join(lines)


def measure(model: Model, device: str, precision: str, batch_size: int) -> dict[str, Any]:
    """Measured speed of the oracle on random masks, a sweep and a gradient."""
    oracle = Oracle(
        model,
        _RandomTokens(),
        task_name="doctor",
        seed=0,
        batch_size=batch_size,
        device=device,
        precision=precision,
    )
    _ = oracle.clean_metric, oracle.clean_control
    rng = np.random.default_rng(0)
    masks = torch.from_numpy(rng.random((256, *oracle.shape)) > 0.3)
    asked, seconds, flops = _timed(oracle, masks)
    sweep = oracle.head_masks()[rng.permutation(oracle.n_layers * oracle.n_heads)]
    swept, sweep_seconds, _ = _timed(oracle, sweep)
    start = time.perf_counter()
    oracle.gradient(torch.ones(1, *oracle.shape))
    return {
        "queries_per_second": asked / seconds,
        "gflops": flops / seconds / 1e9,
        "sweep_seconds": sweep_seconds * len(sweep) / swept,
        "sweep_measured_masks": swept,
        "gradient_seconds": time.perf_counter() - start,
        "peak_memory_gib": peak_bytes() / 2**30,
    }


def matmul_peak(
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    clock: Callable[[], float] = time.perf_counter,
    repeats: int = 4,
) -> float:
    """The fastest matrix product either library reaches here, in FLOP/s.

    Shapes are GPT-2 small's MLP on 32 x 60 tokens; PyTorch's default and the packed product
    take turns, and the best single run counts.
    """
    rows, d_in, d_out = (1920, 768, 3072) if device == "cpu" else (8192, 4096, 4096)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(rows, d_in, generator=rng).to(device, dtype)
    weight = torch.randn(d_in, d_out, generator=rng).to(device, dtype)
    linear = Linear(weight, None, dtype)
    products: tuple[Callable[[], Tensor], ...] = (lambda: x @ weight, lambda: linear(x))
    best = float("inf")
    with torch.no_grad():
        for _ in range(repeats + 1):
            for product in products:
                _settle(device)
                start = clock()
                product()
                _settle(device)
                best = min(best, clock() - start)
    return 2.0 * rows * d_in * d_out / best


class _RandomTokens:
    """Prompts and control text of random tokens, for any model."""

    default_model = ""

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        tokens, other = self.control(model, n, rng), self.control(model, n, rng)
        return Prompts(
            tokens=tokens,
            counterfactual=other,
            positions=torch.full((n, 1), tokens.shape[1] - 1),
            token_ids=tokens[:, None, :2],
            weights=torch.tensor([1.0, -1.0]).expand(n, 1, 2),
            choices=torch.arange(2),
        )

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        config = model.hooked.cfg if model.transformer is None else model.transformer.config
        size = n, min(_PROMPT, config.n_ctx)
        return torch.from_numpy(rng.integers(config.d_vocab, size=size))

    def truth(self, model: Model) -> Circuit:
        raise InvalidSpec("random tokens have no circuit")


def _timed(oracle: Oracle, masks: Tensor) -> tuple[int, float, float]:
    """Masks asked within the time allowed, seconds and FLOPs; the first call warms up."""
    oracle.query(masks[:1])
    asked, size, flops = 0, 1, oracle.meter.flops
    start = time.perf_counter()
    while asked + 1 < len(masks) and time.perf_counter() - start < _SECONDS:
        part = masks[asked + 1 : asked + 1 + size]
        oracle.query(part)
        asked, size = asked + len(part), size * 2
    return max(asked, 1), time.perf_counter() - start, oracle.meter.flops - flops


def _settle(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _name(dtype: torch.dtype) -> str:
    return _TYPE_NAMES[dtype]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device(place: torch.device) -> dict[str, Any]:
    if place.type == "cuda":
        facts = torch.cuda.get_device_properties(place)
        return {"kind": "cuda", "name": facts.name, "memory_gib": facts.total_memory / 2**30}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    name = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {"kind": "cpu", "name": name, "memory_gib": memory / 2**30}


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"
