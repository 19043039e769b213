from collections.abc import Callable

import numpy as np
import pytest
from agents_kit import GAINS, FixedDifference, additive_model

from circuitbench.models import Model
from circuitbench.oracle import AblationOracle


@pytest.fixture
def make_oracle() -> Callable[..., AblationOracle]:
    def make(gains: np.ndarray = GAINS, model: Model | None = None, **kw: object) -> AblationOracle:
        settings = {"task_name": "fixed", "seed": 0, "weight": 0.0, "batch_size": 2, **kw}
        return AblationOracle(model or additive_model(gains), FixedDifference(), **settings)

    return make
