"""A process that makes processes: it has imported what they all need, and knows nothing else.

A fresh interpreter takes seconds to import torch; a fork of one that has, milliseconds. The nursery
never loads a plug-in, a model or a task, so what it forks has no truth in it and no trace of
another run. It ends when its owner does, and everything it made ends with it.

On its socket: ``{"fork": {...}}`` with two descriptors (a connection, and where output goes) is
answered by a process id; ``{"end": pid}`` kills that process, all its children, and is answered by
how it ended.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from circuitbench.core.errors import RunFailed
from circuitbench.plugins.registry import KINDS, list_plugins

_MESSAGE = 1 << 18
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

# Heavy libraries that methods of many kinds import; brought in once where many runs follow.
LIBRARIES = (
    *("scipy.optimize", "scipy.stats", "sklearn.linear_model", "cma", "gymnasium"),
    *("stable_baselines3", "sb3_contrib", "torch._dynamo"),  # the last comes with any optimizer
)


class NurseryLost(RunFailed):
    """The process that makes processes is gone: killed from outside, or by a method."""


class Nursery:
    """Our end of a nursery.

    Args:
        end: the socket to it.
        process: the interpreter, where one was started for it.
    """

    def __init__(self, end: socket.socket, process: subprocess.Popen[bytes] | None = None) -> None:
        self._end, self._process, self._lock = end, process, threading.Lock()
        self.owner = os.getpid()

    @classmethod
    def start(cls, libraries: bool = False, threads: int | None = None) -> Nursery:
        """A nursery in a fresh interpreter; it gets ready while we go on.

        Args:
            libraries: whether to import :data:`LIBRARIES` too.
            threads: that numeric libraries may use in what it makes; None is their own choice.
        """
        budget = {} if threads is None else dict.fromkeys(_THREADS, str(threads))
        ours, theirs = socket.socketpair()
        code = "from circuitbench.runs.isolation.nursery import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, str(theirs.fileno()), str(int(libraries))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={
                **os.environ,
                **budget,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            start_new_session=True,
        )
        theirs.close()
        return cls(ours, process)

    @classmethod
    def forked(cls) -> Nursery:
        """A nursery made of this process as it is; only for one that was itself just forked."""
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            os.setsid()
            _close_all_but(theirs.fileno())
            _serve(theirs)
            os._exit(0)
        theirs.close()
        return cls(ours)

    @property
    def pid(self) -> int:
        """Its process, where it is an interpreter of its own; else 0."""
        return 0 if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can still be asked, by this process."""
        running = self._process is None or self._process.poll() is None
        return self.owner == os.getpid() and running and self._end.fileno() >= 0

    def fork(self, request: Mapping[str, Any], end: socket.socket, output: int) -> int:
        """A new process; returns its id.

        Args:
            request: ``run`` names what it does (``guest`` or ``worker``); for the rest see there.
            end: of a connection; the process speaks on it.
            output: descriptor that its standard output and error go to.
        """
        return int(self._ask({"fork": dict(request)}, [end.fileno(), output])["pid"])

    def end(self, pid: int) -> int:
        """Kill a process and its children; how it ended, negative for a signal."""
        return int(self._ask({"end": pid}, [])["status"])

    def close(self) -> None:
        """End it and all that it made."""
        self._end.close()
        if self._process is not None and self.owner == os.getpid():
            self._process.wait()
            self._process = None

    def _ask(self, request: Mapping[str, Any], descriptors: list[int]) -> dict[str, Any]:
        with self._lock:
            try:
                socket.send_fds(self._end, [json.dumps(request).encode() + b"\n"], descriptors)
                answer = self._end.recv(_MESSAGE)
            except OSError:
                answer = b""
        if not answer:
            self._end.close()
            raise NurseryLost("the process that makes processes for methods was killed")
        return dict(json.loads(answer))


def ending(status: int) -> str:
    """How a process ended, in words: ``was ended by SIGKILL``."""
    if status >= 0:
        return f"exited with status {status}"
    return f"was ended by {signal.Signals(-status).name}"


def main() -> None:
    """``python -c ... SOCKET LIBRARIES``: the nursery's own process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    importlib.import_module("circuitbench.runs.isolation.guest")
    importlib.import_module("circuitbench.runs.launch.worker")
    for name in LIBRARIES if sys.argv[2] == "1" else ():
        with suppress(Exception):  # an extra that is not installed, or broken
            importlib.import_module(name)
    for kind in KINDS:
        list_plugins(kind)  # reads what is installed, once for all; imports none of it
    gc.collect()
    gc.freeze()  # no collector touches, and so copies, what forks share
    _serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that made it ends (Linux)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _serve(end: socket.socket) -> None:
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # a grandchild that runs away is ours to end
    live: set[int] = set()
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(end, _MESSAGE, 2)
        except OSError:
            data = b""
        if not data:  # the owner is gone
            for pid in [*live, *_children()]:
                _kill(pid)
            return
        while not data.endswith(b"\n"):
            data += end.recv(_MESSAGE)
        request = json.loads(data)
        if "fork" in request:
            pid = os.fork()
            if pid == 0:
                _born(end, descriptors, request["fork"])
            for descriptor in descriptors:
                os.close(descriptor)
            live.add(pid)
            answer = {"pid": pid}
        else:
            pid = request["end"]
            answer = {"status": _ended(pid) if pid in live else 0}
            live.discard(pid)
            while not live and (left := _children()):  # children that left the group
                for child in left:
                    _kill(child)
                    with suppress(ChildProcessError):
                        os.waitpid(child, 0)
        end.sendall(json.dumps(answer).encode())


def _ended(pid: int) -> int:
    """How a process ended, by itself within a moment or by our signal; its group goes with it."""
    status = None
    with suppress(ChildProcessError):
        done, status = os.waitpid(pid, os.WNOHANG)
        _kill(pid)
        if not done:
            _, status = os.waitpid(pid, 0)
    return 0 if status is None else os.waitstatus_to_exitcode(status)


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with suppress(OSError):
            kill(pid, signal.SIGKILL)


def _children() -> list[int]:
    with suppress(OSError):
        return [int(p) for p in Path("/proc/thread-self/children").read_text().split()]
    return []


def _born(nursery: socket.socket, descriptors: list[int], request: Mapping[str, Any]) -> None:
    """In the new process; never returns."""
    status = 1
    try:
        os.setsid()
        die_with_parent()
        _prctl(_PR_SET_CHILD_SUBREAPER, 0)
        channel, output = descriptors
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        nursery.detach()
        _close_all_but(channel)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if request.get("memory"):
            limit = int(request["memory"]) + _data_bytes()
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        begin: Callable[[socket.socket, Mapping[str, Any]], None]
        begin = importlib.import_module(_RUNS[request["run"]]).begin
        begin(socket.socket(fileno=channel), request)
        status = 0
    except BaseException as error:
        with suppress(BaseException):
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


_RUNS = {
    "guest": "circuitbench.runs.isolation.guest",
    "worker": "circuitbench.runs.launch.worker",
}


def _close_all_but(descriptor: int) -> None:
    """What another process hands down by accident would keep it from being seen to end."""
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, 4096)


def _data_bytes() -> int:
    """Private writable memory that this process has mapped already, which the limit counts too."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmData")).split()[1])
    return 0


def _prctl(option: int, value: int) -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


_nursery: Nursery | None = None


def nursery() -> Nursery:
    """This process's nursery, started when it is first needed."""
    global _nursery
    if _nursery is None or not _nursery.alive:
        if _nursery is None:
            atexit.register(_close)
        elif _nursery.owner == os.getpid():
            _nursery.close()
        _nursery = Nursery.start()
    return _nursery


def _close() -> None:
    if _nursery is not None and _nursery.owner == os.getpid():
        _nursery.close()


def adopt(forked: Nursery) -> None:
    """Make a nursery this process's own."""
    global _nursery
    _nursery = forked
