import os
from collections.abc import Callable
from typing import Any

# Plots are drawn without a screen; two test processes share two cores.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
from agents_kit import GAINS, FixedDifference, additive_model

from circuitbench.models import Model
from circuitbench.oracle import Oracle


@pytest.fixture
def make_oracle() -> Callable[..., Oracle]:
    def make(gains: np.ndarray = GAINS, model: Model | None = None, **kw: Any) -> Oracle:
        settings: dict[str, Any] = {
            "task_name": "fixed",
            "seed": 0,
            "weight": 0.0,
            "batch_size": 2,
            **kw,
        }
        return Oracle(model or additive_model(gains), FixedDifference(), **settings)

    return make
