"""What a run leaves behind: one JSON file, atomically written, checksummed, schema-versioned."""

from circuitbench.results.environment import hardware, versions
from circuitbench.results.record import (
    SCHEMA,
    STATUSES,
    Record,
    check_name,
    plain,
    run_id,
)
from circuitbench.results.store import (
    Problem,
    check_folder,
    read_folder,
    read_record,
    record_path,
    write_record,
)

__all__ = [
    "SCHEMA",
    "STATUSES",
    "Problem",
    "Record",
    "check_folder",
    "check_name",
    "hardware",
    "plain",
    "read_folder",
    "read_record",
    "record_path",
    "run_id",
    "versions",
    "write_record",
]
