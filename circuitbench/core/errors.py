"""Every error a user can cause, as one small tree.

The command line prints the message of a :class:`CircuitBenchError` as one line and exits with
``exit_code``: 2 where the request was wrong, 1 where a valid run failed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CircuitBenchError(Exception):
    """Base of all errors raised on purpose; the message is written for the user."""

    exit_code = 2


class UnknownName(CircuitBenchError):
    """A method, task, model or key that does not exist; names the nearest that does."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        super().__init__(f"unknown {kind} {name!r}; {nearest(name, self.known)}")


class InvalidSpec(CircuitBenchError):
    """A request that cannot be run as asked: bad value, bad file, impossible combination."""


class InvalidPlugin(CircuitBenchError):
    """A plug-in that breaks its contract, or two plug-ins of one name."""


class BudgetExceeded(CircuitBenchError):
    """The oracle refused a query because the budget does not cover it; nothing was spent on it."""

    exit_code = 1


class ModelUnavailable(CircuitBenchError):
    """A model whose weights cannot be had here (not downloaded, wrong folder, no such device)."""


class CorruptRecord(CircuitBenchError):
    """A stored record that is truncated, edited, or of a schema this version cannot read."""


class InvalidCircuitFile(CircuitBenchError):
    """A circuit file that is broken or fits no model; names the file and the field at fault."""


class RunFailed(CircuitBenchError):
    """A valid run that did not finish: the method raised, or gave values that are not numbers."""

    exit_code = 1


class TimedOut(RunFailed):
    """A run that was stopped because it took longer than it was given."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Say what would have been valid: ``did you mean 'acdc'? Valid: ...``.

    Of a dotted name the last part alone may be what was meant: ``gamma`` is near ``ppo.gamma``.
    """
    names = sorted(known)
    valid = "valid: " + (", ".join(names) if names else "none")
    close = max(names, key=lambda candidate: _likeness(candidate, name.lower()), default="")
    if not close or max(_likeness(close, name.lower())) < 0.5:
        return valid
    return f"did you mean {close!r}? ({valid})"


def _likeness(a: str, b: str) -> tuple[float, float]:
    """How alike two names are, 0 to 1: as wholes or in their last parts, and then as wholes."""
    ends = a.rpartition(".")[2], b.rpartition(".")[2]
    whole, end = (difflib.SequenceMatcher(None, *pair).ratio() for pair in ((a, b), ends))
    return max(whole, end), whole
