"""Where the time of a PPO training goes: oracle, environment, stable-baselines3.

``python benchmarks/agents.py [--steps 8000] [--pool 32]`` trains rl-ppo on the embedded model
with one thread and prints CPU seconds. The first updates fill the per-prompt memo; what comes
after is the steady state, from which the cost of 200,000 steps is extrapolated.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from circuitbench.agents.episodes import SearchRules
from circuitbench.agents.training import PolicySettings, PolicyTraining
from circuitbench.agents.vector_env import EpisodeBatch
from circuitbench.oracle import AblationOracle
from circuitbench.registry import load_model, load_task


class Clock:
    """Adds up the CPU time of a method wherever it is called."""

    def __init__(self, owner: object, name: str) -> None:
        self.seconds, inner = 0.0, getattr(owner, name)

        def timed(*args: object, **kw: object) -> object:
            start = time.process_time()
            try:
                return inner(*args, **kw)
            finally:
                self.seconds += time.process_time() - start

        setattr(owner, name, timed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--pool", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model("planted")
    oracles = [
        AblationOracle(
            model,
            load_task(task),
            task_name=task,
            seed=0,
            batch_size=options.batch_size,
            pool=options.pool,
        )
        for task in ("induction", "ioi")
    ]
    settings = PolicySettings(total_steps=options.steps)
    rng = np.random.default_rng(0)
    training = PolicyTraining(EpisodeBatch(oracles, SearchRules(), 8, rng), settings, 0, "rl-ppo")
    clocks = {
        "oracle": Clock(training.batch, "_query"),
        "environment, oracle included": Clock(training.env, "step_wait"),
        "gradient steps (sb3)": Clock(training.model, "train"),
        "acting (sb3)": Clock(training.model.policy, "forward"),
    }
    marks: list[tuple[float, dict[str, float]]] = []

    def mark(fraction: float, text: str) -> None:
        marks.append((time.process_time(), {k: c.seconds for k, c in clocks.items()}))

    training.learn(mark)
    half = len(marks) // 2
    (start, first), (end, last) = marks[half], marks[-1]
    steps = (len(marks) - 1 - half) * settings.rollout
    print(
        f"filling the memo and the first {half + 1} updates: {marks[half][0] - marks[0][0]:.1f} s"
    )
    print(f"steady state, {steps} steps, CPU seconds per 1,000 steps:")
    total = 1000 * (end - start) / steps
    for name in clocks:
        print(f"  {name:32s}{1000 * (last[name] - first[name]) / steps:8.3f}")
    print(f"  {'all':32s}{total:8.3f}")
    print(f"200,000 steps in the steady state: {200 * total:.0f} s")


if __name__ == "__main__":
    main()
