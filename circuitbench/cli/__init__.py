"""The command line."""

from circuitbench.cli.commands import cli, main

__all__ = ["cli", "main"]
