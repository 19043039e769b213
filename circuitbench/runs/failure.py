"""An error as a record keeps it: why, where in the code, and nothing about the machine."""

from __future__ import annotations

import re
import sys
import traceback
from pathlib import Path
from typing import Any

from circuitbench.core.errors import CircuitBenchError

_FRAMES = 40
MESSAGE = 1_000  # characters of a reason
TRACEBACK = 20_000
_SOURCE = re.compile(r'(?<=File ")[^"\n]+(?=")')
_FOLDERS = re.compile(r"(?<![\w.:/~])/(?:[^\s'\"<>:/]+/)+")


def one_line(error: BaseException) -> str:
    """Why: the message, after the error's type where it is none of ours; at most 1,000 characters.

    A message that cannot be read is said to be so.
    """
    kind = type(error).__name__
    try:
        text = str(error)
    except BaseException:  # a third party's code
        text = "(its message cannot be read)"
    text = shown(without_folders(" ".join(text[: 4 * MESSAGE].split())), MESSAGE)
    return text if text and isinstance(error, CircuitBenchError) else f"{kind}: {text}"


def traceback_of(error: BaseException) -> str:
    """Where: the last frames of the traceback, with files named as they are imported.

    At most 20,000 characters. An error that was told from elsewhere brings its own.
    """
    told = getattr(error, "told_traceback", None)
    if told is not None:
        return str(told)
    lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-_FRAMES)
    text = "".join(line[:TRACEBACK] for line in lines)[: 2 * TRACEBACK]
    text = without_folders(_SOURCE.sub(lambda found: _as_imported(found[0]), text))
    return shown(text, TRACEBACK, keep="\n")


def told(error: CircuitBenchError, traceback: str) -> CircuitBenchError:
    """``error``, with the traceback that it had in another process."""
    error.told_traceback = without_folders(shown(traceback, TRACEBACK, keep="\n"))  # type: ignore[attr-defined]
    return error


def shown(text: str, most: int, keep: str = "") -> str:
    """``text`` as a terminal and a record can take it: so long at most, no control characters."""
    clean = "".join(c if c.isprintable() or c in keep else " " for c in text[:most])
    return clean if len(text) <= most else f"{clean} ... (cut)"


def without_folders(text: str) -> str:
    """``text`` with file names in place of absolute paths: those tell of a machine and its user."""
    return _FOLDERS.sub("", text.replace(str(Path.home()), "~"))


def without_folders_in(value: Any) -> Any:
    """JSON data with :func:`without_folders` in all its texts."""
    if isinstance(value, str):
        return without_folders(value)
    if isinstance(value, dict):
        return {key: without_folders_in(item) for key, item in value.items()}
    return [without_folders_in(item) for item in value] if isinstance(value, list) else value


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
