"""How fast do records become tables? With and without the index, in processes of their own.

    python benchmarks/records.py leaderboard/published/records      # a folder there is
    python benchmarks/records.py --generate 100000 /tmp/many        # invented records first

The folder is copied where an index has to be removed or may not be written: what was there stays
as it was. Seconds are of the CPU and of the clock; memory is the peak of the whole process.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

import numpy as np

from circuitbench.results import Record, record_path
from circuitbench.results.index import FILE
from circuitbench.results.text import to_bytes

LAYERS, HEADS = 12, 12
TASKS, SEEDS = 20, 50
PER_ROLE = 3
COMMAND = (sys.executable, "-m", "circuitbench", "leaderboard", "--format", "markdown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--generate", type=int, metavar="N", help="Write N records there first.")
    parser.add_argument("--repeat", type=int, default=3, help="Times with the index; the best.")
    options = parser.parse_args()
    folder = options.folder
    if options.generate:
        if folder.exists():
            parser.error(f"{folder} exists; --generate makes a folder")
        started = time.perf_counter()
        generate(folder, options.generate)
        print(f"generated in {time.perf_counter() - started:.0f} s")
        measure(folder, options.repeat)
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "records")
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(FILE))
        measure(copy, options.repeat)


def measure(folder: Path, repeat: int) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.0f} MB")
    (folder / FILE).unlink(missing_ok=True)
    report("without index", [timed(folder)])
    report("with index", [timed(folder) for _ in range(repeat)])
    print(f"index: {(folder / FILE).stat().st_size / 1e6:.1f} MB")


def timed(folder: Path) -> tuple[float, float, float]:
    """Seconds of CPU, seconds of the clock and peak MB of one leaderboard."""
    started = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*COMMAND, str(folder)], stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the leaderboard failed with status {process.returncode}")
    clock = time.perf_counter() - started
    return usage.ru_utime + usage.ru_stime, clock, usage.ru_maxrss / 1e3


def report(name: str, found: list[tuple[float, float, float]]) -> None:
    cpu, clock, memory = np.min(found, axis=0)
    print(f"{name}: {cpu:.2f} s CPU, {clock:.2f} s, {memory:.0f} MB")


def generate(folder: Path, n: int) -> None:
    """Write ``n`` invented runs: methods of rising skill, 20 tasks, 50 seeds."""
    folder.mkdir(parents=True)
    for record in islice(invented(), n):
        # Not one by one to the platter, as runs do: these can be made again.
        record_path(record, folder).write_bytes(to_bytes(record))


def invented() -> Iterator[Record]:
    method = 0
    while True:
        for task, seed in product(range(TASKS), range(SEEDS)):
            yield one(method, task, seed)
        method += 1


def one(method: int, task: int, seed: int) -> Record:
    rng = np.random.default_rng([method, task, seed])
    roles = np.random.default_rng(task).permutation(LAYERS * HEADS)[: 2 * PER_ROLE]
    true = np.zeros(LAYERS * HEADS)
    true[roles] = 1
    noise = rng.normal(size=true.shape)
    grids = [method / 20 * share * true + noise * (1.5 - share) for share in (0.3, 1.0)]
    heads = [f"{head // HEADS}.{head % HEADS}" for head in roles.tolist()]
    spent = {"queries": 144, "forwards": 288, "backwards": 0, "method_seconds": 1.5}
    return Record(
        spec={
            "method": f"method-{method}",
            "task": f"task-{task}",
            "model": "planted",
            "seed": seed,
            "budget": None,
            "hyperparameters": {"rounds": 3, "threshold": 0.1},
        },
        status="done",
        discovery={
            "scores": grids[1].reshape(LAYERS, HEADS),
            "selected": [f"{h // HEADS}.{h % HEADS}" for h in np.argsort(-grids[1])[:6].tolist()],
            "edges": None,
            "trace": [{"queries": 20, "scores": np.round(grids[0], 6).reshape(LAYERS, HEADS)}],
            "info": {},
        },
        truth={
            "roles": {
                "first": {"heads": heads[:PER_ROLE], "needed": PER_ROLE, "sign": 1},
                "second": {"heads": heads[PER_ROLE:], "needed": 1, "sign": 1},
            },
            "edges": None,
            "source": "invented",
            "kind": "constructed",
            "version": "1",
            "ablations": ["zero"],
        },
        measurements={"mib": {"zero": {"cpr": 0.9, "cmd": float(rng.random())}}},
        costs={
            "discovery": {**spent, "peak_memory_bytes": 2**28},
            "training": {"queries": 0},
        },
        model={"n_layers": LAYERS, "n_heads": HEADS},
        versions={"circuitbench": "0.1.0", "torch": "2.13.0"},
        created="2026-01-01T00:00:00+00:00",
    )


if __name__ == "__main__":
    main()
