"""Circuits in files that other tools read and write: EAP-IG and MIB, auto-circuit, tables."""

from circuitbench.files.circuit_file import PARTS, RANKINGS, CircuitFile, Config, Ranking
from circuitbench.files.formats import FORMATS, Format, fitted, losses, named, read, write

__all__ = [
    "FORMATS",
    "PARTS",
    "RANKINGS",
    "CircuitFile",
    "Config",
    "Format",
    "Ranking",
    "fitted",
    "losses",
    "named",
    "read",
    "write",
]
