"""Benchmarks how well a method finds the circuit inside a transformer.

Importing this package is cheap: torch models, transformer_lens and plug-ins load on use.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("circuitbench")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
