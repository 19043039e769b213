"""The behaviours that ship with us as files: which there are, and what a list shows of them.

Imports nothing of the tasks, so that listing them stays cheap.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml

from circuitbench.core.info import Info

_FOLDER = Path(__file__).parents[1] / "tasks" / "text" / "files"


@cache
def behaviours() -> dict[str, Path]:
    """Their files by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


@cache
def info_of_file(path: Path) -> Info:
    """Title, family, paper and link of one.

    Its file begins with them, up to the first empty line; what follows is not read.
    """
    top = yaml.safe_load(path.read_text(encoding="utf-8").partition("\n\n")[0])
    return Info(
        title=top["title"],
        family=top.get("family", "Behaviour"),
        paper=str(top.get("paper", "")),
        link=top.get("link", ""),
        version=str(top.get("version", "1")),
    )
