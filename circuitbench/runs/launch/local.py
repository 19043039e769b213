"""Worker processes on this machine."""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from circuitbench.core.errors import InvalidSpec, RunFailed
from circuitbench.runs.isolation.channel import Channel, Closed
from circuitbench.runs.isolation.nursery import Nursery, ending
from circuitbench.runs.isolation.output import Printed
from circuitbench.runs.launch.base import Event, Job


class Local:
    """Processes that are forked from one nursery, and end with this one.

    Args:
        workers: how many.
        threads: that each may compute with; by default the cores are shared out.
        devices: CUDA devices, given to the workers in turn (``CUDA_VISIBLE_DEVICES``).
        libraries: whether to import heavy libraries once, rather than in every run that needs
            them; worth its seconds where many runs follow.
    """

    def __init__(
        self,
        workers: int = 1,
        threads: int | None = None,
        devices: Sequence[str] = (),
        libraries: bool = False,
    ) -> None:
        for name, value in (("workers", workers), ("threads", threads)):
            if value is not None and value < 1:
                raise InvalidSpec(f"{name} must be 1 or more, not {value}")
        self.slots, self.devices = workers, list(devices)
        self.threads = share_of_cores(workers) if threads is None else threads
        self._libraries = libraries
        self._nursery = self._new_nursery()
        self._workers: list[_Process | None] = [None] * workers

    def start(self, slot: int, job: Job) -> None:
        """See :class:`~circuitbench.runs.launch.base.Launcher`."""
        worker = self._workers[slot]
        for _ in range(2):
            if worker is None:
                worker = self._workers[slot] = self._new_worker(slot)
            try:
                worker.channel.send(dict(job))
                return
            except Closed:  # it was killed while it had nothing to do
                self.stop(slot)
                worker = None
        raise RunFailed("workers end before they get their first job")

    def wait(self, seconds: float) -> list[Event]:
        """See :class:`~circuitbench.runs.launch.base.Launcher`."""
        workers = {w.channel.fileno(): (i, w) for i, w in enumerate(self._workers) if w}
        ready, _, _ = select.select(list(workers), [], [], seconds)
        for _, worker in workers.values():
            worker.printed.drain()
        return [self._event(*workers[number]) for number in ready]

    def stop(self, slot: int) -> None:
        """See :class:`~circuitbench.runs.launch.base.Launcher`."""
        self._end(slot)

    def close(self) -> None:
        """See :class:`~circuitbench.runs.launch.base.Launcher`."""
        for slot in range(self.slots):
            self._end(slot)
        self._nursery.close()

    def processes(self) -> list[int]:
        """Ids of the workers that are there, for tests that kill them."""
        return [worker.pid for worker in self._workers if worker]

    def _event(self, slot: int, worker: _Process) -> Event:
        try:
            message, _ = worker.channel.receive()
        except Closed:
            how = self._end(slot)
            said = worker.printed.tail()
            return Event(slot, "died", f"its worker {how}{f'; it printed: {said}' if said else ''}")
        ((kind, content),) = message.items()
        return Event(slot, kind, content)

    def _end(self, slot: int) -> str:
        """End a worker; how it ended, in words."""
        worker, self._workers[slot] = self._workers[slot], None
        if worker is None:
            return "was gone"
        worker.channel.close()
        how = "was lost with the process that made it"
        with suppress(RunFailed):
            how = ending(self._nursery.end(worker.pid))
        worker.printed.close()
        return how

    def _new_nursery(self) -> Nursery:
        return Nursery.start(self._libraries, threads=self.threads)

    def _new_worker(self, slot: int) -> _Process:
        if not self._nursery.alive:
            self._nursery = self._new_nursery()
        device = self.devices[slot % len(self.devices)] if self.devices else None
        request = {
            "run": "worker",
            "path": sys.path,
            "cwd": str(Path.cwd()),
            "threads": self.threads,
            "device": device,
        }
        return _Process(self._nursery, request)


class _Process:
    """A worker, and the two ways it speaks."""

    def __init__(self, nursery: Nursery, request: dict[str, Any]) -> None:
        ours, theirs = socket.socketpair()
        self.printed = Printed()
        self.pid = nursery.fork(request, theirs, self.printed.end)
        theirs.close()
        self.printed.handed_over()
        self.channel = Channel(ours)


def share_of_cores(workers: int) -> int:
    """Threads for each of some workers: what ``OMP_NUM_THREADS`` says, or an equal share."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    if stated.isdecimal() and int(stated) > 0:
        return int(stated)
    return max(1, len(os.sched_getaffinity(0)) // workers)
