"""A folder that belongs to one experiment with its settings, and the files in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from circuitbench import InvalidSpec
from circuitbench.results import write_atomically


def identity_of(stated: object) -> str:
    """A hash of JSON-able settings."""
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:12]


def claim(out: Path, identity: str, stated: Mapping[str, Any]) -> None:
    """Make ``out`` the folder of these settings (``settings.json`` says so).

    Raises :class:`InvalidSpec` if it is another's, or cannot be written or read.
    """
    path = out / "settings.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            write_json(path, {"identity": identity, **stated})
            return
        found = json.loads(path.read_text(encoding="utf-8"))
        same = isinstance(found, dict) and found.get("identity") == identity
    except (OSError, ValueError) as error:
        raise InvalidSpec(f"cannot use {out}: {error}") from error
    if not same:
        raise InvalidSpec(f"{out} holds a run of other settings; choose another folder")


def write_json(path: Path, content: object) -> None:
    """Write atomically; NaN is an error."""
    write_atomically(path, json.dumps(content, allow_nan=False, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """What :func:`write_json` wrote; raises :class:`InvalidSpec` if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidSpec(f"cannot read {path}: {error}; remove it to run it again") from error
