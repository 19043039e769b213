"""A small RASP: programs over sequences, written as steps a transformer layer can take.

After Weiss et al. 2021 (arXiv 2106.06981): ``select`` pairs queries with keys, ``aggregate``
copies values along a selection, ``width`` counts a selection, ``map`` is any elementwise function.
:mod:`circuitbench.models.compiled.compiler` turns a program into weights.

Everything is causal and categorical. A :class:`Sequence` has, at each position, one of finitely
many values or none (it is *undefined* there, and no step reads it there).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from circuitbench.core.errors import InvalidSpec

Value = Hashable


@dataclass(frozen=True, eq=False)
class Sequence:
    """A value per position.

    ``depth`` counts sublayers: 0 for the embedding, ``2 * layer + 1`` after that layer's heads,
    ``2 * layer + 2`` after its MLP.
    """

    values: tuple[Value, ...]
    depth: int = 0


@dataclass(frozen=True, eq=False)
class Select:
    """Scores of keys for queries; a query of None means that all queries score alike.

    A query attends to the keys of highest score, if that is at least 1, and ties share. Keys and
    queries that are undefined score 0.
    """

    query: Sequence | None
    key: Sequence
    score: Callable[..., float]

    def scores(self) -> list[list[float]]:
        """``[query value, key value]``; a single row if there is no query."""
        if self.query is None:
            return [[float(self.score(k)) for k in self.key.values]]
        return [[float(self.score(q, k)) for k in self.key.values] for q in self.query.values]

    @property
    def depth(self) -> int:
        """The depth at which both sides are known."""
        return max(self.key.depth, self.query.depth if self.query else 0)


@dataclass(frozen=True, eq=False)
class Aggregate:
    """A head that copies ``value`` from the selected keys; ``default`` where there are none."""

    role: str
    layer: int
    select: Select
    value: Sequence
    out: Sequence
    default: Value | None


@dataclass(frozen=True, eq=False)
class Width:
    """A head that counts the selected keys, and the MLP that turns its output into a number.

    The head attends to the selected keys and BOS alike, so that BOS gets ``1 / (1 + count)``.
    """

    role: str
    layer: int
    select: Select
    out: Sequence


@dataclass(frozen=True, eq=False)
class Map:
    """An MLP that gives ``table[values]`` of its inputs, undefined for values it doesn't list."""

    layer: int
    inputs: tuple[Sequence, ...]
    table: dict[tuple[Value, ...], Value]
    out: Sequence


Step = Aggregate | Width | Map


@dataclass
class Program:
    """Collects steps, placing each in the first layer where its inputs are known.

    Args:
        symbols: the input tokens, without BOS.
        length: positions after BOS, numbered from 1; BOS has neither token nor position.
    """

    symbols: tuple[str, ...]
    length: int
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(set(self.symbols)) != len(self.symbols) or not self.symbols:
            raise InvalidSpec(f"a program's symbols must be distinct, not {self.symbols}")
        if self.length < 1:
            raise InvalidSpec(f"a program needs at least 1 position, not {self.length}")
        self.tokens = Sequence(tuple(self.symbols))
        self.positions = Sequence(tuple(range(1, self.length + 1)))

    def aggregate(
        self, role: str, select: Select, value: Sequence, default: Value | None = None
    ) -> Sequence:
        """Copy ``value`` from the selected keys (their mixture, should they disagree)."""
        if default is not None and default not in value.values:
            raise InvalidSpec(f"{role}: default {default!r} is not a value of what is copied")
        layer = (max(select.depth, value.depth) + 1) // 2
        out = Sequence(value.values, 2 * layer + 1)
        self._add(Aggregate(self._new(role), layer, select, value, out, default))
        return out

    def width(self, role: str, select: Select, most: int) -> Sequence:
        """The number of selected keys, 0 to ``most``; undefined where the query is."""
        if most < 1:
            raise InvalidSpec(f"{role}: a count of at most {most} says nothing; give 1 or more")
        wrong = sorted({s for row in select.scores() for s in row} - {0.0, 1.0})
        if wrong:
            raise InvalidSpec(f"{role}: only yes-or-no selections can be counted, not {wrong[0]}")
        layer = (select.depth + 1) // 2
        out = Sequence(tuple(range(most + 1)), 2 * layer + 2)
        self._add(Width(self._new(role), layer, select, out))
        return out

    def map(self, function: Callable[..., Any], *inputs: Sequence) -> Sequence:
        """``function`` of the inputs' values; where it gives None the result is undefined."""
        combinations = itertools.product(*[x.values for x in inputs])
        table = {c: function(*c) for c in combinations}
        table = {c: y for c, y in table.items() if y is not None}
        if not table:
            raise InvalidSpec("a map that is undefined for all values has no use")
        layer = max(x.depth for x in inputs) // 2
        out = Sequence(tuple(_distinct(table.values())), 2 * layer + 2)
        self._add(Map(layer, inputs, table, out))
        return out

    @property
    def n_layers(self) -> int:
        """Layers the steps so far take up."""
        return max((step.layer + 1 for step in self.steps), default=0)

    def _new(self, role: str) -> str:
        if any(getattr(step, "role", None) == role for step in self.steps):
            raise InvalidSpec(f"two heads cannot both be called {role!r}")
        return role

    def _add(self, step: Step) -> None:
        self.steps.append(step)


def _distinct(values: Iterable[Value]) -> list[Value]:
    return list(dict.fromkeys(values))
