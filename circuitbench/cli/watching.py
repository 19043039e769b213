"""How a sweep looks while it goes on: on a terminal, in a log, from another terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from circuitbench.cli.display import err_console, one_line
from circuitbench.runs.drive import Finished, Running
from circuitbench.runs.plan import Forecast, Plan, duration
from circuitbench.runs.state import StateFile

GOOD = ("done", "skipped")  # what cannot be run has not failed
EVERY = 1.0  # seconds between two looks at what is going on


class Display:
    """How far a sweep is: bars on a terminal, a line per run elsewhere, and the state file."""

    def __init__(self, plan: Plan, out: Path, workers: int) -> None:
        self.plan, self.workers = plan, workers
        self.total, self.ended = len(plan.runs), len(plan.kept)
        earlier = [run.earlier for run in plan.kept if run.earlier is not None]
        self.failures = self._failed_before = sum(r.status not in GOOD for r in earlier)
        self._todo = {id(run): run for run in plan.todo}
        self._forecast = Forecast(plan.records)
        self._file = StateFile(out)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=err_console,
            transient=True,
            disable=not err_console.is_terminal,
        )

    def __enter__(self) -> Display:
        self._bars.start()
        self._whole = self._bars.add_task("sweep", total=self.total, completed=self.ended, left="")
        self._slots: dict[int, TaskID] = {}
        self._looked = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()
        self._file.remove()

    def watch(self, running: Mapping[int, Running]) -> None:
        """Show what is going on, once a second at most."""
        now = time.monotonic()
        if now - self._looked < EVERY:
            return
        self._looked = now
        going = [(run.planned, now - run.began) for run in running.values()]
        left = self._forecast.left(self._todo.values(), going) / self.workers
        kept = len(self.plan.kept)
        self._file.write(
            running,
            total=self.total,
            kept=kept - self._failed_before,
            done=self.ended - kept - (self.failures - self._failed_before),
            failed=self.failures,
            left=None if math.isnan(left) else left,
        )
        if err_console.is_terminal:
            self._draw(running, "" if math.isnan(left) else f"about {duration(left)} left")

    def _draw(self, running: Mapping[int, Running], left: str) -> None:
        self._bars.update(self._whole, completed=self.ended, left=left)
        for slot, run in running.items():
            if slot not in self._slots:
                self._slots[slot] = self._bars.add_task("", total=100, left="")
            spec = run.planned.spec
            self._bars.update(
                self._slots[slot],
                description=f"{spec.method} on {spec.task} seed {spec.seed}: {run.stage[:40]}",
                completed=100 * (run.fraction or 0.0),
            )

    def finished(self, finished: Finished) -> None:
        """Print one run."""
        record = finished.record
        self.ended += 1
        self.failures += record.status not in GOOD
        self._todo.pop(id(finished.planned), None)
        self._forecast.learn(record)
        line = f"[{self.ended}/{self.total}] {one_line(record, True)}"
        err_console.print(f"{line} ({duration(finished.seconds)})", markup=False, soft_wrap=True)
