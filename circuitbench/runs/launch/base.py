"""What a launcher is: it has slots, gives each a job, and says what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

# JSON-able: ``do`` is "resolve" or "run"; see :mod:`circuitbench.runs.launch.worker`.
Job = Mapping[str, Any]

WAITING = "waiting for a place"  # the stage of a job that no worker has yet


@dataclass(frozen=True)
class Event:
    """What a slot says.

    ``progress`` carries ``[stage, fraction]`` (:data:`WAITING` until a worker has the job),
    ``done`` the result of its job, ``failed`` what the job raised
    (:func:`circuitbench.runs.isolation.errors.described`), ``died`` why the worker is gone, in
    words. After the last three the slot is free.
    """

    slot: int
    kind: Literal["progress", "done", "failed", "died"]
    content: Any


class Launcher(Protocol):
    """Runs jobs side by side. A worker that died is replaced when its slot gets the next job."""

    slots: int

    def start(self, slot: int, job: Job) -> None:
        """Give a free slot something to do."""
        ...

    def wait(self, seconds: float) -> list[Event]:
        """What has happened, waiting so long at most for something to."""
        ...

    def stop(self, slot: int) -> None:
        """End what a slot is doing, and its worker."""
        ...

    def close(self) -> None:
        """End everything."""
        ...
