"""Records on disk: written whole or not at all, read with suspicion."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from circuitbench.core.errors import CircuitBenchError, CorruptRecord, InvalidSpec
from circuitbench.results.record import CONTENT, SCHEMA, Record, checksum

# What `circuitbench leaderboard --format json --out` writes; a results folder may hold it.
TABLE_FILE = "leaderboard.json"


@dataclass(frozen=True)
class Problem:
    """A file in a results folder that is not used, and why."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def record_path(record: Record, folder: Path | str) -> Path:
    """Where ``record`` belongs in ``folder``; one place per run id."""
    parts = (record.method, record.task, record.model_name, f"seed{record.seed}", record.run_id)
    return Path(folder) / ("_".join(parts).replace(":", "-") + ".json")


def check_folder(folder: Path | str) -> Path:
    """Make ``folder`` and prove it takes a file, before a long run; raises :class:`InvalidSpec`."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def write_record(record: Record, folder: Path | str) -> Path:
    """Write ``record`` into ``folder`` (made if absent) and return its path.

    The file appears complete or not at all, also if the machine stops midway. Raises
    :class:`InvalidSpec` naming the folder when it cannot be written; then nothing is left behind
    and whatever stood there before is untouched.
    """
    path = record_path(record, folder)
    content = {**record.content(), "checksum": record.checksum()}
    # One line per entry: a grid of scores would take one per number, and thousands in all.
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
    write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")
    return path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content`` in one step; raises :class:`InvalidSpec` if it cannot."""
    data = content.encode() if isinstance(content, str) else content
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def read_record(path: Path | str) -> Record:
    """Read and verify one record; raises :class:`CorruptRecord` naming the file and the fault."""
    path = Path(path)
    content = _parse(path)
    _check_schema(path, content)
    try:
        expected = checksum(content)
    except ValueError as error:
        raise CorruptRecord(f"{path}: holds a number that is not finite") from error
    if content.get("checksum") != expected:
        raise CorruptRecord(f"{path}: checksum does not match; the file was edited or damaged")
    unknown = set(content) - set(CONTENT) - {"schema", "run_id", "checksum"}
    missing = {*CONTENT, "run_id"} - set(content)
    if unknown or missing:
        raise CorruptRecord(f"{path}: wrong entries: {', '.join(sorted(unknown | missing))}")
    try:
        record = _build(path, content)
    except CircuitBenchError as error:
        raise CorruptRecord(f"{path}: {error}") from error
    if record.run_id != content["run_id"]:
        raise CorruptRecord(f"{path}: run_id does not belong to its spec and versions")
    return record


def read_folder(folder: Path | str) -> tuple[list[Record], list[Problem]]:
    """All good records under ``folder`` (subfolders too), and what is wrong with the others.

    Of several records of one run the finished, then the oldest one stays and the others are
    problems. The records come in the order of their content, never that of their file names.
    Raises :class:`InvalidSpec` when there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InvalidSpec(
            f"{folder} is a file, not a folder of records; show one with 'circuitbench show'"
            if folder.exists()
            else f"no such results folder: {folder}"
        )
    records, problems = [], []
    for path in sorted(folder.rglob("*.json")):
        if path.name == TABLE_FILE or path.name.startswith("."):
            continue
        try:
            records.append(read_record(path))
        except CorruptRecord as error:
            problems.append(Problem(path, str(error).removeprefix(f"{path}: ")))
    runs: dict[str, list[Record]] = {}
    for record in records:
        runs.setdefault(record.run_id, []).append(record)
    kept = []
    for copies in runs.values():
        first, *others = sorted(copies, key=_precedence) if len(copies) > 1 else copies
        kept.append(first)
        problems += [Problem(r.path, f"duplicate of {first.path}") for r in others if r.path]
    ordered = sorted(kept, key=lambda r: (r.task, r.model_name, r.method, r.seed, r.run_id))
    return ordered, sorted(problems, key=lambda p: str(p.path))


def _precedence(record: Record) -> tuple[bool, str, str, str]:
    return (record.status != "done", record.created, record.checksum(), str(record.path))


def _parse(path: Path) -> dict[str, Any]:
    def not_a_number(token: str) -> NoReturn:
        raise CorruptRecord(f"{path}: holds {token}, which is not a value")

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=not_a_number)
    except OSError as error:
        raise CorruptRecord(f"{path}: cannot be read ({error.strerror})") from error
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
    if not isinstance(content, dict):
        raise CorruptRecord(f"{path}: not a record (expected a JSON object)")
    return content


def _check_schema(path: Path, content: dict[str, Any]) -> None:
    schema = content.get("schema")
    if schema == SCHEMA and type(schema) is int:
        return
    if "schema" not in content:
        raise CorruptRecord(f"{path}: not a record (no schema)")
    if type(schema) is int and schema > SCHEMA:
        advice = "it was written by a newer circuitbench: upgrade to read it"
    else:
        advice = "run it again with its command"
    raise CorruptRecord(f"{path}: schema {schema!r}, but this version reads {SCHEMA}; {advice}")


def _build(path: Path, content: dict[str, Any]) -> Record:
    wanted = {"status": str, "reason": str, "family": str, "command": str, "created": str}
    for name in CONTENT:
        kind = wanted.get(name, dict)
        if not isinstance(content[name], kind):
            expected = "text" if kind is str else "an object"
            raise CorruptRecord(f"{path}: {name} must be {expected}")
    return Record(**{name: content[name] for name in CONTENT}, path=path)


def _unwritable(folder: Path, error: OSError) -> InvalidSpec:
    return InvalidSpec(
        f"cannot write to {folder}: {error.strerror or error}; expected a writable folder"
    )
