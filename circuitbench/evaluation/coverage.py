"""Which cells (task, seed) a comparison rests on, so that no mean skips a missing one.

A method is ranked only over a *reference grid* of cells, and only if it has all of them. The
others are shown with their coverage.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Cell = TypeVar("Cell", bound=Hashable)


@dataclass(frozen=True)
class Coverage:
    """How much of the reference grid one method has."""

    done: int
    expected: int

    @property
    def complete(self) -> bool:
        """Whether the method can be ranked: no cell of the grid is missing."""
        return 0 < self.expected == self.done

    @property
    def share(self) -> float:
        """In [0, 1]; 0 for an empty grid."""
        return self.done / self.expected if self.expected else 0.0


def reference_grid(cells: Mapping[str, Collection[Cell]]) -> frozenset[Cell]:
    """The cells to compare methods on, where nobody declared them.

    The cell set that most methods have exactly; of equally frequent ones the largest, then the
    first in sorted order. So one method with an extra task does not make all others incomplete,
    one that failed a cell does not shrink the grid, and a method that is incomplete on the
    result cannot have changed it: it only adds to the count of its own, losing, set.

    Args:
        cells: per method, the cells with a value (a metric that is None is no value).
    """
    sets = [frozenset(done) for done in cells.values()]

    def weight(grid: frozenset[Cell]) -> tuple[int, int, list[str]]:
        return sets.count(grid), len(grid), sorted(map(repr, grid))

    return max(sets, key=weight, default=frozenset())


def coverage(cells: Mapping[str, Collection[Cell]], grid: Collection[Cell]) -> dict[str, Coverage]:
    """Per method, how much of ``grid`` it has."""
    wanted = frozenset(grid)
    return {name: Coverage(len(wanted & set(done)), len(wanted)) for name, done in cells.items()}


def score_table(
    scores: Mapping[str, Mapping[tuple[str, int], float]], grid: Collection[tuple[str, int]]
) -> tuple[list[str], list[tuple[str, int]], np.ndarray]:
    """The complete methods' scores on a grid of (task, seed) cells.

    Returns:
        method names (sorted), cells (sorted) and scores ``[methods, cells]``: columns are
        matched pairs for :func:`circuitbench.evaluation.statistics.paired_test`.
    """
    cover = coverage(scores, grid)
    names = sorted(name for name, c in cover.items() if c.complete)
    cells = sorted(grid)
    table = np.array([[scores[name][cell] for cell in cells] for name in names], dtype=float)
    return names, cells, table.reshape(len(names), len(cells))


def by_task(row: np.ndarray, cells: Collection[tuple[str, int]]) -> list[np.ndarray]:
    """Split one row of :func:`score_table` into strata: per task (sorted), scores by seed."""
    tasks = np.array([task for task, _ in cells])
    return [row[tasks == task] for task in sorted(set(tasks.tolist()))]


def task_means(table: np.ndarray, cells: Collection[tuple[str, int]]) -> np.ndarray:
    """Mean over seeds, ``[tasks, methods]``: the datasets of a critical-difference diagram."""
    return np.array([[stratum.mean() for stratum in by_task(row, cells)] for row in table]).T
