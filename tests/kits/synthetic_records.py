"""Records of invented runs: invented scores and costs that hold together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from circuitbench.core.circuit import Circuit, Head, Role
from circuitbench.results import Record, write_record
from circuitbench.results.record import truth_of
from circuitbench.results.run_row import RunRow

LAYERS, HEADS = 6, 8
TRUTHS = {
    "induction": Circuit(
        {
            "previous_token": Role((Head(0, 3), Head(1, 2))),
            "induction": Role((Head(3, 1), Head(4, 5), Head(5, 0)), needed=1),
        },
        "invented",
        "constructed",
    ),
    "ioi": Circuit(
        {
            "duplicate_token": Role((Head(0, 1),)),
            "s_inhibition": Role((Head(2, 2), Head(2, 6))),
            "name_mover": Role((Head(4, 0), Head(4, 7)), needed=1),
            "negative_mover": Role((Head(5, 3),), sign=-1),
        },
        "invented",
        "constructed",
    ),
}
SKILL = {"random": 0.0, "acdc": 1.0, "head-ablation": 0.6, "rl-ppo": 1.8}
FAMILY = {"random": "random", "acdc": "acdc", "head-ablation": "ablation", "rl-ppo": "ppo"}


def record(
    method: str = "acdc",
    task: str = "ioi",
    seed: int = 0,
    *,
    model: str = "planted",
    skill: float | None = None,
    **changes: Any,
) -> Record:
    """One finished run whose scores carry ``skill`` times the truth plus noise."""
    truth = TRUTHS[task]
    rng = np.random.default_rng([seed, *method.encode(), *task.encode()])
    skill = SKILL.get(method, 1.0) if skill is None else skill
    mask = np.zeros((LAYERS, HEADS))
    for head in truth.heads:
        mask[head] = 1
    noise = rng.normal(size=mask.shape)
    grids = [skill * share * mask + noise * (1.5 - share) for share in (0.2, 0.6, 1.0)]
    top = np.argsort(-grids[-1], axis=None)[: len(truth.heads)]
    selected = {Head(int(i) // HEADS, int(i) % HEADS) for i in top}
    queries = 48 + 10 * len(method)
    values = {
        "spec": {
            "task": task,
            "model": model,
            "method": method,
            "seed": seed,
            "budget": None,
            "hyperparameters": {"rounds": 3},
        },
        "status": "done",
        "info": {"method": {"title": method, "family": FAMILY.get(method, "")}},
        "discovery": {
            "scores": grids[-1],
            "selected": sorted(selected),
            "edges": None,
            "trace": [
                {"queries": q, "scores": g} for q, g in zip((4, 20, queries), grids, strict=True)
            ],
            "info": {},
        },
        "truth": truth_of(truth),
        "costs": {
            "discovery": {
                "queries": queries,
                "forwards": 2 * queries,
                "method_seconds": 0.25 + seed,
                "peak_memory_bytes": 2**28,
            },
            "training": {"queries": 4000 if method == "rl-ppo" else 0},
        },
        "model": {"n_layers": LAYERS, "n_heads": HEADS},
        "versions": {"circuitbench": "0.1.0", "torch": "2.13.0", "commit": "0123456789abcdef"},
        "hardware": {"cpu": "invented", "gpu": None},
        "command": f"circuitbench run --method {method} --task {task} --seed {seed}",
        "created": "2026-01-01T00:00:00+00:00",
    }
    return Record(**{**values, **changes})


def sweep(
    methods: Any = tuple(SKILL),
    tasks: Any = tuple(TRUTHS),
    seeds: Any = range(5),
    model: str = "planted",
) -> list[Record]:
    return [record(m, t, s, model=model) for m in methods for t in tasks for s in seeds]


def store(records: Any, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for one in records:
        write_record(one, folder)
    return folder


def rows(records: Any) -> list[RunRow]:
    """The records in short, as a board takes them."""
    return [RunRow.of(one) for one in records]


def light(method: str, task: str, seed: int, value: float, **changes: Any) -> RunRow:
    """A finished run that has one metric only: enough to be ranked, quick to make."""
    run_id = f"{method}-{task}-{seed}"
    run = RunRow(None, method, task, "planted", seed, run_id, values={"average_precision": value})
    return dataclasses.replace(run, **changes)
