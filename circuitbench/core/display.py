"""How values look: one sheet of facts, shown on a terminal (rich) and in a notebook (HTML)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # looking at nothing costs nothing
    import numpy as np
    from rich.console import RenderableType

Row = tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """A number per head, to be seen as a heat map.

    Args:
        values: ``[n_layers, n_heads]``, finite.
        marked: ``[n_layers, n_heads]`` bool: heads that are chosen, or true.
    """

    values: np.ndarray
    marked: np.ndarray

    @property
    def shades(self) -> np.ndarray:
        """The values from 0 (lowest) to 1 (highest); 0 where all are equal."""
        low, high = float(self.values.min()), float(self.values.max())
        shades: np.ndarray = (self.values - low) / ((high - low) or 1.0)
        return shades


@dataclass(frozen=True)
class Sheet:
    """What there is to see of one value.

    Args:
        title: what it is.
        rows: facts, text by column.
        columns: headings of the columns; none: two columns, name and value.
        grid: a heat map of heads.
        note: a line under the table.
    """

    title: str
    rows: Sequence[Row] = ()
    columns: Row = ()
    grid: Grid | None = None
    note: str = ""

    def rich(self) -> RenderableType:
        """For a terminal."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        parts: list[RenderableType] = [Text(self.title, style="bold")]
        if self.rows:
            table = Table(box=None, pad_edge=False, show_header=bool(self.columns))
            names = self.columns or ("",) * len(self.rows[0])
            for i, name in enumerate(names):
                right = i > 0 and bool(self.columns)
                table.add_column(name, justify="right" if right else "left", overflow="fold")
            for row in self.rows:
                table.add_row(*map(Text, row))
            parts.append(table)
        if self.grid is not None:
            for layer, shades in enumerate(self.grid.shades):
                line = Text(f"{layer:>4} ")
                for shade, marked in zip(shades, self.grid.marked[layer], strict=True):
                    red, green, blue = _colour(float(shade))
                    ink = "white" if shade > 0.5 else "black"
                    line.append(
                        "● " if marked else "  ", style=f"{ink} on rgb({red},{green},{blue})"
                    )
                parts.append(line)
        if self.note:
            parts.append(Text(self.note, style="dim"))
        return Group(*parts)

    def html(self) -> str:
        """For a notebook: plain tables, every text escaped."""
        parts = [f"<p><strong>{escape(self.title)}</strong></p>"]
        if self.rows:
            head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
            rows = "".join(
                "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>"
                for row in self.rows
            )
            parts.append(f"<table>{f'<tr>{head}</tr>' if head else ''}{rows}</table>")
        if self.grid is not None:
            parts.append(_html_grid(self.grid))
        if self.note:
            parts.append(f"<p>{escape(self.note)}</p>")
        return "<div>" + "".join(parts) + "</div>"


class Displayed(ABC):
    """Something that rich and notebooks know how to show."""

    @abstractmethod
    def sheet(self) -> Sheet:
        """What there is to see."""

    def __rich__(self) -> RenderableType:
        return self.sheet().rich()

    def _repr_html_(self) -> str:
        return self.sheet().html()


def listed(items: Sequence[object], most: int = 20) -> str:
    """Items as text, the first of them if there are many."""
    shown = " ".join(map(str, items[:most])) or "none"
    return shown if len(items) <= most else f"{shown} ... ({len(items)} in all)"


def _html_grid(grid: Grid) -> str:
    heads = "".join(f"<th>{head}</th>" for head in range(grid.values.shape[1]))
    rows = []
    for layer, shades in enumerate(grid.shades):
        cells = []
        for head, shade in enumerate(shades):
            red, green, blue = _colour(float(shade))
            mark = "●" if grid.marked[layer, head] else ""
            cells.append(
                f'<td title="{layer}.{head}: {float(grid.values[layer, head]):.4g}" '
                f'style="background:rgb({red},{green},{blue});'
                f'color:{"white" if shade > 0.5 else "black"};text-align:center">{mark}</td>'
            )
        rows.append(f"<tr><th>{layer}</th>{''.join(cells)}</tr>")
    return f"<table><tr><th></th>{heads}</tr>{''.join(rows)}</table>"


def _colour(shade: float) -> tuple[int, int, int]:
    """White to dark blue."""
    return tuple(round(a + (b - a) * shade) for a, b in zip((255,) * 3, (8, 48, 107), strict=True))  # type: ignore[return-value]
