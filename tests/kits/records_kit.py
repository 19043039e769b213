"""Small invented records."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from circuitbench.core.circuit import Circuit, Head, Role
from circuitbench.results import Record, truth_of

TIMED = ("seconds", "method_seconds", "peak_memory_bytes")


def make(seed: int = 0, **changes: Any) -> Record:
    """A finished run on a model of 2 x 2 heads."""
    spec = {"task": "ioi", "model": "planted@1", "method": "acdc", "seed": seed, "budget": 500}
    values = {
        "spec": spec,
        "status": "done",
        "discovery": {
            "scores": np.eye(2) + seed,
            "selected": {Head(1, 1), Head(0, 0)},
            "edges": None,
            "trace": [{"queries": 4, "scores": [[0.5, 0.0], [0.0, 0.75]]}],
            "info": {},
        },
        "truth": truth_of(Circuit({"mover": Role((Head(1, 0),), sign=-1)}, "x", "trained")),
        "costs": {"discovery": {"queries": 4}},
        "model": {"n_layers": 2, "n_heads": 2},
        "created": "2026-01-01T00:00:00Z",
        "versions": {"circuitbench": "0.1.0", "commit": "abc"},
    }
    return Record(**{**values, **changes})


def seal(content: dict[str, Any]) -> bytes:
    """A file of any content whose checksum is right."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in content.items()]
    body = ("{\n" + "".join(lines)).encode()
    return body + f'"checksum": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


def fill(folder: Path, *records: Record) -> Path:
    """Write records into a folder."""
    from circuitbench.results import write_record

    for record in records:
        write_record(record, folder)
    return folder


def content(record: Record) -> Any:
    """What two runs of one spec have in common."""
    kept = record.content()
    costs = {
        stage: {key: value for key, value in cost.items() if key not in TIMED}
        for stage, cost in kept["costs"].items()
    }
    gone = ("created", "hardware")
    return {**{k: v for k, v in kept.items() if k not in gone}, "costs": costs}
