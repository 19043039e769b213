"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from circuitbench.core.errors import InvalidSpec


def check_folder(folder: Path | str) -> Path:
    """Make ``folder`` and prove it takes a file, before a long run; raises :class:`InvalidSpec`."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 4096)
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
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _unwritable(folder: Path, error: OSError) -> InvalidSpec:
    return InvalidSpec(
        f"cannot write to {folder}: {error.strerror or error}; expected a writable folder"
    )
