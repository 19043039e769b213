"""A record as text: one JSON object, one line per entry, sealed by a checksum of its bytes."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NoReturn

from pydantic_core import from_json

from circuitbench.core.errors import CircuitBenchError, CorruptRecord
from circuitbench.results import convert
from circuitbench.results.plain import check_finite, may_overflow
from circuitbench.results.record import CONTENT, PARSED, SCHEMA, Record

# The last line; the SHA-256 is of all bytes before it, so that reading hashes what it reads.
_SEAL = re.compile(rb'"checksum": "([0-9a-f]{64})"\n\}\n\Z')
_SEAL_BYTES = 84
LARGEST = 1 << 28  # bytes of a record that is read
_ENTRIES = frozenset({*CONTENT, "schema", "run_id", "checksum"})


def to_bytes(record: Record) -> bytes:
    """The file of ``record``; the same bytes for the same content."""
    # One line per entry: a grid of scores would take one per number, and thousands in all.
    body = "{\n" + "".join(
        f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'), allow_nan=False)},\n"
        for key, value in record.content().items()
    )
    data = body.encode()
    return data + f'"checksum": "{hashlib.sha256(data).hexdigest()}"\n}}\n'.encode()


def from_bytes(data: bytes, path: Path) -> Record:
    """The record that ``data`` holds, of this schema or an older one.

    ``path`` is where it lies, for messages and ``Record.path``. Raises :class:`CorruptRecord`
    naming the path and the fault.
    """
    if len(data) > LARGEST:
        raise CorruptRecord(f"{path}: {len(data):,} bytes; at most {LARGEST:,} are read")
    content = _parse(data, path)
    schema = content.get("schema")
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise CorruptRecord(f"{path}: {_unreadable(content)}")
    _check_seal(data, content, path)
    known = convert.ENTRIES if schema == 1 else _ENTRIES
    if content.keys() != known:
        wrong = ", ".join(sorted(content.keys() ^ known))
        raise CorruptRecord(f"{path}: wrong entries: {wrong}")
    values = (
        convert.from_schema_1(content) if schema == 1 else {name: content[name] for name in CONTENT}
    )
    try:
        if may_overflow(data):
            check_finite(values, "")
        record = Record.model_validate(values, context=PARSED)
    except CircuitBenchError as error:
        raise CorruptRecord(f"{path}: {error}") from error
    try:
        belongs = record.run_id == content["run_id"]
    except ValueError as error:
        raise CorruptRecord(f"{path}: holds a number with too many digits") from error
    if not belongs:
        raise CorruptRecord(f"{path}: run_id does not belong to its spec and versions")
    record._path = path
    return record


def _check_seal(data: bytes, content: dict[str, Any], path: Path) -> None:
    if content["schema"] == 1:
        try:
            intact = content.get("checksum") == convert.checksum(content)
        except ValueError as error:
            raise CorruptRecord(f"{path}: holds a number that is not finite") from error
    else:
        seal = _SEAL.search(data, max(0, len(data) - _SEAL_BYTES))
        intact = seal is not None and (
            hashlib.sha256(memoryview(data)[: seal.start()]).hexdigest().encode() == seal[1]
        )
    if not intact:
        raise CorruptRecord(f"{path}: checksum does not match; the file was edited or damaged")


def _unreadable(content: dict[str, Any]) -> str:
    if "schema" not in content:
        return "not a record (no schema)"
    schema = content["schema"]
    if type(schema) is int and schema > SCHEMA:
        advice = "it was written by a newer circuitbench: upgrade to read it"
    else:
        advice = "run it again with its command"
    return f"schema {schema!r}, but this version reads 1 to {SCHEMA}; {advice}"


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    try:
        content = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        _explain(data, path)
        raise CorruptRecord(
            f"{path}: holds text that is no Unicode, more than 200 levels or too many digits "
            f"({error})"
        ) from error
    if not isinstance(content, dict):
        raise CorruptRecord(f"{path}: not a record (expected a JSON object)")
    return content


def _explain(data: bytes, path: Path) -> None:
    """Raise what the standard library makes of it: it says better what is wrong."""

    def not_a_number(token: str) -> NoReturn:
        raise CorruptRecord(f"{path}: holds {token}, which is not a value")

    try:
        json.loads(data.decode(), parse_constant=not_a_number)
    except UnicodeDecodeError as error:
        raise CorruptRecord(f"{path}: not a text file") from error
    except json.JSONDecodeError as error:
        text = error.doc.strip()
        cut = not text or (text.startswith("{") and not text.endswith("}"))
        kind = "truncated" if cut else "not JSON"
        raise CorruptRecord(f"{path}: {kind} ({error.msg}, line {error.lineno})") from error
    except RecursionError as error:
        raise CorruptRecord(f"{path}: not a record (nested too deeply)") from error
    except ValueError as error:
        raise CorruptRecord(f"{path}: holds a number with too many digits") from error
