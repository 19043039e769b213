"""Who is on the board: records grouped into entries, and the grid that entries must fill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from circuitbench.results import Record
from circuitbench.results.record import NOT_IDENTITY, canonical


class Cell(NamedTuple):
    """A problem to solve: a task in a model."""

    task: str
    model: str

    def __str__(self) -> str:
        return f"{self.task} / {self.model}"


@dataclass(frozen=True)
class Entry:
    """A method in one setting: all runs that differ by task, model and seed only.

    ``label`` is the method's name, followed by what tells its settings apart where the folder
    holds several of them. ``records`` are in the order of cell and seed.
    """

    method: str
    label: str
    family: str
    settings: Mapping[str, str]
    records: tuple[Record, ...]

    @cached_property
    def runs(self) -> dict[Cell, dict[int, Record]]:
        """The finished runs: cell -> seed -> record."""
        found: dict[Cell, dict[int, Record]] = {}
        for record in self.records:
            if record.status == "done":
                found.setdefault(Cell(record.task, record.model_name), {})[record.seed] = record
        return found

    def values(self, of: Callable[[Record], float | None]) -> dict[Cell, dict[int, float]]:
        """A number of every finished run that has it: cell -> seed -> value."""
        numbers = {
            cell: {seed: v for seed, r in runs.items() if (v := of(r)) is not None}
            for cell, runs in self.runs.items()
        }
        return {cell: by_seed for cell, by_seed in numbers.items() if by_seed}


class Grid(NamedTuple):
    """The runs an entry must have finished to be ranked: each of the cells with each seed."""

    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many runs that is."""
        return len(self.cells) * len(self.seeds)

    def covered(self, values: Mapping[Cell, Mapping[int, float]]) -> int:
        """How many of the runs are there."""
        return sum(seed in values.get(cell, {}) for cell in self.cells for seed in self.seeds)


def gather(records: Iterable[Record]) -> list[Entry]:
    """Group records into entries, ordered by label.

    Runs that differ in anything that can change a number, a version say, are never averaged:
    they make two entries.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    settings: dict[tuple[str, str], dict[str, str]] = {}
    for record in records:
        flat = _settings(record)
        key = (record.method, canonical(flat))
        groups.setdefault(key, []).append(record)
        settings[key] = flat
    entries = []
    for (method, text), members in groups.items():
        siblings = [flat for (name, _), flat in settings.items() if name == method]
        apart = _difference(settings[method, text], siblings)
        ordered = sorted(members, key=lambda r: (r.task, r.model_name, r.seed))
        families = sorted({r.family for r in members if r.family})
        entries.append(
            Entry(
                method,
                f"{method} ({', '.join(apart)})" if apart else method,
                families[0] if families else "other",
                settings[method, text],
                tuple(ordered),
            )
        )
    return sorted(entries, key=lambda e: (e.label, canonical(dict(e.settings))))


def widest_grid(filled: Iterable[Mapping[Cell, Mapping[int, float]]]) -> Grid:
    """The widest grid that at least one entry fills: most runs, then most cells.

    Whoever fills it is complete. It is always a grid that some complete entry filled, so an
    entry that is incomplete by it could not have changed it: adding one never moves the others.
    """
    filled = list(filled)
    candidates: set[Grid] = set()
    for values in filled:
        seed_sets = [frozenset(by_seed) for by_seed in values.values()]
        for seeds in {*seed_sets, frozenset.intersection(*seed_sets)} if seed_sets else ():
            cells = sorted(cell for cell, by_seed in values.items() if seeds <= by_seed.keys())
            if seeds:
                candidates.add(Grid(tuple(cells), tuple(sorted(seeds))))

    def preference(grid: Grid) -> tuple[Any, ...]:
        complete = sum(grid.covered(values) == grid.size for values in filled)
        return (-grid.size, -len(grid.cells), -complete, grid)

    return min(candidates, key=preference, default=Grid((), ()))


def all_cells(entries: Sequence[Entry]) -> list[Cell]:
    """Every cell that any record is about, finished or not."""
    return sorted({Cell(r.task, r.model_name) for e in entries for r in e.records})


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings with dotted names, values as text."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _settings(record: Record) -> dict[str, str]:
    spec = {k: v for k, v in record.spec.items() if k not in ("task", "model", "method", "seed")}
    versions = {k: v for k, v in record.versions.items() if k not in NOT_IDENTITY}
    return flat_settings({"spec": spec, "versions": versions})


def _difference(own: Mapping[str, str], siblings: Sequence[Mapping[str, str]]) -> list[str]:
    keys = {key for flat in siblings for key in flat}
    varying = {k for k in keys if len({flat.get(k) for flat in siblings}) > 1}
    # A method may have a hyperparameter that is called like an entry of the spec.
    short = Counter(_short(key) for key in keys)
    names = {key: _short(key) if short[_short(key)] == 1 else key for key in varying}
    return [
        f"{name}={own.get(key, 'unset')}" for name, key in sorted((n, k) for k, n in names.items())
    ]


def _short(key: str) -> str:
    for prefix in ("spec.hyperparameters.", "spec.", "versions."):
        if key.startswith(prefix):
            return key.removeprefix(prefix)
    return key
