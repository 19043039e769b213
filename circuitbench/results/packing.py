"""The records of a folder, packed into archives."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from circuitbench.core.errors import CorruptRecord, InvalidSpec
from circuitbench.results import archive
from circuitbench.results.files import write_atomically
from circuitbench.results.names import file_part
from circuitbench.results.record import Record
from circuitbench.results.store import (
    entries,
    file_name,
    file_of,
    one_per_run,
    read,
    read_folder,
    read_record,
)
from circuitbench.results.text import to_bytes


@dataclass(frozen=True)
class Packed:
    """The archives that were written, how many records they hold, and how many files are gone."""

    archives: tuple[Path, ...]
    n_records: int
    n_removed: int


def pack_folder(
    folder: Path | str,
    out: Path | str,
    remove: bool = False,
    warn: Callable[[str], None] = lambda message: None,
) -> Packed:
    """Pack the records under ``folder`` into ``out``, one archive per method.

    An archive that is there already is replaced in one step by one that holds its records, too,
    so nothing is lost if the machine stops midway. The same records give the same bytes. Records
    of an older schema are written in today's.

    Args:
        folder: files of records, archives, or both, subfolders too.
        out: where the ``METHOD.zip`` are written; may be ``folder``.
        remove: then remove the files and archives of ``folder`` that hold nothing but what is
            now in the new archives.
        warn: gets one line per file that cannot be read or is a differing duplicate; it is not
            packed and left alone.

    Raises:
        InvalidSpec: no such folder, no records in it, or ``out`` cannot be written to.
        CorruptRecord: an archive that is to be replaced cannot be read.
    """
    folder, out = Path(folder), Path(out)
    records, problems = read_folder(folder)
    if not records:
        raise InvalidSpec(f"no records in {folder}")
    for problem in problems:
        warn(str(problem))
    methods: dict[str, list[Record]] = {}
    for record in records:
        methods.setdefault(record.method, []).append(record)
    packed: dict[str, Record] = {}
    paths = [out / f"{file_part(method)}{archive.SUFFIX}" for method in methods]
    for path, own in zip(paths, methods.values(), strict=True):
        packed |= _replace(path, own)
    removed = _remove(folder, packed, paths) if remove else 0
    return Packed(tuple(paths), len(packed), removed)


def _replace(path: Path, records: list[Record]) -> dict[str, Record]:
    """Write an archive of ``records`` and of what it holds already; by run id."""
    if path.exists():
        records = records + [read_record(path / member.name) for member in archive.members(path)]
    kept, _ = one_per_run(records)
    files = [(file_name(record.spec, record.run_id), to_bytes(record)) for record in kept]
    write_atomically(path, archive.pack(files))
    for record, (name, _) in zip(kept, files, strict=True):
        if read_record(path / name) != record:
            raise CorruptRecord(f"{path / name}: was not written as it should be")
    return {record.run_id: record for record in kept}


def _remove(folder: Path, packed: Mapping[str, Record], written: Collection[Path]) -> int:
    """Remove the files of ``folder`` of which every record is packed; gives their number."""
    replaced: dict[Path, bool] = {}
    for entry in entries(folder)[0]:
        file = file_of(entry.path)
        try:
            record = read(entry)
            same = packed.get(record.run_id) == record
        except CorruptRecord:
            same = False
        replaced[file] = replaced.get(file, True) and same
    for path in written:
        replaced.pop(path, None)
    gone = [file for file, same in replaced.items() if same]
    for file in gone:
        file.unlink()
    return len(gone)
