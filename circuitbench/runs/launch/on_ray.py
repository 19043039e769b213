"""Workers on the nodes of a Ray cluster.

Each slot has a Ray actor, a :class:`~circuitbench.runs.launch.place.Place`, which reserves its
cores and its share of a GPU. Records are written by the workers, to a folder that all nodes share:
a learner's checkpoints need one anyhow, a record is safe before the driver hears of it, and none
passes through the driver. Ray ends the actors when the driver ends.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from circuitbench.core.errors import InvalidSpec
from circuitbench.core.extras import needs_extra
from circuitbench.results import versions
from circuitbench.runs.failure import shown
from circuitbench.runs.launch.base import WAITING, Event, Job
from circuitbench.runs.launch.place import ENDS, Place

REACHED = 5.0  # seconds in which a cluster must answer


@dataclass
class _Slot:
    """An actor, if there is one, what it was asked last, and the job that it has or waits for."""

    actor: Any = None
    asked: Any = None
    ready: bool = False
    job: Job | None = None


class Ray:
    """Runs on a Ray cluster (https://docs.ray.io).

    Args:
        address: of the cluster: ``auto``, ``host:port``; None is what ``RAY_ADDRESS`` says, or
            else a cluster of this machine alone, started here.
        workers: runs at a time; None is as many as the nodes hold. More than that wait, for nodes
            that an autoscaler adds.
        threads: cores of each run.
        gpus: share of a GPU for each run, at most 1, or a whole number of GPUs.
        out: the folder of records, which every node has to see.

    Raises:
        MissingExtra: Ray is not installed.
        InvalidSpec: a wrong share, nobody at ``address``, or no node that holds a run.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        threads: int | None = None,
        gpus: float = 0.0,
        out: Path | None = None,
    ) -> None:
        self._threads = 1 if threads is None else threads
        for name, value in (("workers", workers), ("threads", self._threads)):
            if value is not None and value < 1:
                raise InvalidSpec(f"{name} must be 1 or more, not {value}")
        if not 0 <= gpus < float("inf") or (gpus > 1 and gpus != int(gpus)):
            raise InvalidSpec(f"GPUs per run must be a share up to 1, or whole ones, not {gpus:g}")
        self._gpus = gpus
        self._ray, self._ours = _connected(address)
        self._mark = None if out is None else _mark_in(out)
        self._kind = self._ray.remote(Place).options(
            num_cpus=self._threads, num_gpus=gpus, max_restarts=0, max_task_retries=0
        )
        try:
            self.slots = self._places() if workers is None else workers
        except BaseException:
            self.close()
            raise
        self._slots = [_Slot() for _ in range(self.slots)]
        self._events: list[Event] = []

    def start(self, slot: int, job: Job) -> None:
        """See :class:`~circuitbench.runs.launch.base.Launcher`."""
        here = self._slots[slot]
        here.job = job
        if here.ready:
            _hand_over(here)
        elif here.actor is None:
            here.actor = self._kind.remote(self._threads)
            mark = None if self._mark is None else self._mark.name
            here.asked = here.actor.ready.remote(str(Path.cwd()), _own_code(), mark, versions())
            self._events.append(Event(slot, "progress", [WAITING, None]))

    def wait(self, seconds: float) -> list[Event]:
        """See :class:`~circuitbench.runs.launch.base.Launcher`.

        Raises:
            InvalidSpec: a node cannot do the work; says which, and why.
        """
        self._lend()
        events, self._events = self._events, []
        asked = {here.asked: i for i, here in enumerate(self._slots) if here.asked is not None}
        if not asked:
            time.sleep(0 if events else seconds)
            return events
        found, _ = self._ray.wait(list(asked), timeout=0 if events else seconds)
        if found:
            found, _ = self._ray.wait(list(asked), timeout=0, num_returns=len(asked))
        for answer in found:
            events += self._heard(asked[answer], answer)
        return events

    def stop(self, slot: int) -> None:
        """See :class:`~circuitbench.runs.launch.base.Launcher`."""
        here, self._slots[slot] = self._slots[slot], _Slot()
        self._kill(here)

    def close(self) -> None:
        """See :class:`~circuitbench.runs.launch.base.Launcher`."""
        for here in getattr(self, "_slots", []):
            self._kill(here)
        if self._mark is not None:
            with suppress(OSError):
                self._mark.close()
        if self._ours:
            self._ray.shutdown()

    def _heard(self, slot: int, answer: Any) -> list[Event]:
        here = self._slots[slot]
        try:
            said = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            why = shown(" ".join(str(error).split()), 300)
            if getattr(error, "actor_init_failed", False):
                raise InvalidSpec(f"a node cannot start a worker: {why}") from error
            self.stop(slot)
            return [Event(slot, "died", f"its worker on the cluster was lost ({why})")]
        here.asked = None
        if not here.ready:
            if said:
                raise InvalidSpec(said)
            here.ready = True
            _hand_over(here)
            return []
        events = [Event(slot, kind, content) for kind, content in json.loads(said)]
        if any(event.kind in ENDS for event in events):
            here.job = None
        else:
            here.asked = here.actor.more.remote()
        return events

    def _lend(self) -> None:
        """A job that still waits for its actor, when others have nothing to do, gets one of those.

        Otherwise it would wait for ever where a node was lost: idle actors hold its place.
        """
        idle = [here for here in self._slots if here.ready and here.job is None]
        for here in self._slots:
            if idle and here.job is not None and not here.ready:
                other = idle.pop()
                self._kill(here)
                here.actor, here.ready = other.actor, True
                other.actor, other.ready = None, False
                _hand_over(here)

    def _kill(self, here: _Slot) -> None:
        if here.actor is not None:
            with suppress(Exception):  # it is gone already, or the cluster is
                self._ray.kill(here.actor)

    def _places(self) -> int:
        """How many runs the nodes hold at a time."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        total = 0
        for node in nodes:
            places = int(node.get("CPU", 0) // self._threads)
            if self._gpus:
                gpus = int(node.get("GPU", 0))
                each = int(1 / self._gpus + 1e-6) * gpus if self._gpus <= 1 else gpus // self._gpus
                places = min(places, int(each))
            total += places
        if not total:
            needs = f"{self._threads} cores" + (f" and {self._gpus:g} GPUs" if self._gpus else "")
            has = "; ".join(f"{n.get('CPU', 0):g} cores, {n.get('GPU', 0):g} GPUs" for n in nodes)
            raise InvalidSpec(f"a run takes {needs}, and no node of the cluster has that: {has}")
        return total


def _hand_over(here: _Slot) -> None:
    here.asked = here.actor.start.remote(json.dumps(here.job))


def _mark_in(out: Path) -> IO[bytes]:
    """A file for the nodes to look for. It is gone when it is closed; while it is not, locked.

    A driver that is killed leaves it as what :func:`circuitbench.results.remove_leftovers` removes.
    """
    file = tempfile.NamedTemporaryFile(  # noqa: SIM115
        dir=out.absolute(), prefix=".", suffix=".tmp"
    )
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _own_code() -> list[str]:
    """Folders that Python looks for code in, apart from those of the environment."""
    roots = (sys.prefix, sys.base_prefix)
    return [p for p in sys.path if p and not p.startswith(roots)]


def _connected(address: str | None) -> tuple[Any, bool]:
    """Ray, connected to a cluster, and whether that was done here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a benchmark tells nobody that it runs
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")
    with needs_extra("--launcher ray"):
        import ray
    if ray.is_initialized():
        return ray, False
    _check_reachable(address or os.environ.get("RAY_ADDRESS"))
    with _same_signals():
        try:
            ray.init(
                address=address,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except (Exception, SystemExit) as error:
            why = shown(" ".join(str(error).split()), 300)
            raise InvalidSpec(f"no Ray cluster at {address or 'this machine'}: {why}") from error
    return ray, True


def _check_reachable(address: str | None) -> None:
    """Raise :class:`InvalidSpec` unless somebody listens: Ray itself tries for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return
    if not port.isdecimal():
        raise InvalidSpec(f"address must be auto or host:port, not {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=REACHED).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InvalidSpec(f"no Ray cluster at {address}: {why}") from error


@contextmanager
def _same_signals() -> Iterator[None]:
    """Keep what SIGTERM does: Ray sets its own, which exits with another status."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
