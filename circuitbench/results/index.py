"""An index beside the records: what tables need of each, so that they need not be parsed again.

The index is a convenience and never trusted: a row counts only as long as the bytes it was made
from are there, and the code that made it is the same. Whatever is missing, changed or broken is
read from the records and written anew. Without pyarrow (extra ``figures``), or where the folder
takes no file, everything is read each time.
"""

from __future__ import annotations

import io
import json
import sys
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitbench import evaluation
from circuitbench.core.errors import CorruptRecord, InvalidSpec
from circuitbench.core.extras import needs_extra
from circuitbench.evaluation.metrics import metrics
from circuitbench.results.content import faults, outcome_of
from circuitbench.results.environment import version_of
from circuitbench.results.files import write_atomically
from circuitbench.results.run_row import RunRow
from circuitbench.results.store import Entry, Problem, entries, one_per_run, problem_of, read

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FILE = ".index.parquet"
FORMAT = 1
_WORTH_WORKERS = 5_000  # records: below, starting processes costs more than it saves
_CHUNK = 500
_BLOCK_BYTES = 1 << 24  # more than one run takes
_TEXTS = ("method", "task", "model_name", "run_id", "status", "stage", "reason", "created")
_JSON_TEXTS = ("settings", "versions_text", "info_text")
_COUNTS = ("n_items", "n_relevant")


def _silent(line: str) -> None:
    """Tell nobody."""


def read_runs(
    folder: Path | str,
    warn: Callable[[str], None] = _silent,
    index: bool = True,
    workers: int = 1,
) -> tuple[list[RunRow], list[Problem]]:
    """The good records under ``folder`` in short, ordered by content, and what is left out.

    What :func:`circuitbench.results.read_folder` reports is left out, and records whose content
    does not hold together (:func:`circuitbench.results.content.faults`).

    Args:
        folder: searched with its subfolders.
        warn: gets one line per metric that raised on some run.
        index: use the index, and renew it if anything changed.
        workers: processes that read, where many records are new. They are started afresh, which
            runs the caller's main module again: ask for several from a guarded one only.

    Raises:
        InvalidSpec: there is no such folder.
    """
    folder = Path(folder)
    listed, problems = entries(folder)
    known = _read_index(folder) if index else {}
    stamps: dict[str, str] = {}
    found: dict[str, RunRow | None] = {}
    stale: dict[str, Entry] = {}
    for entry in listed:
        name = _name(entry, folder)
        try:
            stamp = stamps[name] = _stamp(entry)
        except OSError as error:
            problems.append(Problem(entry.path, f"cannot be read ({error.strerror})"))
            continue
        stamped, found[name] = known.get(name, ("", None))
        if found[name] is None or stamped != stamp:
            stale[name] = entry
    for name, (read_row, faulty) in zip(stale, _read_rows(stale.values(), workers), strict=True):
        found[name] = read_row
        problems += faulty
    rows = {name: row for name, row in found.items() if row is not None}
    if index and (stale or len(rows) != len(known)):
        _write_index(folder, rows, stamps)
    kept, duplicates = _one_per_run(rows.values())
    for line in _complaints(kept):
        warn(line)
    once = dict.fromkeys([*problems, *duplicates])  # a damaged block is one problem, not many
    return kept, sorted(once, key=lambda p: (str(p.path), p.message))


def frame(rows: Iterable[RunRow]) -> pd.DataFrame:
    """Runs as a table for pandas: one line per run, one column per setting and metric.

    Columns: ``method``, ``task``, ``model``, ``seed``, ``status``, ``run_id``, the spec's other
    entries (``hyperparameters.rounds`` for nested ones), then every metric by its key.

    Raises :class:`MissingExtra` where pandas is not installed.
    """
    with needs_extra("a table for pandas"):
        import pandas

    rows = list(rows)
    settings = pandas.json_normalize([row.spec for row in rows])
    values = pandas.DataFrame([row.values for row in rows], columns=list(metrics()), dtype=float)
    own = pandas.DataFrame({"status": [r.status for r in rows], "run_id": [r.run_id for r in rows]})
    first = ["method", "task", "model", "seed"]
    rest = settings.columns.difference(first, sort=False)
    return pandas.concat([settings[first], own, settings[rest], values], axis=1)


_Reading = tuple[RunRow | None, list[Problem]]


def _read_rows(chosen: Collection[Entry], workers: int) -> Iterator[_Reading]:
    """Each record in short, or what is wrong with it, in the order given."""
    if workers == 1 or len(chosen) < _WORTH_WORKERS:
        return map(_read_row, chosen)
    return _read_in_processes(chosen, workers)


def _read_in_processes(chosen: Iterable[Entry], workers: int) -> Iterator[_Reading]:
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield from pool.map(_read_row, chosen, chunksize=_CHUNK)


def _read_row(entry: Entry) -> _Reading:
    try:
        record = read(entry)
    except CorruptRecord as error:
        return None, [problem_of(entry.path, error)]
    outcome = outcome_of(record)
    found = [Problem(entry.path, fault) for fault in faults(record, outcome)]
    return (None if found else RunRow.of(record, outcome)), found


def _one_per_run(rows: Iterable[RunRow]) -> tuple[list[RunRow], list[Problem]]:
    """Of several records of one run the one that :func:`one_per_run` keeps, in its order."""
    by_id: dict[str, list[RunRow]] = {}
    for row in rows:
        by_id.setdefault(row.run_id, []).append(row)
    kept, problems = [], []
    for copies in by_id.values():
        first = copies[0]
        if len(copies) > 1:
            (record,), duplicates = one_per_run([row.record for row in copies])
            problems += duplicates
            first = next(row for row in copies if row.path == record.path)
        kept.append(first)
    return sorted(kept, key=_order), problems


def _order(row: RunRow) -> tuple[str, str, str, int, str]:
    return row.task, row.model_name, row.method, row.seed, row.run_id


def _complaints(rows: Sequence[RunRow]) -> list[str]:
    """One line per metric that raised, however many runs it raised on."""
    failed: dict[str, list[RunRow]] = {}
    for row in rows:
        for key in row.errors:
            failed.setdefault(key, []).append(row)
    return [
        f"metric {key!r} ({metrics()[key].origin}) has no value for {len(where)} of {len(rows)} "
        f"runs, e.g. {where[0].path or where[0].run_id}: {where[0].errors[key]}"
        for key, where in failed.items()
    ]


def _name(entry: Entry, folder: Path) -> str:
    return str(entry.path)[len(str(folder)) :].lstrip("/\\")


def _stamp(entry: Entry) -> str:
    """What changes with the bytes of a record."""
    if entry.digest:
        return f"{entry.digest} {entry.size} {entry.mtime_ns}"
    return f"{zlib.crc32(entry.path.read_bytes()):08x} {entry.size}"


@cache
def _fingerprint(registered: tuple[str, ...]) -> str:
    """Changes with whatever can change a row: format, version, metrics, the code behind them."""
    sources = [Path(__file__), *Path(next(iter(evaluation.__path__))).rglob("*.py")]
    modules = {m.compute.__module__ for m in metrics().values()}
    named = (getattr(sys.modules.get(name), "__file__", None) for name in modules)
    sources += [Path(source) for source in named if source]
    code = {zlib.crc32(path.read_bytes()) for path in sources if path.is_file()}
    return json.dumps([FORMAT, version_of("circuitbench"), *registered, *sorted(code)])


def _current() -> bytes:
    return _fingerprint(tuple(f"{key} {m.origin}" for key, m in metrics().items())).encode()


def _read_index(folder: Path) -> dict[str, tuple[str, RunRow]]:
    """Stamp and row by name; nothing if the index is absent, broken, or of other code."""
    path = folder / FILE
    try:
        import pyarrow.parquet as parquet

        if not path.is_file():
            return {}
        source = parquet.ParquetFile(io.BytesIO(path.read_bytes()))
        if (source.schema_arrow.metadata or {}).get(b"circuitbench") != _current():
            return {}
        return _rows(folder, source.read())
    except Exception:  # pyarrow raises of many kinds on damaged files, or is not there
        return {}


def _rows(folder: Path, table: pa.Table) -> dict[str, tuple[str, RunRow]]:
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    value_keys = [key for key in metrics() if f"value {key}" in columns]
    curve_keys = [key for key in metrics() if f"curve {key}" in columns]
    found = {}
    for i, name in enumerate(columns["name"]):
        values = {key: x for key in value_keys if (x := columns[f"value {key}"][i]) is not None}
        queries = columns["queries"][i]
        curves = {
            key: list(zip(queries, x, strict=True))
            for key in curve_keys
            if (x := columns[f"curve {key}"][i]) is not None
        }
        row = RunRow(
            folder / name,
            seed=int(columns["seed"][i]),
            values=values,
            roles=json.loads(columns["roles"][i]),
            curves=curves,
            errors=json.loads(columns["errors"][i]),
            **{field: columns[field][i] for field in (*_TEXTS, *_JSON_TEXTS, *_COUNTS)},
        )
        found[name] = (columns["stamp"][i], row)
    return found


def _write_index(folder: Path, rows: dict[str, RunRow], stamps: dict[str, str]) -> None:
    try:
        import pyarrow
        import pyarrow.json
        import pyarrow.parquet as parquet
    except ImportError:
        return
    text, number, count = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
    ranked = [key for key, metric in metrics().items() if metric.on_ranking is not None]
    schema = pyarrow.schema(
        {
            **dict.fromkeys(("name", "stamp", "seed", "roles", "errors"), text),
            **dict.fromkeys((*_TEXTS, *_JSON_TEXTS), text),
            **dict.fromkeys(_COUNTS, count),
            **dict.fromkeys((f"value {key}" for key in metrics()), number),
            "queries": pyarrow.list_(count),
            **dict.fromkeys((f"curve {key}" for key in ranked), pyarrow.list_(number)),
        },
        {"circuitbench": _current()},
    )
    # By way of JSON: building arrays from Python lists would import pandas, a second's work.
    lines = io.BytesIO()
    for name, row in rows.items():
        lines.write(json.dumps(_line(name, stamps[name], row)).encode() + b"\n")
    lines.seek(0)
    options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    block = pyarrow.json.ReadOptions(block_size=_BLOCK_BYTES)
    target = io.BytesIO()
    try:
        table = pyarrow.json.read_json(lines, block, options) if rows else schema.empty_table()
        parquet.write_table(table.cast(schema), target, compression="zstd")
        write_atomically(folder / FILE, target.getvalue())
    except (InvalidSpec, pyarrow.ArrowException):
        return  # a folder that takes no file, or rows that no column takes, work without


def _line(name: str, stamp: str, row: RunRow) -> dict[str, Any]:
    return {
        "name": name,
        "stamp": stamp,
        "seed": str(row.seed),  # any size
        "roles": json.dumps(dict(row.roles)),
        "errors": json.dumps(dict(row.errors)),
        **{field: getattr(row, field) for field in (*_TEXTS, *_JSON_TEXTS, *_COUNTS)},
        **{f"value {key}": value for key, value in row.values.items()},
        "queries": [q for q, _ in next(iter(row.curves.values()), ())],
        **{f"curve {key}": [value for _, value in curve] for key, curve in row.curves.items()},
    }
