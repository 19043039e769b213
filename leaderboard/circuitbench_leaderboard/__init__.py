"""Tables, figures and a page over many records; comparing result folders."""

from circuitbench_leaderboard.compare import Comparison, compare
from circuitbench_leaderboard.render import FORMATS, load_board, render

__all__ = ["FORMATS", "Comparison", "compare", "load_board", "render"]
