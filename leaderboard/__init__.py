"""Tables, figures and a page over many records; comparing and validating result folders."""

from circuitbench.leaderboard.render import FORMATS, load_board, render

__all__ = ["FORMATS", "load_board", "render"]
