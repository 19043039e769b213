"""An error as a record keeps it: why, where in the code, and nothing about the machine."""

from __future__ import annotations

import re
import sys
import traceback
from pathlib import Path

from circuitbench.core.errors import CircuitBenchError

_FRAMES = 40
_SOURCE = re.compile(r'(?<=File ")[^"\n]+(?=")')
_FOLDERS = re.compile(r"(?<![\w.:/~])/(?:[^\s'\"<>:/]+/)+")


def one_line(error: BaseException) -> str:
    """Why: the message, after the error's type where it is none of ours."""
    text, kind = without_folders(" ".join(str(error).split())), type(error).__name__
    return text if text and isinstance(error, CircuitBenchError) else f"{kind}: {text}"


def traceback_of(error: BaseException) -> str:
    """Where: the last frames of the traceback, with files named as they are imported."""
    lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-_FRAMES)
    return without_folders(_SOURCE.sub(lambda found: _as_imported(found[0]), "".join(lines)))


def without_folders(text: str) -> str:
    """``text`` with file names in place of absolute paths: those tell of a machine and its user."""
    return _FOLDERS.sub("", text.replace(str(Path.home()), "~"))


def _as_imported(source: str) -> str:
    """``/where/ever/circuitbench/runs/run.py`` as ``circuitbench/runs/run.py``."""
    path, home = Path(source), Path.home()
    roots = [
        Path(entry)
        for entry in sys.path
        if entry and path.is_relative_to(entry) and not home.is_relative_to(entry)
    ]
    nearest = max(roots, key=lambda root: len(root.parts), default=path.parent)
    return path.relative_to(nearest).as_posix()
