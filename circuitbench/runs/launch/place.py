"""One worker on this machine, at the disposal of a launcher on another one.

What comes and goes is JSON text: a job, and what became of it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from circuitbench.results import versions
from circuitbench.runs.launch.local import Local

TOLD = 2.0  # seconds between two reports of a run that goes on
ENDS = ("done", "failed", "died")


class Place:
    """A worker that outlives whatever its runs do: they are in processes of their own.

    Args:
        threads: that the worker computes with.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._local: Local | None = None

    def ready(
        self, cwd: str, path: Sequence[str], mark: str | None, expected: Mapping[str, Any]
    ) -> str:
        """Get ready; what is wrong with this machine, in words, or nothing.

        Args:
            cwd: the folder to work in.
            path: folders of code outside of the environment.
            mark: a file in the folder of records, which all machines share.
            expected: versions that the records are to state.
        """
        host = socket.gethostname()
        try:
            os.chdir(cwd)
        except OSError:
            return f"{host} has no folder {cwd}; start the sweep in one that all nodes share"
        if mark is not None and not Path(mark).exists():
            where = Path(mark).parent
            return f"{host} does not see the records in {where}; --out must be on a shared disk"
        for name, version in versions().items():
            if version != expected.get(name):
                ours = expected.get(name)
                return f"{host} has {name} {version}, this machine {ours}; records need one version"
        sys.path += [folder for folder in path if folder not in sys.path]
        self._local = Local(1, self._threads)
        return ""

    def start(self, job: str) -> str:
        """Begin a job; returns as :meth:`more` does."""
        assert self._local is not None
        self._local.start(0, json.loads(job))
        return self.more()

    def more(self) -> str:
        """What has happened: ``[[kind, content], ...]``, at once when the job ends.

        See :class:`~circuitbench.runs.launch.base.Event`. Of its progress only the last is told.
        """
        assert self._local is not None
        until, last = time.monotonic() + TOLD, []
        while (left := until - time.monotonic()) > 0:
            for event in self._local.wait(left):
                last = [[event.kind, event.content]]
                if event.kind in ENDS:
                    return json.dumps(last)
        return json.dumps(last)

    def close(self) -> None:
        """End the worker."""
        if self._local is not None:
            self._local.close()
