"""A record in short: what tables and figures need of it, and the way back to the whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from circuitbench.evaluation.metrics import curves_of, values_of
from circuitbench.evaluation.outcome import Outcome
from circuitbench.results.content import outcome_of
from circuitbench.results.record import Record, canonical, ending
from circuitbench.results.store import read_record

UNTOLD = -1
_OWN = ("method", "task", "model", "seed")
Curve = list[tuple[int, float]]


@dataclass(frozen=True, eq=False)
class RunRow:
    """One run in short. :attr:`record` leads to everything else.

    Args:
        path: of the record, see :attr:`Record.path`; None if it was never stored.
        method, task, model_name, seed, run_id: which run it is.
        status, stage, reason, created: as in the record.
        settings: the rest of the spec, as JSON.
        versions_text, info_text: ``versions`` and ``info``, as JSON.
        values: every metric that exists for the run, by key; costs alone unless it is done.
        roles: per role, the share of its heads among the R best ranked.
        curves: by the key of a metric of rankings: the best ranking's value after q queries.
        n_items, n_relevant: heads of the model, and how many of them are true (0: unknown;
            :data:`UNTOLD`: nobody knows the task's circuit).
        errors: why metrics that raised have no value, by key.
        whole: reads the record.
    """

    path: Path | None
    method: str
    task: str
    model_name: str
    seed: int
    run_id: str
    status: str = "done"
    stage: str = ""
    reason: str = ""
    created: str = ""
    settings: str = "{}"
    versions_text: str = "{}"
    info_text: str = "{}"
    values: Mapping[str, float] = field(default_factory=dict)
    roles: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    n_items: int = 0
    n_relevant: int = 0
    errors: Mapping[str, str] = field(default_factory=dict)
    whole: Callable[[], Record] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, record: Record, outcome: Outcome | None = None) -> RunRow:
        """Shorten a record whose content holds together (:func:`faults`)."""
        outcome = outcome or outcome_of(record)
        done = record.status == "done"
        if not done:  # an answer that was not measured is not compared
            outcome = Outcome({}, {}, record.costs, {}, record.info, outcome.batch_size)
        values, errors = values_of(outcome)
        scored = "truth" in outcome.has
        spec = {key: value for key, value in record.spec.items() if key not in _OWN}
        path = record.path
        return cls(
            path,
            record.method,
            record.task,
            record.model_name,
            record.seed,
            record.run_id,
            record.status,
            record.stage,
            record.reason,
            record.created,
            canonical(spec),
            canonical(record.versions),
            canonical(record.info),
            values,
            outcome.role_recall if scored else {},
            curves_of(outcome) if scored else {},
            outcome.scores.size if scored else 0,
            int(outcome.relevant.sum()) if scored else (UNTOLD if done else 0),
            errors,
            (lambda: record) if path is None else None,
        )

    @property
    def truthless(self) -> bool:
        """Whether the run is done on a task whose circuit nobody knows."""
        return self.n_relevant == UNTOLD

    @property
    def ending(self) -> str:
        """The status, with the stage in which a run failed; see :func:`ending`."""
        return ending(self.status, self.stage)

    @property
    def record(self) -> Record:
        """The whole record, read and verified each time.

        Raises :class:`CorruptRecord` if it was damaged or removed meanwhile.
        """
        if self.whole is not None:
            return self.whole()
        if self.path is None:
            raise LookupError(f"the record of run {self.run_id} was never stored")
        return read_record(self.path)

    @cached_property
    def spec(self) -> dict[str, Any]:
        """Everything asked for."""
        own = (self.method, self.task, self.model_name, self.seed)
        return {**dict(zip(_OWN, own, strict=True)), **_parsed(self.settings)}

    @property
    def external(self) -> bool:
        """See :attr:`Record.external`."""
        return "external" in _parsed(self.settings)

    @property
    def versions(self) -> Mapping[str, Any]:
        """Version by package."""
        return _parsed(self.versions_text)

    @property
    def info(self) -> Mapping[str, Any]:
        """What the plug-ins say of themselves."""
        return _parsed(self.info_text)

    @property
    def family(self) -> str:
        """The method's family, for humans; empty if it names none."""
        method = self.info.get("method")
        return str(method.get("family") or "") if isinstance(method, Mapping) else ""


# Thousands of runs share a few settings and versions.
@lru_cache(maxsize=1024)
def _parsed(text: str) -> Mapping[str, Any]:
    parsed: Mapping[str, Any] = json.loads(text)
    return parsed
