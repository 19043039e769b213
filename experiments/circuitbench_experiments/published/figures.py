"""What papers report, whether a figure of ours can be compared with it, and what comes of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from circuitbench import Model

TOLERANCE = 0.05  # ours; the papers report neither seeds nor intervals
RELATIVE = 0.1
DOES_IT = 0.9  # share of prompts; GPT-2 prefers the right name in 99.3 % (Wang et al. 2022)


class Figure(NamedTuple):
    """One figure of a paper: of a method, by the paper's name and ours (None: there is none)."""

    method: str
    ours: str | None
    column: str
    value: float


@dataclass(frozen=True)
class Paper:
    """What one paper reports.

    Args:
        source: the paper, and where in it.
        transcribed: whether it was copied by hand and not compared with the paper again.
        columns: of its table.
        figures: row by row.
        models: by column the shape of the model: ``layers``, ``heads``, ``d_model``,
            ``vocabulary``.
        notes: in what our figures differ by definition.
    """

    source: str
    transcribed: bool
    columns: tuple[str, ...]
    figures: tuple[Figure, ...]
    models: Mapping[str, Mapping[str, int]]
    notes: tuple[str, ...]

    @property
    def methods(self) -> list[str]:
        """Ours that stand for one of the paper's."""
        return list(dict.fromkeys(f.ours for f in self.figures if f.ours is not None))


@cache
def paper(name: str) -> Paper:
    """``mib``, ``interpbench``, ``acdc`` or ``mechrl``."""
    text = Path(__file__).with_name("figures.yaml").read_text(encoding="utf-8")
    said: dict[str, Any] = yaml.safe_load(text)[name]
    columns = tuple(said["columns"])
    figures = [
        Figure(method, ours, column, float(value))
        for method, ours, *values in said["rows"]
        for column, value in zip(columns, values, strict=True)
        if value is not None
    ]
    models = said.get("models") or dict.fromkeys(columns, said["model"])
    return Paper(
        said["source"], said["transcribed"], columns, tuple(figures), models, tuple(said["notes"])
    )


def stand_in(model: Model, shape: Mapping[str, int], right: float) -> str:
    """Why a model is not the one that a paper measured; empty where it may be.

    Args:
        shape: of the paper's model.
        right: share of prompts on which the model prefers the right answer.
    """
    found = {"layers": model.n_layers, "heads": model.n_heads}
    if model.transformer is not None:
        config = model.transformer.config
        found |= {"d_model": config.d_model, "vocabulary": config.d_vocab}
    other = [
        f"{key} {found[key]} instead of {n}" for key, n in shape.items() if found.get(key, n) != n
    ]
    if other:
        return ", ".join(other)
    if right < DOES_IT:
        return f"it prefers the right answer on {right:.0%} of the prompts only"
    return ""


@dataclass(frozen=True)
class Row:
    """A figure of a paper and ours.

    Args:
        figure: the paper's.
        values: ours, one per seed; none where ``missing`` says why.
        missing: why there are none.
        other: why ours cannot be compared; empty where it can.
    """

    figure: Figure
    values: Sequence[float] = ()
    missing: str = ""
    other: str = ""

    @property
    def verdict(self) -> str:
        """``agrees`` within 0.05 or a tenth of the published figure, ``differs``, or neither."""
        if not self.values:
            return self.missing
        if self.other:
            return "cannot be compared"
        allowed = max(TOLERANCE, RELATIVE * abs(self.figure.value))
        near = abs(float(np.mean(self.values)) - self.figure.value) <= allowed
        return "agrees" if near else "differs"

    @property
    def shown(self) -> str:
        """Our mean, and the range over seeds."""
        if not self.values:
            return ""
        low, high = min(self.values), max(self.values)
        mean = f"{float(np.mean(self.values)):.3f}"
        return mean if len(self.values) == 1 else f"{mean} ({low:.3f} to {high:.3f})"


def rows_of(
    said: Paper,
    values: Mapping[tuple[str, str], Sequence[float]],
    missing: Mapping[tuple[str, str], str],
    other: Mapping[str, str],
    chosen: Collection[str] | None = None,
) -> list[Row]:
    """Every figure of a paper with ours.

    Args:
        values: ours by method and column.
        missing: why there is none, by method and column.
        other: why figures of a column cannot be compared.
        chosen: methods that were run, if not all.
    """
    rows = []
    for figure in said.figures:
        key = str(figure.ours), figure.column
        if figure.ours is None:
            why = "no counterpart here"
        elif chosen is not None and figure.ours not in chosen:
            why = "left out"
        else:
            why = missing.get(key, "not measured")
        rows.append(Row(figure, values.get(key, ()), why, other.get(figure.column, "")))
    return rows
