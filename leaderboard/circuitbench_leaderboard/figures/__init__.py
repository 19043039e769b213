"""Figures of a board: readable in print and by the colour-blind, axes labelled with units.

Every method keeps its colour, marker and line style in all figures, so that none of the three
is needed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from circuitbench.results import write_atomically
from circuitbench_leaderboard.board import Board
from circuitbench_leaderboard.figures import heads, methods
from circuitbench_leaderboard.figures.style import Drawing, house_style

MAKERS: tuple[Callable[[Board], Iterator[Drawing]], ...] = (
    methods.quality_by_queries,
    methods.quality_by_difficulty,
    methods.performance_profiles,
    methods.mean_ranks,
    methods.role_recall,
    heads.truth_against_scores,
    heads.ablation_effects,
)
NAMES = (
    "quality-by-queries",
    "quality-by-difficulty",
    "performance-profiles",
    "critical-difference",
    "role-recall",
    "ablation-effect",
)


def draw(board: Board) -> list[Drawing]:
    """Every figure that the board has the data for."""
    with house_style("board"):
        return [drawing for make in MAKERS for drawing in make(board)]


def write_figures(drawings: list[Drawing], folder: Path) -> list[Path]:
    """Write each as PNG and SVG; raises :class:`InvalidSpec` if ``folder`` won't take them.

    Figures of ours that an earlier board left there and this one does not have are removed: they
    would be taken for this one's.
    """
    paths = []
    for drawing in drawings:
        for suffix, content in (("png", drawing.png()), ("svg", drawing.svg())):
            path = folder / f"{drawing.name}.{suffix}"
            write_atomically(path, content)
            paths.append(path)
    for stem in ("heads-*", "quality-by-queries-*", "critical-difference-*", *NAMES):
        for path in [*folder.glob(f"{stem}.png"), *folder.glob(f"{stem}.svg")]:
            if path not in paths:
                path.unlink()
    return paths
