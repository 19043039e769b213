"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

from circuitbench.core.errors import InvalidSpec

ATTEMPTS = 20
"""How often a write is tried whose file was taken away before it was locked."""


def check_folder(folder: Path | str) -> Path:
    """Make ``folder`` and prove it takes a file, before a long run; raises :class:`InvalidSpec`."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 1024)
            probe.flush()
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content`` in one step.

    Raises :class:`InvalidSpec` naming the folder if it cannot; then nothing is left behind and
    whatever stood there before is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for more in reversed(range(ATTEMPTS)):
            try:
                _write(path, data)
                break
            except FileNotFoundError:  # taken for a leftover in the moment before it was locked
                if not more:
                    raise
    except OSError as error:
        raise _unwritable(path.parent, error) from error


def remove_leftovers(folder: Path | str) -> int:
    """Remove what writers that were killed left in ``folder``; returns how many files.

    A file that is being written is locked, and stays.
    """
    removed = 0
    for path in Path(folder).glob(".*.tmp"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            removed += 1
    return removed


def _write(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _unwritable(folder: Path, error: OSError) -> InvalidSpec:
    return InvalidSpec(
        f"cannot write to {folder}: {error.strerror or error}; expected a writable folder"
    )
