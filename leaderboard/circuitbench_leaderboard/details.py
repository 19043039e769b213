"""What the page shows of a single run, in files that it loads when a run is opened.

A page that is opened as a file may not fetch, but it may load a script. So a details file is one
call that hands the page a JSON text. The text is a string literal: a browser reads nothing in it
as code or markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from circuitbench.evaluation.metrics import Metric, of_kind
from circuitbench.evaluation.without_truth import MEASURED_ABLATIONS
from circuitbench.results import Record
from circuitbench.results.content import outcome_of
from circuitbench.results.run_row import RunRow
from circuitbench_leaderboard.board import Board
from circuitbench_leaderboard.entries import Entry
from circuitbench_leaderboard.formats import link

FOLDER = "details"
FUNCTION = ("faithfulness", "cpr", "cmd")  # CPR never without CMD
MOST = 100  # runs in one file: some hundred kilobytes
_NAME = re.compile(r"[\w.-]+-[0-9a-f]{16}\.js", re.ASCII)
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&'"}


class Asked:
    """A file that the page loads when asked: ``text`` is JSON, ``stem`` begins its name."""

    stem: str
    text: str

    @property
    def name(self) -> str:
        """File name. It follows from the content: a page never takes another page's details."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()[:16]
        return f"{re.sub(r'[^A-Za-z0-9._-]', '-', self.stem)[:60]}-{digest}.js"

    @property
    def script(self) -> str:
        """The file's content: hands ``text`` to the page under ``name``."""
        return f"circuitbench('{self.name}','{self.text.replace(chr(92), chr(92) * 2)}');\n"

    @property
    def integrity(self) -> str:
        """Of the file, as browsers check it (Subresource Integrity)."""
        digest = hashlib.sha256(self.script.encode()).digest()
        return f"sha256-{base64.b64encode(digest).decode()}"


@dataclass(frozen=True)
class Chunk(Asked):
    """The details of some runs of one entry, as JSON text."""

    entry: Entry
    run_ids: tuple[str, ...]
    text: str

    @property
    def stem(self) -> str:  # type: ignore[override]
        """The method's name."""
        return self.entry.method


def safe_json(content: Any) -> str:
    """JSON in ASCII, sorted, that cannot end a script element or a single-quoted string."""
    text = json.dumps(content, separators=(",", ":"), sort_keys=True, allow_nan=False)
    return text.translate(_ESCAPES)


def chunks(board: Board, base: Path) -> Iterator[Chunk]:
    """The details of all runs, in the order of the board; links are relative to ``base``."""
    for entry in board.everyone:
        for start in range(0, len(entry.runs), MOST):
            runs = entry.runs[start : start + MOST]
            text = safe_json(_together(runs, board, base))
            yield Chunk(entry, tuple(run.run_id for run in runs), text)


def remove_others(folder: Path, kept: Collection[str]) -> None:
    """Remove details files that an earlier page left in ``folder``; ``kept`` are file names."""
    for path in folder.glob("*.js"):
        if _NAME.fullmatch(path.name) and path.name not in kept:
            path.unlink()


def _together(runs: Sequence[RunRow], board: Board, base: Path) -> dict[str, Any]:
    """Runs by id. What many of them share stands once in ``shared``; they hold its place there."""
    shared: dict[str, int] = {}
    shown: dict[str, dict[str, Any]] = {}

    def place(content: Any) -> int:
        return shared.setdefault(safe_json(content), len(shared))

    for run in runs:
        record = run.record
        shown[run.run_id] = {
            **_own(run, record, board.by),
            "file": link(run, base),
            "truth": place(record.truth),
            "spec": place({**record.spec, "seed": None}),
            "versions": place(record.versions),
            "hardware": place(record.hardware),
        }
    return {"shared": [json.loads(text) for text in shared], "runs": shown}


def _own(run: RunRow, record: Record, by: Metric) -> dict[str, Any]:
    scores = record.discovery.get("scores") if run.status == "done" else None
    return {
        "ending": run.ending,
        "reason": run.reason,
        "scores": None if scores is None else _rounded(scores),
        "selected": record.discovery.get("selected") or [],
        "curve": [[queries, round(value, 4)] for queries, value in run.curves.get(by.key, ())],
        "chance": _chance(run, record, by),
        "values": {m.key: run.values.get(m.key) for m in of_kind("quality")},
        "function": {
            ablation: [run.values.get(f"{name}_{ablation}") for name in FUNCTION]
            for ablation in MEASURED_ABLATIONS
        },
        "costs": record.costs,
        "command": record.command,
        "created": run.created,
    }


def _chance(run: RunRow, record: Record, by: Metric) -> float | None:
    """What a random answer would get where the run's curve is drawn."""
    return by.chance(outcome_of(record)) if by.chance and by.key in run.curves else None


def _rounded(scores: Any) -> list[list[float]]:
    """Four significant digits: enough to see and to sort by, a third of the size."""
    return [[float(f"{value:.4g}") for value in layer] for layer in np.asarray(scores)]
