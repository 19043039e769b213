"""Speed of sweeps: two workers against one, and what a process of its own costs a method.

    python benchmarks/sweep.py workers
    python benchmarks/sweep.py isolation --methods head-ablation,acdc,rl-ppo

``workers`` runs the reference run's cheap methods with one and with two workers of one thread each,
in one go, and prints the ratio; it is for an idle machine. ``isolation`` runs each method in this
process and in its own, in turn, and prints the least seconds of each: of the clock, and of the CPU,
all processes together.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from circuitbench.runs.drive import drive
from circuitbench.runs.isolation.host import in_own_processes
from circuitbench.runs.isolation.nursery import Nursery, adopt
from circuitbench.runs.launch.local import Local
from circuitbench.runs.plan import plan
from circuitbench.runs.prepare import load_method, prepare
from circuitbench.runs.run import run
from circuitbench.runs.spec import RunSpec
from circuitbench.runs.sweep import grid

CHEAP = (
    *("random", "head-ablation", "activation-patching", "acdc", "attribution-patching"),
    *("integrated-gradients", "bandit-ucb", "bandit-thompson", "successive-halving"),
    *("cross-entropy", "cut-search"),
)
TASKS = ("induction", "ioi", "docstring", "reverse", "sort", "histogram")
BASE = RunSpec(batch_size=16, device="cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["workers", "isolation"])
    parser.add_argument("--methods", default=",".join(CHEAP))
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2_000, help="of training, isolation only")
    given = parser.parse_args()
    specs = grid(BASE, given.methods.split(","), given.tasks.split(","), range(given.seeds))
    compare_workers(specs) if given.what == "workers" else compare_isolation(
        specs, given.repeats, given.steps
    )


def compare_workers(specs: list[RunSpec]) -> None:
    seconds = {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder, closing(Local(workers, 1)) as launcher:
            made = plan(specs, Path(folder), launcher)
            began = time.perf_counter()
            records = [finished.record for finished in drive(made, launcher)]
            seconds[workers] = time.perf_counter() - began
            done = sum(record.status == "done" for record in records)
        print(f"{workers} workers: {done} of {len(specs)} runs done in {seconds[workers]:.1f} s")
    print(f"ratio: {seconds[1] / seconds[2]:.2f}")


def compare_isolation(specs: list[RunSpec], repeats: int, steps: int) -> None:
    maker = Nursery.start(libraries=True, threads=1)
    adopt(maker)
    whole = np.zeros((2, 2))
    print(f"{'method':28} {'task':14} {'clock':>8} {'own':>8} {'more':>8} {'CPU':>8} {'own':>8}")
    for spec in specs:
        settings = {"training.pool": 16, "training.total_steps": steps}
        if spec.method.startswith("rl-"):
            spec = replace(spec, hyperparameters=settings)
        for here in (True, False):
            timed(spec, here, maker)  # what is imported and built once is not counted
        best = np.full((2, 2), np.inf)
        for _ in range(repeats):
            best = np.minimum(best, [timed(spec, here, maker) for here in (True, False)])
        whole += best
        print(f"{spec.method:28} {spec.task:14} {row(best)}", flush=True)
    print(f"{'all':43} {row(whole)}")


def row(seconds: np.ndarray) -> str:
    """``seconds [here or own process, clock or CPU]``."""
    (clock, cpu), (own_clock, own_cpu) = seconds
    more = [f"{100 * (a / b - 1):+7.1f}%" for a, b in ((own_clock, clock), (own_cpu, cpu))]
    return f"{clock:8.3f} {own_clock:8.3f} {more[0]} {cpu:8.3f} {own_cpu:8.3f} {more[1]}"


def timed(spec: RunSpec, here: bool, maker: Nursery) -> tuple[float, float]:
    """Seconds of one run, loading the method included: of the clock, of the CPU."""
    began, cpu = time.perf_counter(), cpu_seconds(maker)
    loading: Any = nullcontext(load_method) if here else in_own_processes()
    with loading as load:
        record = run(prepare(spec, method_of=load))
    assert record.status == "done", record.reason
    return time.perf_counter() - began, cpu_seconds(maker) - cpu


def cpu_seconds(maker: Nursery) -> float:
    """Of this process, of the maker of others, and of those that it has made and that ended."""
    fields = Path(f"/proc/{maker.pid}/stat").read_text().rpartition(")")[2].split()
    return time.process_time() + sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def closing(launcher: Local) -> Iterator[Local]:
    try:
        yield launcher
    finally:
        launcher.close()


if __name__ == "__main__":
    main()
