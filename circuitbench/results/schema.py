"""The JSON Schema of a record's file; ``python -m circuitbench.results.schema`` writes it anew."""

from __future__ import annotations

import json
from pathlib import Path

from circuitbench.results.record import SCHEMA, Record

PATH = Path(__file__).with_name("record.schema.json")


def text() -> str:
    """The schema of what stands in a file: the record's entries, and those that seal it."""
    of_record = Record.model_json_schema()
    first = {
        "schema": {"const": SCHEMA, "description": "Version of this schema."},
        "run_id": {
            "type": "string",
            "pattern": "^[0-9a-f]{16}$",
            "description": "SHA-256 of spec and versions (but the commit), as far as needed.",
        },
    }
    seal = {
        "checksum": {
            "type": "string",
            "pattern": "^[0-9a-f]{64}$",
            "description": "SHA-256 of all bytes of the file before this line.",
        }
    }
    properties = {**first, **of_record["properties"], **seal}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **of_record,
        "title": "circuitbench record",
        "description": "One run: what happened. No metric that follows from discovery and truth.",
        "properties": properties,
        "required": list(properties),
    }
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
