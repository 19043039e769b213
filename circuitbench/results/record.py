"""The record of one run: what was asked, what came out, what it cost, how to do it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from circuitbench.core.circuit import Circuit
from circuitbench.core.display import Displayed, Sheet
from circuitbench.core.errors import InvalidSpec
from circuitbench.results.names import check_name
from circuitbench.results.plain import plain

SCHEMA = 2

Status = Literal["done", "failed", "timeout", "skipped"]
Stage = Literal["", "loading", "training", "discovering", "measuring"]
STATUSES: tuple[Status, ...] = get_args(Status)

# The commit is kept, but is not part of a run's identity: a sweep interrupted by a change to
# the documentation can be resumed. The package version is what promises equal numbers.
NOT_IDENTITY = frozenset({"commit"})

# Given to the validator by whoever read finite values from JSON: they are plain data already.
PARSED = {"parsed": True}


class Record(BaseModel, Displayed):
    """One run: what happened. All of it is plain JSON data and goes into the file.

    Nothing here follows from anything else here: the metrics that compare the discovery with
    the truth are computed whenever a record is read (:mod:`circuitbench.evaluation.metrics`).

    Raises:
        InvalidSpec: an unsafe name, an unknown status, a value JSON cannot hold.
        RunFailed: a number that is not finite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    spec: dict[str, Any] = Field(
        description="Everything asked for: task, model, method, seed, budget (queries), "
        "ablation, weight, batch_size, device, precision, functional, hyperparameters.",
        json_schema_extra={
            "properties": {
                "task": {"type": "string"},
                "model": {"type": "string"},
                "method": {"type": "string"},
                "seed": {"type": "integer"},
            },
            "required": ["task", "model", "method", "seed"],
        },
    )
    status: Status = Field(description="How the run ended.")
    stage: Stage = Field(default="", description="Where a run that is not done stopped.")
    reason: str = Field(default="", description="Why a run is not done, in one line.")
    traceback: str = Field(
        default="", description="Of a run that failed, without paths of the machine."
    )
    info: dict[str, Any] = Field(
        default_factory=dict,
        description="What the plug-ins say of themselves: method, task, model, each with a title; "
        "tier, of a run that belongs to one; training: the method's track, and the other models it "
        "learns on.",
    )
    discovery: dict[str, Any] = Field(
        default_factory=dict,
        description="What the method answered: scores (n_layers x n_heads), selected heads "
        "('layer.head'), edges (score by 'sender->receiver', or null), trace (a list of "
        "queries and scores), info, perhaps signed, signed_edges and selected_edges. Empty if it "
        "did not answer.",
    )
    truth: dict[str, Any] = Field(
        default_factory=dict,
        description="The ground truth: roles, edges, source, kind, version, ablations; where heads "
        "contribute unequally, contributions: heads (and edges, where functional is full): values, "
        "errors, worth, ablation, pairs.",
    )
    measurements: dict[str, Any] = Field(
        default_factory=dict,
        description="What was asked of the model about the selected heads, without any truth: "
        "faithfulness, mib, completeness, minimality, tests; edges, if edges are scored.",
    )
    costs: dict[str, Any] = Field(
        default_factory=dict,
        description="Of training, discovery and evaluation: queries, forwards, backwards, "
        "tokens, flops, seconds, peak_memory_bytes ...",
    )
    model: dict[str, Any] = Field(
        default_factory=dict,
        description="n_layers, n_heads, provenance, accuracy, clean_metric, clean_control_loss.",
    )
    versions: dict[str, Any] = Field(default_factory=dict, description="Version by package.")
    hardware: dict[str, Any] = Field(default_factory=dict, description="The machine.")
    command: str = Field(default="", description="The shell command that repeats the run.")
    created: str = Field(default="", description="When the record was made: ISO 8601, UTC.")

    _path: Path | None = PrivateAttr(None)

    @model_validator(mode="wrap")
    @classmethod
    def _in_our_words(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            record = handler(data)
        except ValidationError as error:
            raise InvalidSpec(_explain(error)) from error
        for kind in ("method", "task", "model"):
            check_name(kind, record.spec.get(kind))
        seed = record.spec.get("seed")
        if type(seed) is not int:
            raise InvalidSpec(f"spec.seed must be a whole number, not {seed!r}")
        return record

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        return value if info.context is PARSED else plain(value, info.field_name)

    @cached_property
    def run_id(self) -> str:
        """See :func:`run_id`."""
        return run_id(self.spec, self.versions)

    @property
    def path(self) -> Path | None:
        """Where it was read from; inside an archive, as if the archive were a folder."""
        return self._path

    @property
    def ending(self) -> str:
        """The status, with the stage in which a run failed; see :func:`ending`."""
        return ending(self.status, self.stage)

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

    @property
    def external(self) -> bool:
        """Whether the circuit was found elsewhere and read from a file; its cost is unknown."""
        return "external" in self.spec

    def __repr__(self) -> str:
        """One line; :meth:`content` is all of it."""
        run = f"{self.method} on {self.task} ({self.model_name}, seed {self.seed})"
        return f"<Record: {run}, {self.status}>"

    __str__ = __repr__

    def sheet(self) -> Sheet:
        """Which run it was and how it ended; :class:`~circuitbench.Result` shows its scores."""
        rows = [("status", self.ending), ("reason", self.reason), ("run id", self.run_id)]
        rows += [("repeat with", self.command), ("created", self.created)]
        title = f"Record: {self.method} on {self.task} ({self.model_name}, seed {self.seed})"
        return Sheet(title, [row for row in rows if row[1]])

    def content(self) -> dict[str, Any]:
        """What the file holds, but for the checksum."""
        values = {name: getattr(self, name) for name in CONTENT}
        return {"schema": SCHEMA, "run_id": self.run_id, **values}

    def at(self, path: Path) -> Record:
        """The same record, lying at ``path``."""
        placed = self.model_copy()
        placed._path = path
        return placed

    def replace(self, **changes: Any) -> Record:
        """The same record with other values, checked like any other; it lies nowhere yet."""
        return Record(**{name: getattr(self, name) for name in CONTENT} | changes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self.content() == other.content()

    __hash__ = None  # type: ignore[assignment]  # it holds dicts


CONTENT: tuple[str, ...] = tuple(Record.model_fields)


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


def ending(status: str, stage: str) -> str:
    """How a run ended, and where if it failed: ``done``, ``failed while measuring``."""
    return f"{status} while {stage}" if stage else status


def truth_of(circuit: Circuit) -> dict[str, Any]:
    """A ground truth as a record keeps it, so that a page can show it without the task.

    ``family`` (sorted lists of heads) and ``faithfulness`` are there only where it has one.
    """
    family: dict[str, Any] = {}
    if circuit.family:
        sets = sorted([str(head) for head in sorted(heads)] for heads in circuit.family)
        family = {"family": sets, "faithfulness": circuit.faithfulness}
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
        "edge_ablations": list(circuit.edge_ablations),
        **family,
    }


def _explain(error: ValidationError) -> str:
    """Pydantic's findings about a record in one line of plain words."""
    wrong, lines = set(), []
    for found in error.errors(include_url=False):
        name = ".".join(map(str, found["loc"]))
        if found["type"] in ("extra_forbidden", "missing"):
            wrong.add(name)
        elif found["type"] == "dict_type":
            lines.append(f"{name} must be an object")
        elif found["type"] == "string_type":
            lines.append(f"{name} must be text")
        elif found["type"] == "literal_error":
            valid = get_args(Status if name == "status" else Stage)
            words = ", ".join(word for word in valid if word)
            lines.append(f"unknown {name} {found['input']!r}; valid: {words}")
        else:
            lines.append(f"{name}: {found['msg']}")
    if wrong:
        lines.insert(0, f"wrong entries: {', '.join(sorted(wrong))}")
    return "; ".join(lines)
