"""Faults thrown at sweeps. Each function injects one kind, goes on, and counts what was lost.

A run is lost if, at the end, its record is not there or differs from an undisturbed sweep's in
anything but times, machine and date; its metrics are compared byte for byte.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import circuitbench.runs.run as run_module
from circuitbench.core.errors import CorruptRecord, InvalidSpec
from circuitbench.evaluation.metrics import values_of
from circuitbench.results import (
    Record,
    files,
    read_folder,
    read_record,
    remove_leftovers,
    write_record,
)
from circuitbench.results.content import outcome_of
from circuitbench.results.record import NOT_IDENTITY
from circuitbench.results.text import to_bytes
from circuitbench.runs.drive import drive
from circuitbench.runs.isolation.limits import Limits
from circuitbench.runs.launch.local import Local
from circuitbench.runs.plan import plan
from circuitbench.runs.spec import RunSpec
from circuitbench.runs.state import remove_dead
from circuitbench.runs.sweep import grid, run_all

BASE = RunSpec(batch_size=4, device="cpu", functional="none")
TIMES = ("seconds", "method_seconds", "peak_memory_bytes")
Patch = Callable[[Any, str, Any], None]  # setattr, or pytest's
TIMED_METRICS = ("seconds", "memory")


@dataclass(frozen=True)
class Count:
    """What a fault did: how often it was injected, runs that were lost, files left behind."""

    fault: str
    injected: int
    runs: int
    lost: int
    stray: int = 0

    def line(self) -> str:
        """For the table in the docs."""
        return f"| {self.fault} | {self.injected:,} | {self.runs:,} | {self.lost} | {self.stray} |"


def specs_of(runs: int) -> list[RunSpec]:
    """Cheap runs: four for every seed."""
    seeds = range((runs + 3) // 4)
    return grid(BASE, ["random", "head-ablation"], ["reverse", "histogram"], seeds)[:runs]


def essence(record: Record) -> str:
    """What two runs of one spec have in common, and every metric of it but of time, as text."""
    kept = record.content()
    costs = {
        stage: {key: value for key, value in cost.items() if key not in TIMES}
        for stage, cost in kept["costs"].items()
    }
    same = {k: v for k, v in kept.items() if k not in ("created", "hardware", "costs")}
    # Somebody may work on the source meanwhile.
    same["versions"] = {k: v for k, v in same["versions"].items() if k not in NOT_IDENTITY}
    values, errors = values_of(outcome_of(record))
    metrics = {key: value for key, value in values.items() if key not in TIMED_METRICS}
    return json.dumps([same, costs, metrics, errors], sort_keys=True)


def undisturbed(specs: Sequence[RunSpec], out: Path) -> dict[str, str]:
    """The essence of every run, by its id."""
    return {record.run_id: essence(record) for record, _ in run_all(specs, out)}


def lost(expected: dict[str, str], out: Path) -> int:
    """Runs without a record like the undisturbed sweep's; anything unreadable counts too."""
    records, problems = read_folder(out)
    found = {record.run_id: essence(record) for record in records}
    return len(problems) + sum(found.get(key) != text for key, text in expected.items())


def stray(out: Path) -> int:
    """Files that are no records, after what a start does first."""
    remove_leftovers(out)
    remove_dead(out)
    return sum(path.suffix != ".json" or path.name[0] == "." for path in out.rglob("*"))


def finish(specs: Sequence[RunSpec], out: Path, launcher: Local) -> None:
    """Go on as ``circuitbench sweep --rerun failed`` does."""
    for _ in drive(plan(specs, out, launcher, "failed"), launcher):
        pass


def workers_killed(out: Path, times: int, runs: int, seed: int = 0) -> Count:
    """SIGKILL of a worker, again and again over one sweep, at random moments."""
    specs, rng, killed = specs_of(runs), random.Random(seed), 0
    expected = undisturbed(specs, out / "undisturbed")
    launcher = Local(2, threads=1)

    def kill(running: Any) -> None:
        nonlocal killed
        workers = launcher.processes()
        if running and workers and killed < times and rng.random() < 0.8:
            time.sleep(rng.uniform(0, 0.05))
            with suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)
                killed += 1

    try:
        again: Any = "missing"
        while killed < times or again == "missing":
            for _ in drive(plan(specs, out / "out", launcher, again), launcher, watch=kill):
                pass
            again = "all"
        finish(specs, out / "out", launcher)
    finally:
        launcher.close()
    return Count(
        "SIGKILL of a worker", killed, runs, lost(expected, out / "out"), stray(out / "out")
    )


def command(out: Path, runs: int) -> list[str]:
    """The sweep of :func:`specs_of` as a command."""
    return [
        *(sys.executable, "-m", "circuitbench", "sweep", "--methods", "random,head-ablation"),
        *("--tasks", "reverse,histogram", "--seeds", f"0-{(runs + 3) // 4 - 1}"),
        *("--batch-size", "4", "--functional", "none", "--device", "cpu", "--workers", "2"),
        *("--threads", "1", "--rerun", "failed", "--out", str(out)),
    ]


def driver_ended(out: Path, number: signal.Signals, times: int, runs: int, seed: int = 0) -> Count:
    """A signal to the driver, again and again, at random moments after its first record."""
    specs, rng, status = (
        specs_of(runs),
        random.Random(seed),
        {signal.SIGTERM: 143, signal.SIGINT: 130},
    )
    expected = undisturbed(specs, out / "undisturbed")
    target, sent, wrong = out / "out", 0, 0
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for _ in range(4 * times):
        before = len(list(target.glob("*.json")))
        process = subprocess.Popen(
            command(target, runs), env=environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None and len(list(target.glob("*.json"))) <= before:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))
        if process.poll() is None:
            process.send_signal(number)
            sent += 1
        wrong += process.wait(120) not in (status.get(number, -number), 0)
        if process.returncode == 0 or sent == times:
            break
    subprocess.run(command(target, runs), env=environment, check=True, capture_output=True)
    return Count(
        f"{number.name} of the driver", sent, runs, wrong + lost(expected, target), stray(target)
    )


def disk_full(out: Path, runs: int) -> Count:
    """No file may grow beyond some size, as on a disk that fills up; then there is room again."""
    specs = specs_of(runs)
    expected = undisturbed(specs, out / "undisturbed")
    target = out / "out"
    sizes = sorted(path.stat().st_size for path in (out / "undisturbed").glob("*.json"))
    # Between the sizes, so that some records fit; the probe at the start takes 1,024 bytes.
    room = max(1_024, sizes[len(sizes) // 2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    full = subprocess.run(
        command(target, runs), env=environment, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
        check=False,
    )  # fmt: skip
    refused = full.returncode == 2 and "Traceback" not in full.stderr
    left = stray(target)
    subprocess.run(command(target, runs), env=environment, check=True, capture_output=True)
    return Count("disk full", 1, runs, (not refused) + lost(expected, target), left)


def damaged(out: Path, flips: int, seed: int = 0, step: int = 1) -> Count:
    """A record cut at every byte, and with random bytes changed: never read as another one."""
    rng = random.Random(seed)
    ((record, _),) = run_all(specs_of(1), out / "undisturbed")
    whole, path, wrong, injected = to_bytes(record), out / "damaged.json", 0, 0
    cuts = (whole[:length] for length in range(0, len(whole), step))

    def flipped() -> bytes:
        place = rng.randrange(len(whole))
        byte = rng.choice([b for b in range(256) if b != whole[place]])
        return whole[:place] + bytes([byte]) + whole[place + 1 :]

    for data in (*cuts, *(flipped() for _ in range(flips))):
        path.write_bytes(data)
        injected += 1
        try:
            wrong += read_record(path) is not None
        except CorruptRecord as error:
            wrong += str(path) not in str(error) or "\n" in str(error)
    path.unlink()
    finished = [record for record, _ in run_all(specs_of(1), out / "undisturbed")]
    return Count("record cut or changed", injected, 1, wrong + (finished != [record]))


def many_writers(out: Path, writers: int, times: int) -> Count:
    """Writers of one run id at once, each another content, and a reader all the while."""
    ((record, _),) = run_all(specs_of(1), out / "undisturbed")
    contents = [record.replace(created=f"20{i:02}-01-01T00:00:00+00:00") for i in range(writers)]
    target, torn, reads, over = out / "out", 0, 0, threading.Event()
    path = write_record(record, target)

    def write(content: Record) -> None:
        for _ in range(times):
            write_record(content, target)

    def sweep_up() -> None:
        while not over.is_set():
            remove_leftovers(target)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    keeper = threading.Thread(target=sweep_up)
    for thread in (*threads, keeper):
        thread.start()
    while any(thread.is_alive() for thread in threads):
        try:
            torn += essence(read_record(path)) != essence(record)
        except CorruptRecord:
            torn += 1
        reads += 1
    over.set()
    for thread in (*threads, keeper):
        thread.join()
    (last,) = read_folder(target)[0]
    torn += last not in contents
    return Count(f"{writers} writers of one id", writers * times, reads, torn, stray(target))


def clock_jumps(out: Path, runs: int, patch: Patch, seed: int = 0) -> Count:
    """The clock of the wall jumps by up to thirty years at every look; files are from 1970."""
    specs, rng, jumps = specs_of(runs), random.Random(seed), 0
    expected = undisturbed(specs, out / "undisturbed")
    real = time.time

    def jumping() -> float:
        nonlocal jumps
        jumps += 1
        return real() + rng.uniform(-1e9, 1e9)

    patch(time, "time", jumping)
    launcher = Local(2, threads=1)
    try:
        half = specs[: runs // 2]
        for part in (half, specs):
            made = plan(part, out / "out", launcher)
            for finished in drive(made, launcher, Limits(seconds=300)):
                assert finished.record.path is not None
                os.utime(finished.record.path, (0, rng.choice([0, 2**33])))
                jumping()
    finally:
        launcher.close()
        patch(time, "time", real)
    return Count("clock jumps", jumps, runs, lost(expected, out / "out"), stray(out / "out"))


def misbehaving(out: Path, strange: Sequence[tuple[str, dict[str, Any], str]], runs: int) -> Count:
    """Plug-ins that misbehave, between runs of others: ``(method, settings, how it ends)``."""
    specs = specs_of(runs)
    expected = undisturbed(specs, out / "undisturbed")
    rogues = [
        replace(BASE, method=method, task="reverse", hyperparameters=settings)
        for method, settings, _ in strange
    ]
    mixed = [
        spec
        for i in range(max(len(rogues), runs))
        for spec in (*rogues[i : i + 1], *specs[i : i + 1])
    ]
    launcher, target = Local(2, threads=1), out / "out"
    try:
        made = plan(mixed, target, launcher)
        ended = len(list(drive(made, launcher, Limits(seconds=20, memory=1 << 30))))
    finally:
        launcher.close()
    wrong, records = len(mixed) - ended, read_folder(target)[0]
    for record in records:
        for method, settings, status in strange:
            given = record.spec["hyperparameters"]
            if record.method == method and settings.items() <= given.items():
                wrong += record.status != status or (status != "done" and not record.reason)
    wrong += len(mixed) - len(records)
    return Count(
        "misbehaving plug-ins", len(strange), runs, wrong + lost(expected, target), stray(target)
    )


def folder_fails(out: Path, number: int, runs: int, patch: Patch) -> Count:
    """Every third write into the folder fails; what was found is saved elsewhere, and said."""
    specs, target = specs_of(runs), out / "out"
    expected = undisturbed(specs, out / "undisturbed")
    real, writes, failures, wrong = files._write, 0, 0, 0

    def failing(path: Path, data: bytes) -> None:
        nonlocal writes, failures
        writes += path.parent == target
        if path.parent == target and writes % 3 == 0:
            failures += 1
            raise OSError(number, os.strerror(number))
        real(path, data)

    patch(files, "_write", failing)
    for _ in range(runs):
        try:
            for _ in run_all(specs, target):
                pass
            break
        except InvalidSpec as error:
            said, _, saved = str(error).partition("; the record was saved to ")
            wrong += os.strerror(number) not in said or essence(read_record(saved)) not in set(
                expected.values()
            )
            shutil.rmtree(Path(saved).parent)
    patch(files, "_write", real)
    return Count(os.strerror(number), failures, runs, wrong + lost(expected, target), stray(target))


def memory_of_the_device(out: Path, runs: int, patch: Patch) -> Count:
    """Every third discovery ends for want of GPU memory, as torch says it; then there is enough."""
    specs, target = specs_of(runs), out / "out"
    expected = undisturbed(specs, out / "undisturbed")
    real, asked, failures = vars(run_module)["discover"], 0, 0

    def short(*given: Any) -> Any:
        nonlocal asked, failures
        asked += 1
        if asked % 3 == 0:
            failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(*given)

    patch(run_module, "discover", short)
    ended = [record for record, _ in run_all(specs, target)]
    patch(run_module, "discover", real)
    said = sum("OutOfMemoryError" in record.reason for record in ended if record.status == "failed")
    for _ in run_all(specs, target, rerun="failed"):
        pass
    return Count(
        "GPU out of memory", failures, runs, failures - said + lost(expected, target), stray(target)
    )
