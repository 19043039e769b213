"""What a large sweep takes on a cluster: planned from records, and what the store bears.

    python benchmarks/scaling.py plan leaderboard/published/records --runs 10000 --gpus 100
    python benchmarks/scaling.py store leaderboard/published/records --records 10000

``plan`` takes the seconds of the runs that a folder of records holds as those of the runs to come,
the same mixture of them. ``store`` writes that many copies of those records, under new seeds, each
to the disk as a run does, lets the driver of a sweep take them, and makes the index and the
archives; it prints seconds of the clock and of the CPU.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from circuitbench.results import Record, read_folder, write_record
from circuitbench.results.index import read_runs
from circuitbench.results.packing import pack_folder
from circuitbench.results.text import to_bytes
from circuitbench.runs.drive import drive
from circuitbench.runs.launch.base import Event, Job
from circuitbench.runs.plan import Plan, Planned, cost_of, duration
from circuitbench.runs.spec import RunSpec

START = 10.0  # seconds that a place takes to be there, once; and a method's process, each run
OVERHEAD = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["plan", "store"])
    parser.add_argument("folder", type=Path, help="of records")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--gpus", type=int, default=100)
    parser.add_argument("--gpus-per-run", type=float, default=0.25)
    parser.add_argument(
        "--speed", type=float, default=1.0, help="of a run there, if a run of the records is 1"
    )
    parser.add_argument("--records", type=int, default=10_000)
    given = parser.parse_args()
    records = [r for r in read_folder(given.folder)[0] if r.status == "done" and not r.external]
    if given.what == "store":
        store(records, given.records)
        return
    places = int(given.gpus * max(1, int(1 / given.gpus_per_run + 1e-6)))
    print("\n".join(planned(records, given.runs, places, given.speed)))


def planned(records: list[Record], runs: int, places: int, speed: float = 1.0) -> list[str]:
    """The plan in words.

    Args:
        records: finished runs, the mixture that the sweep is of.
        runs: of the sweep.
        places: runs at a time.
        speed: of a run on the cluster, if a run of the records has 1.
    """
    costs = [(r, cost[0] / speed + OVERHEAD) for r in records if (cost := cost_of(r)) is not None]
    seconds = np.array([cost for _, cost in costs])
    alike: dict[tuple[str, str], list[float]] = {}
    by_method: dict[str, float] = {}
    for record, cost in costs:
        alike.setdefault((record.method, record.task), []).append(cost)
        by_method[record.method] = by_method.get(record.method, 0.0) + cost
    # Of the medians: a machine that slept during one run says nothing of the next.
    kind, longest = max(((k, float(np.median(v))) for k, v in alike.items()), key=lambda m: m[1])
    whole = runs * float(seconds.mean())
    ideal = whole / places + START
    # No schedule is shorter than either; any that leaves no place idle is shorter than the sum.
    least, most = max(ideal, longest + START), ideal + longest
    size = np.mean([len(to_bytes(record)) for record in records[:: max(1, len(records) // 200)]])
    lines = [
        f"{len(seconds):,} records: {seconds.mean():.1f} s per run on average, "
        f"{np.median(seconds):.1f} s in the middle; the longest, {kind[0]} on {kind[1]}, "
        f"{longest:,.0f} s",
        f"{runs:,} runs: {whole / 3600:,.1f} hours of one place; {places} places at a time",
        f"done in {duration(least)} to {duration(most)}: {3600 * runs / most:,.0f} to "
        f"{3600 * runs / least:,.0f} runs per hour, {runs / least:.1f} records per second",
        "bottleneck: "
        + ("the longest run; start it first" if longest + START >= ideal else "the places"),
    ]
    total = sum(by_method.values())
    top = sorted(by_method.items(), key=lambda item: -item[1])[:5]
    lines.append("most of it: " + ", ".join(f"{m} {100 * s / total:.0f} %" for m, s in top))
    lines.append(f"disk: {runs * size / 1e6:,.0f} MB of records before they are packed")
    return lines


def store(records: list[Record], n: int) -> None:
    """Print what writing, driving, indexing and packing ``n`` records takes."""

    @contextmanager
    def timed(what: str) -> Iterator[None]:
        clock, cpu = time.perf_counter(), time.process_time()
        yield
        clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
        print(
            f"{what}: {clock:.1f} s, {cpu:.1f} s of CPU, {n / cpu:,.0f} per second of CPU",
            flush=True,
        )

    with tempfile.TemporaryDirectory() as name:
        out = Path(name, "records")
        out.mkdir()
        copies = [
            record.replace(spec={**record.spec, "seed": 1_000_000 + i})
            for i, record in enumerate(islice(cycle(records), n))
        ]
        with timed("written one by one"):
            paths = [write_record(record, out) for record in copies]
        print(f"size: {sum(path.stat().st_size for path in paths) / 1e6:.0f} MB")
        spec = RunSpec()
        runs = [Planned(spec, {**r.spec}, {**r.versions}) for r in copies]
        with timed("taken by the driver, 400 places"):
            ended = sum(1 for _ in drive(Plan(out, runs), _Instant(paths)))
        assert ended == n
        with timed("read by the plan of the next start"):
            assert len(read_folder(out)[0]) == n
        with timed("index made"):
            read_runs(out)
        with timed("index used"):
            read_runs(out)
        with timed("packed to archives"):
            pack_folder(out, Path(name, "archives"))


class _Instant:
    """A launcher whose runs have been done before."""

    slots = 400

    def __init__(self, paths: list[Path]) -> None:
        self._paths, self._events = iter(paths), list[Event]()

    def start(self, slot: int, job: Job) -> None:
        """A run that is done at once."""
        self._events.append(Event(slot, "progress", ["loading", None]))
        self._events.append(Event(slot, "done", str(next(self._paths))))

    def wait(self, seconds: float) -> list[Event]:
        """All of them."""
        events, self._events = self._events, []
        return events

    def stop(self, slot: int) -> None:
        """Nothing goes on."""

    def close(self) -> None:
        """Nothing is there."""


if __name__ == "__main__":
    main()
