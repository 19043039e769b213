"""Memory of this process between runs: given back, and its peak measured anew."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
_LINUX = Path("/proc/self")


def start_afresh() -> None:
    """Give unused memory back to the system and forget the peak so far.

    An engine's cache may hold a gigabyte. Once it is gone, glibc keeps the freed pages, and a sweep
    over models of many shapes would grow without end.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc only
    with suppress(OSError):
        (_LINUX / "clear_refs").write_text("5")  # resets VmHWM, see proc_pid_clear_refs(5)
    if _uses_gpu():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """Peak memory since :func:`start_afresh`: resident, or of the GPU's allocator if one is used.

    Where the system can't forget a peak (other than Linux) it is the peak of the whole process.
    """
    if _uses_gpu():
        return int(torch.cuda.max_memory_allocated())
    with suppress(OSError, StopIteration):
        lines = (_LINUX / "status").read_text().splitlines()
        return 1024 * int(next(x for x in lines if x.startswith("VmHWM")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT


def _uses_gpu() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()
