"""What a sweep that is going on says of itself, in a hidden file in its folder of records."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from circuitbench.core.errors import CircuitBenchError
from circuitbench.results import write_atomically
from circuitbench.runs.drive import Running

STALE = 60.0  # seconds after which a sweep on another machine is taken for dead
LARGEST = 1_000_000  # bytes of a state that is read


@dataclass(frozen=True)
class State:
    """How far a sweep is.

    Args:
        pid, host: its process.
        began, updated: seconds since 1970.
        total, kept, done, failed: runs: all, with a record from before, ended well and otherwise.
        left: estimated seconds to its end; None is unknown.
        running: of each run that is going on: method, task, model, seed, stage, fraction, seconds.
    """

    pid: int
    host: str
    began: float
    updated: float
    total: int
    kept: int
    done: int
    failed: int
    left: float | None = None
    running: list[dict[str, Any]] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        """Whether it is still going on."""
        if self.host != socket.gethostname():
            return time.time() - self.updated < STALE
        try:
            os.kill(self.pid, 0)
        except PermissionError:
            return True
        except (OSError, OverflowError, ValueError):
            return False
        return True


class StateFile:
    """The file of one sweep; gone when the sweep has ended."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f".sweep-{secrets.token_hex(8)}.json"
        self._began = time.time()

    def write(self, running: Mapping[int, Running], **counts: Any) -> None:
        """Say how far the sweep is (``counts`` as in :class:`State`).

        A folder that takes nothing is put up with.
        """
        going = [
            {
                "method": run.planned.spec.method,
                "task": run.planned.spec.task,
                "model": str(run.planned.identity["model"]),
                "seed": run.planned.spec.seed,
                "stage": run.stage,
                "fraction": run.fraction,
                "seconds": round(time.monotonic() - run.began, 1),
            }
            for run in running.values()
        ]
        state = State(
            pid=os.getpid(),
            host=socket.gethostname(),
            began=self._began,
            updated=time.time(),
            running=going,
            **counts,
        )
        with suppress(CircuitBenchError):
            write_atomically(self.path, json.dumps(asdict(state)) + "\n")

    def remove(self) -> None:
        """The sweep has ended."""
        self.path.unlink(missing_ok=True)


def read_states(folder: Path) -> list[tuple[Path, State]]:
    """The states in a folder, of sweeps that go on and of those that were killed."""
    found = []
    for path in sorted(folder.glob(".sweep-*.json")):
        with suppress(OSError, ValueError, TypeError, RecursionError):
            if path.stat().st_size <= LARGEST:
                found.append((path, State(**json.loads(path.read_text(encoding="utf-8")))))
    return found


def remove_dead(folder: Path) -> None:
    """Remove what sweeps that were killed have left."""
    for path, state in read_states(folder):
        if not state.alive:
            path.unlink(missing_ok=True)
