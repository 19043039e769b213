"""Tables, figures and a page over many records; comparing and validating result folders."""

from circuitbench_leaderboard.compare import Comparison, compare
from circuitbench_leaderboard.render import FORMATS, load_board, render
from circuitbench_leaderboard.validate import Report, validate

__all__ = [
    "FORMATS",
    "Comparison",
    "Report",
    "compare",
    "load_board",
    "render",
    "validate",
]
