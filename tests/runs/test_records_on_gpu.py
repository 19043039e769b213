"""A run on a GPU gives the record of a run on the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from circuitbench.runs.prepare import prepare
from circuitbench.runs.run import run
from circuitbench.runs.spec import RunSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("head-ablation", {}),
        ("edge-attribution-patching", {}),
        ("acdc-edges", {"threshold": 0.1}),
        ("subnetwork-probing", {"steps": 20}),
        ("rl-ppo", {"training.total_steps": 256, "training.n_envs": 2, "ppo.n_steps": 64}),
    ],
)
def test_records_agree(method: str, settings: dict[str, Any]) -> None:
    spec = RunSpec(method=method, task="reverse", batch_size=4, hyperparameters=settings)
    cpu, gpu = (run(prepare(replace(spec, device=device))) for device in ("cpu", "cuda"))
    assert (cpu.status, gpu.status) == ("done", "done"), (cpu.reason, gpu.reason)
    assert gpu.hardware["gpu"]
    np.testing.assert_allclose(
        gpu.discovery["scores"], cpu.discovery["scores"], atol=1e-3, rtol=1e-3
    )
    assert gpu.costs["discovery"]["queries"] == cpu.costs["discovery"]["queries"]
