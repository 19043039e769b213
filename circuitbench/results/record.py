"""The record of one run: what was asked, what came out, what it cost, how to do it again."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from circuitbench.core.circuit import Circuit, Edge, Head
from circuitbench.core.errors import InvalidSpec, RunFailed

SCHEMA = 1

Status = Literal["done", "failed", "timeout", "skipped"]
STATUSES: tuple[Status, ...] = ("done", "failed", "timeout", "skipped")

# A letter or digit first: a spreadsheet takes a cell that starts with = + - @ for a formula.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:+-]{0,99}")

# The commit is kept, but is not part of a run's identity: a sweep interrupted by a change to
# the documentation can be resumed. The package version is what promises equal numbers.
NOT_IDENTITY = frozenset({"commit"})


def check_name(kind: str, text: object) -> str:
    """Return ``text`` if it is a safe name of a ``kind`` (method, task, model, ...).

    Raises :class:`InvalidSpec` unless it is 1 to 100 letters, digits or ``. _ @ : + -``, begins
    with a letter or digit and holds no ``..``.
    """
    if isinstance(text, str) and _NAME.fullmatch(text) and ".." not in text:
        return text
    raise InvalidSpec(
        f"not a {kind} name: {text!r}; expected letters, digits and . _ @ : + - only, "
        "beginning with a letter or digit, without '..'"
    )


def plain(value: Any, where: str = "value") -> Any:
    """``value`` as plain JSON data: dicts, lists, strings, finite numbers, booleans, None.

    Arrays and tensors become nested lists, sets become sorted lists, heads ``"l.h"``. Raises
    :class:`RunFailed` for NaN or infinity, :class:`InvalidSpec` for what JSON cannot hold; both
    name the place, e.g. ``metrics.ranking.auroc``.
    """
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return plain(value.tolist(), where)
    if isinstance(value, Head | Edge | Path):
        return str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RunFailed(f"{where} is {value}; a record holds finite numbers only")
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return [plain(item, where) for item in sorted(value)]
    if isinstance(value, list | tuple):
        # Grids of scores are most of a record; one pass over a row of them is enough.
        if all(type(item) is float for item in value) and all(map(math.isfinite, value)):
            return list(value)
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise InvalidSpec(f"{where} is a {type(value).__name__}, which a record cannot hold")


def canonical(content: Mapping[str, Any]) -> str:
    """The one JSON text of ``content`` that hashes are taken of."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def run_id(spec: Mapping[str, Any], versions: Mapping[str, Any]) -> str:
    """16 hex digits hashed from everything that can change a number.

    That is the whole spec and every version but the commit's.
    """
    identity = {
        "spec": plain(spec, "spec"),
        "versions": {k: plain(v) for k, v in versions.items() if k not in NOT_IDENTITY},
    }
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:16]


def truth_of(circuit: Circuit) -> dict[str, Any]:
    """A ground truth as a record keeps it, so that a page can show it without the task."""
    return {
        "roles": {
            name: {"heads": [str(h) for h in role.heads], "needed": role.needed, "sign": role.sign}
            for name, role in circuit.roles.items()
        },
        "edges": None if circuit.edges is None else sorted(map(str, circuit.edges)),
        "source": circuit.source,
        "kind": circuit.kind,
        "version": circuit.version,
        "ablations": list(circuit.ablations),
    }


@dataclass(frozen=True)
class Record:
    """One run. Everything but ``path`` is plain JSON data and goes into the file.

    Args:
        spec: everything asked for; must hold ``task``, ``model``, ``method`` (safe names) and
            ``seed``; further hyperparameters, budget (queries), ablation, weight, batch_size,
            device, precision and whatever else can change a number.
        status: ``done``, ``failed``, ``timeout`` or ``skipped``; only ``done`` has metrics.
        reason: why a run is not done, one line.
        family: the kind of method, e.g. ``ablation``; the leaderboard filters by it.
        metrics: nested; group -> name -> number, as the evaluator returns them.
        discovery: ``scores`` ``[n_layers][n_heads]``, ``selected`` heads ``"l.h"``, ``trace``
            (list of ``queries`` and quality by then) and ``info``.
        truth: see :func:`truth_of`.
        costs: ``discovery`` and ``training`` apart: queries, forwards, backwards, tokens,
            seconds, peak memory (bytes).
        model: facts about the model: ``n_layers``, ``n_heads``, provenance.
        versions: of circuitbench and what it stands on, Python's, the git commit.
        hardware: where it ran.
        command: the command line that reproduces it.
        created: ISO 8601, UTC.
        path: where it was read from; not part of the record.

    Raises:
        InvalidSpec: an unsafe name, an unknown status, a value JSON cannot hold.
        RunFailed: a number that is not finite.
    """

    spec: dict[str, Any]
    status: Status
    reason: str = ""
    family: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    discovery: dict[str, Any] = field(default_factory=dict)
    truth: dict[str, Any] = field(default_factory=dict)
    costs: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    created: str = ""
    path: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in CONTENT:
            object.__setattr__(self, name, plain(getattr(self, name), name))
        if self.status not in STATUSES:
            raise InvalidSpec(f"unknown status {self.status!r}; valid: {', '.join(STATUSES)}")
        for kind in ("method", "task", "model"):
            check_name(kind, self.spec.get(kind))
        if self.family:
            check_name("method family", self.family)
        if type(self.spec.get("seed")) is not int:
            raise InvalidSpec(f"spec.seed must be a whole number, not {self.spec.get('seed')!r}")

    @cached_property
    def run_id(self) -> str:
        """See :func:`run_id`."""
        return run_id(self.spec, self.versions)

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.spec["method"])

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.spec["task"])

    @property
    def model_name(self) -> str:
        """The model as asked for, e.g. ``planted@3``."""
        return str(self.spec["model"])

    @property
    def seed(self) -> int:
        """The root seed."""
        return int(self.spec["seed"])

    def content(self) -> dict[str, Any]:
        """What the file holds, but for the checksum."""
        values = {name: getattr(self, name) for name in CONTENT}
        return {"schema": SCHEMA, "run_id": self.run_id, **values}

    def checksum(self) -> str:
        """SHA-256 of the whole content."""
        return checksum(self.content())


CONTENT: tuple[str, ...] = tuple(f.name for f in fields(Record) if f.name != "path")


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of a record's content without its ``checksum`` entry, 64 hex digits."""
    body = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(canonical(body).encode()).hexdigest()
