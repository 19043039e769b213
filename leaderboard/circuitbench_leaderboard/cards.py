"""Cards of methods, tasks and models, and every metric by method and task.

What a card says of a method stands in the page itself; what tasks and models need (circuits,
health, provenance) and the means of all metrics lie in a file that the page loads when a card is
opened or metrics are compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from circuitbench.core.errors import InvalidSpec
from circuitbench.evaluation.metrics import Metric, metrics
from circuitbench.results.run_row import RunRow
from circuitbench.results.store import file_of
from circuitbench_leaderboard.board import Board
from circuitbench_leaderboard.details import Asked, safe_json
from circuitbench_leaderboard.entries import Entry, TaskOnModel
from circuitbench_leaderboard.groups import part, tier_of, track_of
from circuitbench_leaderboard.sources import ablation_of, source_of
from circuitbench_leaderboard.standing import on_grid, value_of
from circuitbench_leaderboard.submission.manifest import standing_of

FOLDER = "cards"
WEAKEST = 4  # roles that a method's card lists
DIGITS = 5  # significant ones, of means

Health = Mapping[tuple[str, str], Mapping[str, Any]]


@dataclass(frozen=True)
class Cards(Asked):
    """What cards of tasks and models show, and the means of all metrics, as JSON text."""

    text: str
    stem: str = "cards"


def read_health(folder: Path | str, warn: Callable[[str], None] = lambda line: None) -> Health:
    """Health cards by task and model, from files that ``validate-task --json`` printed into.

    ``warn`` gets one line per file that is none; raises :class:`InvalidSpec` without the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InvalidSpec(f"no folder of health cards at {folder}")
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            card = json.loads(path.read_text(encoding="utf-8"))
            checks = [
                [str(c["name"]), float(c["value"]), f"{c['relation']} {c['limit']:g}", c["passed"]]
                for c in card["checks"]
            ]
            found[str(card["task"]), str(card["model"])] = {
                "passed": bool(card["passed"]),
                "ablation": str(card["ablation"]),
                "checks": checks,
            }
        except (OSError, ValueError, LookupError, TypeError) as error:
            warn(f"{path} is no health card ({type(error).__name__}: {error})")
    return found


def about(told: Mapping[str, Any]) -> dict[str, str]:
    """What a plug-in says of itself, as text; a link only where it leads to the web."""
    words = {key: str(told.get(key) or "") for key in ("title", "family", "paper", "link")}
    try:
        safe = urlsplit(words["link"]).scheme in ("http", "https")
    except ValueError:
        safe = False
    return {key: text for key, text in words.items() if text and (safe or key != "link")}


def method_card(entry: Entry, tasks: Sequence[TaskOnModel], board: Board) -> dict[str, Any]:
    """A method: what it is and needs, its settings, and the roles that it misses most."""
    info: Mapping[str, Any] = next((i for r in entry.runs if (i := part(r.info, "method"))), {})
    needs, first = info.get("needs"), entry.runs[0]
    card: dict[str, Any] = {
        **about(info),
        "label": entry.label,
        "family": entry.family,
        "unit": str(info.get("granularity") or ""),
        "needs": [str(need) for need in needs] if isinstance(needs, list) else [],
        "track": track_of(first),
        "settings": _texts(first.spec.get("hyperparameters")),
        "weakest": _weakest(entry, tasks),
        **_apart(entry, board),
        "checked": _checked(entry),
    }
    return {key: value for key, value in card.items() if value}


def _apart(entry: Entry, board: Board) -> dict[str, str]:
    """Why an entry is not ranked: ``tag`` in two words, ``source`` in a sentence."""
    first = entry.runs[0]
    if entry in board.elsewhere:
        made = f"Made with {source_of(first)}, the board is of {board.source}: not ranked with it"
        return {"tag": "other version", "source": made}
    if entry in board.beside:
        kind = ablation_of(first)
        made = f"Under {kind} ablation, the board is under {board.ablation}: not ranked with it"
        return {"tag": f"{kind} ablation", "source": made}
    return {}


def task_card(run: RunRow) -> dict[str, Any]:
    """A task on a model, in short: what it calls itself, its tier, what the model calls itself."""
    return {
        **about(part(run.info, "task")),
        "tier": tier_of(run),
        "model": about(part(run.info, "model")),
    }


def shown_runs(board: Board) -> dict[TaskOnModel, RunRow]:
    """The run whose circuit, model and health the card of a task shows: the first finished one."""
    return {TaskOnModel.of(run): run for run in reversed(board.runs) if run.status == "done"}


def cards_of(board: Board, tasks: Sequence[TaskOnModel], health: Health) -> Cards:
    """The file of everything else: circuits, models, health, and the means of all metrics.

    ``means`` holds, per entry and task that it has finished on the grid of that task, one number
    or null per metric of ``measures``.
    """
    runs = shown_runs(board)
    found: list[list[Any]] = []
    for i, entry in enumerate(board.everyone):
        for j, task in enumerate(tasks):
            if task not in board.by_task:
                continue
            grid = board.by_task[task].grid
            arrays = (on_grid(entry, value_of(m), grid) for m in metrics().values())
            means = [None if a is None or not a.size else _short(float(a.mean())) for a in arrays]
            if any(mean is not None for mean in means):
                found.append([i, j, means])
    used = [any(means[k] is not None for *_, means in found) for k in range(len(metrics()))]
    content = {
        "circuits": [_circuit(runs[task], health) if task in runs else {} for task in tasks],
        "measures": [_measure(m) for m, it in zip(metrics().values(), used, strict=True) if it],
        "means": [
            [i, j, [mean for mean, it in zip(means, used, strict=True) if it]]
            for i, j, means in found
        ],
    }
    return Cards(safe_json(content))


def _circuit(run: RunRow, health: Health) -> dict[str, Any]:
    record = run.record
    model = record.model
    return {
        "truth": record.truth,
        "shape": [model.get("n_layers"), model.get("n_heads")],
        "planting": f"{run.model_name}, seed {run.seed}",
        "provenance": _texts(model.get("provenance")),
        "accuracy": model.get("accuracy"),
        "metric": model.get("clean_metric"),
        "health": health.get((run.task, run.model_name)),
    }


def _measure(metric: Metric) -> list[Any]:
    return [metric.key, metric.title, metric.unit, metric.better, metric.digits, metric.about]


def _checked(entry: Entry) -> str:
    """``verified`` or ``claimed`` where all or some runs come from submissions; else nothing."""
    folders = {file_of(run.path).parent for run in entry.runs if run.path is not None}
    found = {standing_of(folder) for folder in folders} - {None}
    return ("claimed" if "claimed" in found else "verified") if found else ""


def _weakest(entry: Entry, tasks: Sequence[TaskOnModel]) -> list[list[Any]]:
    """The roles found worst: ``[task, role, mean recall over seeds]``."""
    recalls = []
    for task, runs in entry.finished.items():
        for role in sorted({role for run in runs.values() for role in run.roles}):
            values = [run.roles[role] for run in runs.values() if role in run.roles]
            mean = round(sum(values) / len(values), 3)
            if mean < 1:
                recalls.append([tasks.index(task), role, mean])
    return sorted(recalls, key=lambda found: (found[2], found[0], found[1]))[:WEAKEST]


def _texts(values: Any, prefix: str = "") -> dict[str, str]:
    """Nested settings under dotted names, as text."""
    flat: dict[str, str] = {}
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            flat |= _texts(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _short(value: float) -> float:
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short == int(short) else short
