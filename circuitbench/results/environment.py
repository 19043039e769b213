"""Where a run ran: versions that can change a number, and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

_PACKAGES = ("circuitbench", "numpy", "torch", "transformer_lens")


def versions(extra: tuple[str, ...] = ()) -> dict[str, str | None]:
    """Versions of Python, of circuitbench and what it stands on; nothing is imported for it.

    ``extra`` names further distributions a method's numbers depend on (a plug-in's own, say). A
    package that is not installed is None. ``commit`` is the git commit of circuitbench's source,
    followed by ``-dirty`` where the tree was changed, or None outside a checkout. All of it is
    looked up once per process: that is when the code was loaded.
    """
    packages = {name: version_of(name) for name in (*_PACKAGES, *extra)}
    return {"python": platform.python_version(), **packages, "commit": _commit()}


def hardware(device: str = "cpu") -> dict[str, str | int | None]:
    """The machine: CPU, cores, memory (bytes), threads, and the GPU where ``device`` is one."""
    import torch  # a folder of records is read without it

    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.machine()}",
    }


@cache
def version_of(package: str) -> str | None:
    """The installed version of a distribution; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache
def _commit() -> str | None:
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here.parent), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # An installed copy may lie inside someone else's repository: is this file tracked there?
    if git("ls-files", "--error-unmatch", here.name) is None:
        return None
    commit, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "-uno")
    return f"{commit}-dirty" if commit and changed else commit
