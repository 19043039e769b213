"""What all figures share: paper, ink, and how one becomes a file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from circuitbench_leaderboard.board import Board
from circuitbench_leaderboard.standing import Ranking, Standing

# On dark paper this one colour becomes light; nothing else may use it.
INK = "#24292e"
DARK_PAPER, DARK_INK = "#1a1e23", "#e6e9ec"  # the page's own
MUTED = "#8b949e"
MARKERS = "osD^vPX*<>hp"
LEGEND_LINE = 0.19  # inches
LINES: tuple[str, ...] = ("-", "--", "-.", ":")
# Without the palette's yellow, which paper swallows.
COLOURS = [colour for i, colour in enumerate(sns.color_palette("colorblind")) if i != 8]


@dataclass(frozen=True)
class Drawing:
    """A figure with what a caption and a screen reader say about it."""

    name: str
    title: str
    alt: str
    figure: Figure

    def __post_init__(self) -> None:
        # Lay out once: it takes longer than drawing, and each file format would do it again.
        if self.figure.get_layout_engine() is not None:
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")

    @property
    def wide(self) -> bool:
        """Whether it needs the whole width of a page."""
        return bool(self.figure.get_figwidth() > 7)

    def png(self) -> bytes:
        """Bitmap at 200 dots per inch on white."""
        out = io.BytesIO()
        self.figure.savefig(out, format="png", dpi=200, facecolor="white")
        return out.getvalue()

    def svg(self) -> str:
        """Vector graphics with real text; the same board gives the same bytes.

        On white, or in a browser that is set to dark on dark paper with light ink.
        """
        out = io.StringIO()
        with house_style(self.name):
            self.figure.savefig(out, format="svg", metadata={"Date": None}, facecolor="none")
        text = out.getvalue()
        start = text.index(">", text.index("<svg")) + 1
        return f"{text[:start]}{_PAPER}{text[start:]}"


# The style of an element of matplotlib's stands in the element; only "important" rules precede it.
_PAPER = (
    "<style>@media (prefers-color-scheme: dark) {"
    f" .paper {{ fill: {DARK_PAPER} }}"
    f' [style*="fill: {INK}"] {{ fill: {DARK_INK} !important }}'
    f' [style*="stroke: {INK}"] {{ stroke: {DARK_INK} !important }}'
    ' }</style><rect class="paper" width="100%" height="100%" fill="white"/>'
)


@dataclass(frozen=True)
class Look:
    """How one method is drawn, the same in every figure."""

    colour: tuple[float, float, float]
    marker: str
    line: str


@contextmanager
def house_style(salt: str) -> Iterator[None]:
    """Drawing inside has our fonts and inks; ``salt`` fixes the ids in SVG files."""
    settings: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.labelsize": 9,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "grid.color": MUTED,
        "grid.alpha": 0.25,
        **dict.fromkeys(
            ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor"), INK
        ),
        **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    }
    # Layout may complain that a crowded figure has little room; it is drawn all the same.
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def looks_of(board: Board) -> dict[str, Look]:
    """By an entry's label."""
    return {
        entry.label: Look(
            COLOURS[i % len(COLOURS)],
            MARKERS[i % len(MARKERS)],
            # Once all markers are used up, the next round has other lines.
            LINES[(i + i // len(MARKERS)) % len(LINES)],
        )
        for i, entry in enumerate(board.entries)
    }


def ranked(ranking: Ranking) -> list[Standing]:
    """The complete entries, best first."""
    return [standing for standing in ranking.standings if standing.rank is not None]


def new_axes(width: float = 6.4, height: float = 3.8) -> tuple[Figure, Axes]:
    """A figure of that many inches with one plot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True)
    return figure, axes


def legend_beside(axes: Axes) -> None:
    """The legend to the right of the plot, never over the data; the figure grows to hold it."""
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), borderaxespad=0)
    figure = axes.get_figure(root=True)
    if figure is not None:
        needed = LEGEND_LINE * (len(legend.get_texts()) + 3)  # and room for the x axis
        figure.set_figheight(max(figure.get_figheight(), needed))
