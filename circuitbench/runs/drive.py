"""Drives a plan through a launcher: every run leaves one record, whatever becomes of its worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from circuitbench.core.errors import CircuitBenchError, InvalidSpec
from circuitbench.plugins.registry import info_of
from circuitbench.results import Record, file_name, read_record, write_record
from circuitbench.results.record import Stage, Status
from circuitbench.runs.command import command_line
from circuitbench.runs.failure import shown
from circuitbench.runs.isolation.errors import from_method
from circuitbench.runs.isolation.limits import Limits
from circuitbench.runs.launch.base import WAITING, Event, Launcher
from circuitbench.runs.plan import SKIPPED, TRIES, Plan, Planned, lost, unresolved_file
from circuitbench.runs.unmeasured import is_unmeasured

NEAR = 1_000  # runs, from the first that waits, of which the next is chosen
GRACE = 60.0  # seconds beyond its limit that a run's worker has to stop it by itself


@dataclass
class Running:
    """A run that is going on in a slot."""

    planned: Planned
    began: float
    stage: str = "loading"
    fraction: float | None = None


@dataclass(frozen=True)
class Finished:
    """A run that has left its record."""

    planned: Planned
    record: Record
    seconds: float


Watch = Callable[[Mapping[int, Running]], None]


def drive(
    plan: Plan,
    launcher: Launcher,
    limits: Limits = Limits(),
    *,
    checkpoints: Path | None = None,
    tensorboard: Path | None = None,
    retries: int = TRIES - 1,
    watch: Watch = lambda running: None,
) -> Iterator[Finished]:
    """Run what a plan has to do; yields each run as it ends, in whatever order they do.

    A run whose worker dies is tried again. Runs on a model that a worker has loaded come to it
    first, then those on a model that no other worker has.

    Args:
        plan: what to do.
        launcher: where.
        limits: of each method.
        checkpoints, tensorboard: folders for learners' training, each run in one named by its id.
        retries: how often a run is tried again whose worker died, or was lost with its machine.
        watch: shown what is going on, a few times a second.

    Raises:
        InvalidSpec: a record could not be written to the folder; says where it was saved instead.
    """
    driver = _Driver(plan, launcher, limits, checkpoints, tensorboard, retries)
    while driver.waiting or driver.running:
        yield from driver.fill()
        for event in launcher.wait(0.2):
            yield from driver.take(event)
        yield from driver.late()
        watch(driver.running)


class _Driver:
    """Who does what."""

    def __init__(
        self,
        plan: Plan,
        launcher: Launcher,
        limits: Limits,
        checkpoints: Path | None,
        tensorboard: Path | None,
        retries: int,
    ) -> None:
        self.retries = retries
        self.plan, self.launcher, self.limits = plan, launcher, limits
        self.folders = {"checkpoints": checkpoints, "tensorboard": tensorboard}
        self.waiting = plan.todo
        self.running: dict[int, Running] = {}
        self.deaths: dict[str, int] = {}
        self.models: dict[int, str] = {}  # that a slot's worker has loaded last

    def fill(self) -> Iterator[Finished]:
        """Give every free slot something to do."""
        for slot in range(self.launcher.slots):
            while self.waiting and slot not in self.running:
                run = self._next(slot)
                if run.problem is not None:
                    yield self._ended(run, run.problem, "loading", 0.0)
                    continue
                self.running[slot] = Running(run, time.monotonic())
                self.launcher.start(slot, self._job(run))

    def take(self, event: Event) -> Iterator[Finished]:
        """What a slot says."""
        running = self.running.get(event.slot)
        if running is None:
            return
        if event.kind == "progress":
            if running.stage == WAITING:
                running.began = time.monotonic()
            running.stage, running.fraction = event.content
            return
        del self.running[event.slot]
        run, seconds = running.planned, time.monotonic() - running.began
        if event.kind == "done":
            self._tidy(run)
            yield Finished(run, read_record(event.content), seconds)
        elif event.kind == "failed":
            if event.content["ours"] == InvalidSpec.__name__:  # the folder, or what it asks for
                raise from_method(event.content)
            yield self._ended(run, event.content, "loading", seconds)
        else:
            deaths = self.deaths[run.run_id] = self.deaths.get(run.run_id, 0) + 1
            if deaths <= self.retries:
                self.waiting.insert(0, replace(run, earlier=self._unmeasured(run)))
            else:
                times = "" if deaths == 1 else f", {deaths} times"
                why = lost(f"{event.content}{times}")
                yield self._ended(run, why, _stage(running.stage), seconds)

    def late(self) -> Iterator[Finished]:
        """Stop workers that did not stop a run in time themselves."""
        if self.limits.seconds is None:
            return
        for slot, running in list(self.running.items()):
            seconds = time.monotonic() - running.began
            patient = running.stage in ("measuring", WAITING)
            if seconds > self.limits.seconds + GRACE and not patient:
                del self.running[slot]
                self.launcher.stop(slot)
                why = {**lost(f"stopped after {self.limits.seconds:g} seconds"), "ours": "TimedOut"}
                yield self._ended(running.planned, why, _stage(running.stage), seconds)

    def _next(self, slot: int) -> Planned:
        """The next run; of those of one seed, on the worker's model, or on one nobody else has."""
        seed = self.waiting[0].spec.seed
        near = list(takewhile(lambda run: run.spec.seed == seed, self.waiting[:NEAR]))
        models = [str(run.identity["model"]) for run in near]
        elsewhere = {model for other, model in self.models.items() if other != slot}
        here = [i for i, model in enumerate(models) if model == self.models.get(slot)]
        free = [i for i, model in enumerate(models) if model not in elsewhere]
        chosen = next(iter((*here, *free, 0)))
        self.models[slot] = models[chosen]
        return self.waiting.pop(chosen)

    def _job(self, run: Planned) -> dict[str, Any]:
        earlier = run.earlier
        goes_on = earlier is not None and is_unmeasured(earlier)
        return {
            "do": "run",
            "spec": asdict(run.spec),
            "out": str(self.plan.out),
            "limits": asdict(self.limits),
            "unmeasured": str(earlier.path) if earlier is not None and goes_on else None,
            **{key: root and str(root / run.run_id) for key, root in self.folders.items()},
        }

    def _unmeasured(self, run: Planned) -> Record | None:
        """What a worker that died may have left of a run, or what there was before."""
        with suppress(CircuitBenchError):
            return read_record(self.plan.out / file_name(run.identity, run.run_id))
        return run.earlier

    def _ended(
        self, run: Planned, why: Mapping[str, str], stage: Stage, seconds: float
    ) -> Finished:
        """The record of a run that no worker could write one for."""
        error = from_method(why)
        status: Status = "skipped" if why["ours"] in SKIPPED else "failed"
        record = Record(
            spec=dict(run.identity),
            status="timeout" if why["ours"] == "TimedOut" else status,
            stage=stage,
            reason=shown(str(error), 1_200) or "unknown",
            traceback=str(getattr(error, "told_traceback", "")),
            info=info_of(run.spec.method, run.spec.task, str(run.identity["model"])),
            versions=dict(run.versions),
            command=command_line(run.spec),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        return Finished(run, record.at(write_record(record, self.plan.out)), seconds)

    def _tidy(self, run: Planned) -> None:
        """Remove what was recorded of the same run when its plug-ins could not be loaded."""
        with suppress(OSError, CircuitBenchError):
            path = self.plan.out / unresolved_file(run.spec)
            if read_record(path).status != "done":
                path.unlink()


def _stage(text: str) -> Stage:
    """The stage that a line of progress begins with."""
    word = text.partition(" ")[0]
    stages: tuple[Stage, ...] = ("training", "discovering", "measuring")
    return next((stage for stage in stages if stage == word), "loading")
