"""The folder that the circuit track of MIB takes, laid out and checked.

Sources: Mueller et al. 2025 (arXiv 2504.13151); the track's README; its loaders and the runner
of submissions (mttk/MIB-circuit-track-autoeval: ``evaluation.py``, ``eval_submissions.py``).

One folder per task and model, ``{task}_{model}``. Each holds either one file of importance
scores or nine circuits, the i-th with at most :data:`PERCENT` of the edges. The README lists ten
sizes (0 % among them) and asks for nine files; the loader stops at nine *in the order the system
lists them*, so a tenth may push out any other. There must be at least two tasks and two models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from circuitbench.core.errors import InvalidCircuitFile, InvalidSpec
from circuitbench.files.circuit_file import CircuitFile, Config
from circuitbench.files.formats import named, read, write

PERCENT = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)

MODELS: Mapping[str, Config] = {
    "gpt2": Config(12, 12),
    "qwen2.5": Config(24, 14),
    "gemma2": Config(26, 8),
    "llama3": Config(32, 32),
}
# Folder -> task and model; the problems that the track has.
FOLDERS: Mapping[str, tuple[str, str]] = {
    f"{task}_{model}": (task, model)
    for task, models in {
        "ioi": ("gpt2", "qwen2.5", "gemma2", "llama3"),
        "mcqa": ("qwen2.5", "gemma2", "llama3"),
        "arithmetic-addition": ("llama3",),
        "arithmetic-subtraction": ("llama3",),
        "arc-easy": ("gemma2", "llama3"),
        "arc-challenge": ("llama3",),
    }.items()
    for model in models
}
SUFFIXES = (".json", ".pt")


def folder_of(task: str, model: str) -> str | None:
    """The folder of one of our tasks on a model: ``gpt2-ioi`` on ``gpt2`` is ``ioi_gpt2``.

    None where the track has no such problem.
    """
    base = model.partition("@")[0]
    name = f"{task.removeprefix(f'{base}-').replace('_', '-')}_{base}"
    return name if name in FOLDERS else None


def lay_out(
    circuits: Mapping[str, CircuitFile],
    out: Path,
    format_: str = "eap-ig-json",
    binary: bool = False,
) -> list[Path]:
    """Write one folder per circuit (by folder name) into ``out``; returns the files.

    Args:
        circuits: by folder, one of :data:`FOLDERS`.
        out: must be absent or empty: what it held would be submitted too.
        format_: ``eap-ig-json`` or ``eap-ig-pt``.
        binary: nine circuits, each the best edges by rank, instead of importance scores.

    Raises:
        InvalidSpec: ``out`` is not empty, or another format.
        InvalidCircuitFile: ``binary`` of a circuit whose edges are not ranked.
    """
    if format_ not in ("eap-ig-json", "eap-ig-pt"):
        raise InvalidSpec(f"the track reads eap-ig-json and eap-ig-pt, not {format_}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidSpec(f"{out} is not an empty folder; a submission is everything in it")
    suffix, paths = named(format_).suffix, []
    for folder, circuit in circuits.items():
        files = {"importances": circuit}
        if binary:
            files = {f"{percent}-percent": _best(circuit, percent) for percent in PERCENT}
        for name, part in files.items():
            paths.append(out / folder / f"{name}{suffix}")
            write(part, paths[-1], format_)
    return paths


def _best(circuit: CircuitFile, percent: float) -> CircuitFile:
    rank = circuit.edge_rank
    if rank is None:
        raise InvalidCircuitFile("circuits of given sizes need scores of edges")
    inside = np.zeros(rank.size, dtype=bool)
    inside[np.argsort(-rank, kind="stable")[: _most(rank.size, percent)]] = True
    return CircuitFile(circuit.config, edges_in=inside)


def _most(n_edges: int, percent: float) -> int:
    return int(percent / 100 * n_edges)


def check(folder: Path) -> list[str]:
    """What the track would refuse or misread in a submission, one line each; empty if all is well.

    Raises :class:`InvalidSpec` where there is no such folder.
    """
    if not folder.is_dir():
        raise InvalidSpec(f"no such folder: {folder}")
    wrong: list[str] = []
    problems: list[tuple[str, str]] = []
    levels: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            wrong.append(f"{path.name}: lies beside the folders of tasks; only those are read")
        elif path.name not in FOLDERS:
            wrong.append(
                f"{path.name}: not a task and model of the track; valid: {', '.join(FOLDERS)}"
            )
        else:
            problems.append(FOLDERS[path.name])
            found, level = _check_problem(path, MODELS[FOLDERS[path.name][1]])
            wrong += [f"{path.name}{line}" for line in found]
            if level:
                levels[path.name] = level
    for which, names in (
        ("tasks", sorted({task for task, _ in problems})),
        ("models", sorted({model for _, model in problems})),
    ):
        if len(names) < 2:
            wrong.append(
                f"at least two {which} are needed, and there is {' and '.join(names) or 'none'}"
            )
    if len(set(levels.values())) > 1:
        mixed = ", ".join(f"{name} of {level}s" for name, level in levels.items())
        wrong.append(f"a submission scores edges or nodes, not both: {mixed}")
    return wrong


def _check_problem(folder: Path, model: Config) -> tuple[list[str], str]:
    """What is wrong with one folder, each line from after its name on; and its level."""
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    wrong = [f"/{p.name}: neither .json nor .pt" for p in inside if p.suffix not in SUFFIXES]
    paths = [path for path in inside if path.suffix in SUFFIXES]
    if len(paths) not in (1, len(PERCENT)):
        wrong.append(
            f": {len(paths)} circuit files; expected one with importance scores, or "
            f"{len(PERCENT)} circuits"
        )
    circuits: dict[str, CircuitFile] = {}
    for path in paths:
        try:
            circuit = read(path)
        except InvalidCircuitFile as error:
            wrong.append(f"/{str(error).removeprefix(f'{folder}/')}")
            continue
        if replace(circuit.config, d_model=None) != model:
            wrong.append(f"/{path.name}: a model of {circuit.config}; expected {model}")
        else:
            circuits[path.name] = circuit
    if wrong:
        return wrong, ""
    if len(paths) == 1:
        (name, circuit), *_ = circuits.items()
        level = _scored(circuit)
        return ([] if level else [f"/{name}: holds no importance scores"]), level
    return _check_sizes(circuits, model.n_edges), "edge"


def _scored(circuit: CircuitFile) -> str:
    """``edge`` or ``node``: what a file's scores tell apart; empty if nothing."""
    for level, scores in (("edge", circuit.edge_scores), ("node", circuit.node_scores)):
        if scores is not None and len(np.unique(scores[~np.isnan(scores)])) > 1:
            return level
    return ""


def _check_sizes(circuits: Mapping[str, CircuitFile], n_edges: int) -> list[str]:
    sizes = sorted((int(c.shown_edges.sum()), name) for name, c in circuits.items())
    return [
        f"/{name}: {size:,} edges; the circuit of at most {percent} % may have "
        f"{_most(n_edges, percent):,}"
        for (size, name), percent in zip(sizes, PERCENT, strict=True)
        if size > _most(n_edges, percent)
    ]
