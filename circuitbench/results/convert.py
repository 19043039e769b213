"""Records of schema 1, read as records of today."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from circuitbench.plugins.registry import info_of
from circuitbench.results.record import canonical

ENTRIES = frozenset(
    [
        "schema",
        "run_id",
        "spec",
        "status",
        "reason",
        "family",
        "metrics",
        "discovery",
        "truth",
        "costs",
        "model",
        "versions",
        "hardware",
        "command",
        "created",
        "checksum",
    ]
)


def checksum(content: Mapping[str, Any]) -> str:
    """What schema 1 sealed a record with: SHA-256 of its canonical JSON, 64 hex digits.

    Raises :class:`ValueError` for numbers that are not finite.
    """
    body = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(canonical(body).encode()).hexdigest()


def from_schema_1(content: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of today's record; ``content`` has schema 1's entries.

    Metrics that follow from discovery and truth are dropped, as they are computed on read;
    ``metrics.functional`` becomes ``measurements``. The area under the curve of quality against
    queries, and the queries to 90 %, stay there as ``efficiency``: schema 1 measured them and
    then rounded the trace, which makes ties. ``family``, which was the name of the
    method's source file, gives way to what the plug-ins say of themselves.
    """
    metrics, spec = content["metrics"], content["spec"]
    kept = {key: content[key] for key in ENTRIES - {"schema", "run_id", "family", "metrics"}}
    del kept["checksum"]
    return {
        **kept,
        "measurements": _measurements(metrics) if isinstance(metrics, dict) else metrics,
        "info": _info(spec) if isinstance(spec, dict) else {},
    }


def _measurements(metrics: Mapping[str, Any]) -> dict[str, Any]:
    kept = dict(metrics.get("functional") or {})
    efficiency = metrics.get("efficiency")
    if isinstance(efficiency, dict) and isinstance(efficiency.get("area"), dict):
        kept["efficiency"] = {key: efficiency.get(key) for key in ("area", "queries_to_90")}
    return kept


def _info(spec: Mapping[str, Any]) -> dict[str, Any]:
    return dict(info_of(*(str(spec.get(key)) for key in ("method", "task", "model"))))
