"""A method's agreement with itself, measured by running it often."""

from __future__ import annotations

from typing import Any

from circuitbench.evaluation.without_truth.stability import stability
from circuitbench.oracle import Meter, Oracle
from circuitbench.plugins.method import TrainableMethod
from circuitbench.runs.prepare import Prepared
from circuitbench.runs.progress import Progress, silent
from circuitbench.runs.stages import make_oracle, train


def measure_stability(
    prepared: Prepared, resamples: int = 100, seeds: int = 5, progress: Progress = silent
) -> dict[str, Any]:
    """Agreement of a method with itself over fresh prompts and over its own seeds.

    Trains once if the method learns. See
    :func:`circuitbench.evaluation.without_truth.stability.stability`.
    """
    spec = prepared.spec
    if isinstance(prepared.method, TrainableMethod):
        train(prepared, Meter(), progress)
    asked = 0

    def other_oracle(seed: int) -> Oracle:
        nonlocal asked
        progress("discovering", asked / (resamples + seeds))
        asked += 1
        purpose = f"stability {seed}"
        return make_oracle(prepared, spec.task, prepared.task, purpose, Meter(), spec.budget)

    return stability(prepared.method, other_oracle, spec.seed, resamples, seeds)
