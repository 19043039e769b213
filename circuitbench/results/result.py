"""A record with its parts as values to go on with, in Python and in notebooks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from circuitbench.core.circuit import Circuit, Head
from circuitbench.core.discovery import Discovery
from circuitbench.core.display import Displayed, Sheet
from circuitbench.core.errors import RunFailed
from circuitbench.evaluation.metrics import metrics, values_of
from circuitbench.evaluation.outcome import Outcome, read_truth
from circuitbench.results.content import outcome_of
from circuitbench.results.discovery import read_discovery
from circuitbench.results.record import Record, Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Result(Displayed):
    """What came of one run. A run that failed has no answer: ``status`` and ``reason`` say why.

    Args:
        record: everything about the run, as it is stored.
    """

    record: Record

    def __repr__(self) -> str:
        """One line; ``metrics`` and ``record`` hold the rest."""
        run = f"{self.method} on {self.task} ({self.model}, seed {self.seed})"
        return f"<Result: {run}, {self.status}>"

    @property
    def method(self) -> str:
        """The method's name."""
        return self.record.method

    @property
    def task(self) -> str:
        """The task's name."""
        return self.record.task

    @property
    def model(self) -> str:
        """The model as asked for, e.g. ``planted@3``."""
        return self.record.model_name

    @property
    def seed(self) -> int:
        """The root seed."""
        return self.record.seed

    @property
    def status(self) -> Status:
        """How the run ended: ``done``, ``failed``, ``timeout`` or ``skipped``."""
        return self.record.status

    @property
    def reason(self) -> str:
        """Why it is not done, in one line; empty if it is."""
        return self.record.reason

    @property
    def path(self) -> Path | None:
        """Where its record lies; None if it was not kept."""
        return self.record.path

    @property
    def costs(self) -> dict[str, Any]:
        """What training, discovery and evaluation spent: queries, forwards, seconds ..."""
        return self.record.costs

    @cached_property
    def discovery(self) -> Discovery:
        """What the method answered; raises :class:`RunFailed` if it did not."""
        if not self.record.discovery:
            raise RunFailed(f"there is no answer: the run {self.record.ending}: {self.reason}")
        return read_discovery(self.record.discovery)

    @property
    def scores(self) -> np.ndarray:
        """``[n_layers, n_heads]``, higher = more surely in the circuit; see :attr:`discovery`."""
        return self.discovery.scores

    @property
    def selected(self) -> frozenset[Head]:
        """The heads that the method commits to; see :attr:`discovery`."""
        return self.discovery.selected

    @cached_property
    def truth(self) -> Circuit | None:
        """The circuit it is held against; None where nobody knows."""
        return read_truth(self.record.truth) if self.record.truth else None

    @cached_property
    def outcome(self) -> Outcome:
        """The run as metrics see it; of a run that is not done, its costs alone."""
        if self.status != "done":
            return Outcome({}, {}, self.record.costs, {})
        return outcome_of(self.record)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Every metric that has a value for this run, by key (docs/metrics.md)."""
        return values_of(self.outcome)[0]

    def plot(self, what: Literal["heads", "edges"] = "heads", top: int | None = None) -> Figure:
        """The discovery drawn beside the truth; see :meth:`Discovery.plot`."""
        return self.discovery.plot(what, self.truth, top)

    def sheet(self) -> Sheet:
        """Scores against the truth, and what they cost."""
        title = f"{self.method} on {self.task} ({self.model}, seed {self.seed})"
        if self.status != "done":
            return Sheet(title, [("status", self.record.ending), ("reason", self.reason)])
        chosen = self.discovery.sheet()
        rows = [
            (metric.title, f"{self.metrics[key]:.{metric.digits}f}", _chance(key, self.outcome))
            for key, metric in metrics().items()
            if key in self.metrics and not metric.minor and metric.kind in ("quality", "cost")
        ]
        note = "" if self.path is None else f"record: {self.path}"
        return Sheet(title, rows, ("measure", "value", "chance"), chosen.grid, note)


def _chance(key: str, outcome: Outcome) -> str:
    chance = metrics()[key].chance
    value = None if chance is None else chance(outcome)
    return "" if value is None else f"{value:.3f}"
