"""A folder of records: files of one record each, archives of many, or both."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuitbench.core.errors import CorruptRecord, InvalidSpec
from circuitbench.results import archive
from circuitbench.results.files import write_atomically
from circuitbench.results.names import file_part
from circuitbench.results.record import Record
from circuitbench.results.text import LARGEST, from_bytes, to_bytes

# What `circuitbench leaderboard --format json --out` writes; a results folder may hold it.
TABLE_FILE = "leaderboard.json"


LONGEST = 230  # characters of a name before the run id; file systems take 255 in all


@dataclass(frozen=True)
class Entry:
    """Where one record lies, and what changes when the record does.

    Args:
        path: of the file; of a record in an archive, as if the archive were a folder.
        size: bytes of the record's text.
        mtime_ns: when its file (or archive) was last written.
        digest: SHA-256 of the text as its archive states it, "" for a file of its own.
    """

    path: Path
    size: int
    mtime_ns: int
    digest: str = ""


@dataclass(frozen=True)
class Problem:
    """A record or archive in a results folder that is not used, and why."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def problem_of(path: Path, error: CorruptRecord) -> Problem:
    """The problem that reading the record at ``path`` met; it may be one of its archive."""
    message = str(error)
    at = next((p for p in (path, path.parent) if message.startswith(f"{p}: ")), path)
    return Problem(at, message.removeprefix(f"{at}: "))


def file_name(spec: Mapping[str, Any], run_id: str) -> str:
    """The name of a record's file, in a folder or in an archive; one per run id.

    Where it would be longer than file systems take, its parts are cut; the run id stays.
    """
    parts = (spec["method"], spec["task"], spec["model"], f"seed{spec['seed']}")
    name = "_".join(map(file_part, parts))
    if len(name) > LONGEST:
        name = "_".join(file_part(part)[: LONGEST // 5] for part in parts)
    return f"{name}_{run_id}.json"


def record_path(record: Record, folder: Path | str) -> Path:
    """Where ``record`` belongs in ``folder``; one place per run id."""
    return Path(folder) / file_name(record.spec, record.run_id)


def write_record(record: Record, folder: Path | str) -> Path:
    """Write ``record`` into ``folder`` (made if absent) and return its path.

    The file appears complete or not at all, also if the machine stops midway. Raises
    :class:`InvalidSpec` naming the folder when it cannot be written; then nothing is left behind
    and whatever stood there before is untouched.
    """
    path = record_path(record, folder)
    write_atomically(path, to_bytes(record))
    return path


def read_record(path: Path | str) -> Record:
    """Read and verify one record, from its own file or from ``ARCHIVE.zip/NAME.json``.

    Raises :class:`CorruptRecord` naming the file and the fault.
    """
    path = Path(path)
    file = file_of(path)
    if file != path:
        return from_bytes(archive.read_member(file, path.name), path)
    if path.suffix == archive.SUFFIX and path.is_file():
        raise CorruptRecord(f"{path}: an archive, not a record; one in it is {path}/NAME.json")
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise CorruptRecord(f"{path}: not a file")
        if state.st_size > LARGEST:
            raise CorruptRecord(f"{path}: {state.st_size:,} bytes; at most {LARGEST:,} are read")
        data = path.read_bytes()
    except OSError as error:
        raise CorruptRecord(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # a name that no file can have
        raise CorruptRecord(f"{path}: cannot be read ({error})") from error
    return from_bytes(data, path)


def find_record(start: str, folder: Path | str) -> Record:
    """The record under ``folder`` whose run id begins with ``start``.

    Raises:
        InvalidSpec: there is none, there are several, or there is no such folder.
        CorruptRecord: it cannot be read.
    """
    found: dict[str, list[Record]] = {}
    for entry in entries(folder)[0]:
        run_id = entry.path.stem.rpartition("_")[2]
        if start and run_id.startswith(start):
            found.setdefault(run_id, []).append(read(entry))
    if len(found) != 1:
        what = f"{len(found)} runs begin" if found else "no run begins"
        raise InvalidSpec(
            f"{what} with {start!r} in {folder}; expected a run id's first digits, or the path "
            "of a record"
        )
    (record,), _ = one_per_run(*found.values())
    return record


def read(entry: Entry) -> Record:
    """:func:`read_record` of a listed record."""
    return read_record(entry.path)


def file_of(path: Path) -> Path:
    """The file that holds the record at ``path``: that itself, or its archive."""
    in_archive = path.parent.suffix == archive.SUFFIX and path.parent.is_file()
    return path.parent if in_archive else path


def entries(folder: Path | str) -> tuple[list[Entry], list[Problem]]:
    """Every record under ``folder`` (subfolders too) by path, unread, and archives that are broken.

    Raises :class:`InvalidSpec` when there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InvalidSpec(
            f"{folder} is a file, not a folder of records; show one with 'circuitbench show'"
            if folder.exists()
            else f"no such results folder: {folder}"
        )
    found, problems = [], []
    for path in _files(folder):
        try:
            state = path.stat()
        except OSError as error:
            problems.append(Problem(path, f"cannot be read ({error.strerror})"))
            continue
        if not stat.S_ISREG(state.st_mode):  # a pipe would never end
            problems.append(Problem(path, "not a file"))
            continue
        if path.suffix == ".json":
            found.append(Entry(path, state.st_size, state.st_mtime_ns))
            continue
        try:
            members = archive.members(path)
        except CorruptRecord as error:
            problems.append(problem_of(path, error))
            continue
        found += [Entry(path / m.name, m.size, state.st_mtime_ns, m.sha256) for m in members]
    return found, problems


def read_folder(folder: Path | str) -> tuple[list[Record], list[Problem]]:
    """All good records under ``folder`` (subfolders too), and what is wrong with the others.

    Of several records of one run the finished, then the oldest one stays; the others are
    problems unless they are the same to the last byte. The records come in the order of their
    content, never that of their file names. Raises :class:`InvalidSpec` when there is no such
    folder.
    """
    listed, problems = entries(folder)
    records = []
    for entry in listed:
        try:
            records.append(read(entry))
        except CorruptRecord as error:
            problems.append(problem_of(entry.path, error))
    kept, duplicates = one_per_run(records)
    # A damaged block of an archive is met once per record; it is one problem.
    found = dict.fromkeys([*problems, *duplicates])
    return kept, sorted(found, key=lambda p: str(p.path))


def one_per_run(records: Iterable[Record]) -> tuple[list[Record], list[Problem]]:
    """The records that :func:`read_folder` keeps, in order, and the duplicates as problems."""
    runs: dict[str, list[Record]] = {}
    for record in records:
        runs.setdefault(record.run_id, []).append(record)
    kept, problems = [], []
    for copies in runs.values():
        first, *others = sorted(copies, key=precedence) if len(copies) > 1 else copies
        kept.append(first)
        problems += [
            Problem(other.path, f"duplicate of {first.path}, and not the same")
            for other in others
            if other.path and other != first
        ]
    kept.sort(key=lambda r: (r.task, r.model_name, r.method, r.seed, r.run_id))
    return kept, problems


def precedence(record: Record) -> tuple[bool, str, bytes, str]:
    """Sorts the records of one run: finished before failed, then older before newer."""
    return (record.status != "done", record.created, to_bytes(record), str(record.path))


def _files(folder: Path) -> list[Path]:
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.endswith((".json", archive.SUFFIX)) and not name.startswith("."):
                found.append(Path(root, name))
    return sorted(path for path in found if path.name != TABLE_FILE)
