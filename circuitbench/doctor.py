"""What this machine can do: device, precision, measured speed, and what a run would cost."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from typing import Any

import torch

from circuitbench.oracle.linear import Linear, bfloat16_is_fast


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
    best = float("inf")
    with torch.no_grad():
        for _ in range(repeats + 1):
            for product in (lambda: x @ weight, lambda: linear(x)):
                _settle(device)
                start = clock()
                product()
                _settle(device)
                best = min(best, clock() - start)
    return 2.0 * rows * d_in * d_out / best


def _settle(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
