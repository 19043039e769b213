"""What tests of the page share: hostile texts, and what its files hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from circuitbench_leaderboard import page as pages_module
from circuitbench_leaderboard.board import board
from circuitbench_leaderboard.tables import tables

EVIL = "</script><script>window.evil=1</script><img src=x onerror=window.evil=1>"
QUOTES = "');window.evil=1;('\\');window.evil=1//\u2028<!--\u2029&amp;${window.evil=1}`\n\0"
PAPER = {"paper": "Author et al. 2020", "link": "https://example.org/paper?a=1&b=2"}
TOLD = {"title": "ACDC over heads", "family": "Mask search", "granularity": "heads", **PAPER}
CALL = re.compile(r"circuitbench\('([\w.-]+\.js)','((?:[^'\\<>&\n]|\\\\)*)'\);\n")
LIMIT = 1_000_000  # bytes of the shell


def content_of(script: str) -> Any:
    """What a details file hands to the page, read as a browser reads the two literals."""
    call = CALL.fullmatch(script)
    assert call is not None
    return json.loads(call[2].replace("\\\\", "\\"))


def data_of(shell: str) -> Any:
    found = re.search(r'id="data">(.*?)</script>', shell, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def runs_of(script: str) -> dict[str, Any]:
    """The runs of a details file, with what they share filled in."""
    content = content_of(script)
    for run in content["runs"].values():
        for part in ("truth", "spec", "versions", "hardware"):
            run[part] = content["shared"][run[part]]
    runs: dict[str, Any] = content["runs"]
    return runs


def files_of(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".png")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def large_site(large: Any, folder: Path) -> Path:
    shown = board(large, intervals=True)
    for name, text in pages_module.pages(shown, tables(shown), [], folder).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder / "index.html"
