"""What a run leaves behind: one JSON file, atomically written, checksummed, schema-versioned."""

from circuitbench.results.environment import hardware, versions
from circuitbench.results.files import check_folder, remove_leftovers, write_atomically
from circuitbench.results.names import check_name, file_part
from circuitbench.results.plain import plain
from circuitbench.results.record import (
    SCHEMA,
    STATUSES,
    Record,
    run_id,
    truth_of,
)
from circuitbench.results.store import (
    TABLE_FILE,
    Entry,
    Problem,
    entries,
    file_name,
    find_record,
    one_per_run,
    read,
    read_folder,
    read_record,
    record_path,
    write_record,
)

__all__ = [
    "SCHEMA",
    "STATUSES",
    "TABLE_FILE",
    "Entry",
    "Problem",
    "Record",
    "check_folder",
    "check_name",
    "entries",
    "file_name",
    "file_part",
    "find_record",
    "hardware",
    "one_per_run",
    "plain",
    "read",
    "read_folder",
    "read_record",
    "record_path",
    "remove_leftovers",
    "run_id",
    "truth_of",
    "versions",
    "write_atomically",
    "write_record",
]
