"""Runs that have a discovery and no measurements yet: they go on from it."""

from __future__ import annotations

from circuitbench.results import Record

INTERRUPTED = "interrupted while measuring; run it again to go on from the discovery"


def is_unmeasured(record: Record) -> bool:
    """Whether a run failed only after its discovery."""
    return record.status == "failed" and record.stage == "measuring" and bool(record.discovery)


def is_interrupted(record: Record) -> bool:
    """Whether a run was stopped from outside after its discovery."""
    return is_unmeasured(record) and record.reason == INTERRUPTED
