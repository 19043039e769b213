"""Who is on the board: runs grouped into entries, and the grid that entries must fill."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from circuitbench.plugins.tiers import preset_of
from circuitbench.results.record import NOT_IDENTITY, canonical
from circuitbench.results.run_row import RunRow
from circuitbench_leaderboard.groups import NO_TRAINING, TRACKS, track_of

Value = Callable[[RunRow], float | None]


class TaskOnModel(NamedTuple):
    """What a method is put to: a task on a model."""

    task: str
    model: str

    def __str__(self) -> str:
        return f"{self.task} / {self.model}"

    @classmethod
    def of(cls, run: RunRow) -> TaskOnModel:
        """Where a run took place. Plantings that a tier draws for its seeds are one model."""
        preset = preset_of(run.task, run.model_name, run.seed)
        return cls(run.task, run.model_name if preset is None else f"{preset}@drawn")


@dataclass(frozen=True)
class Entry:
    """A method in one setting: all runs that differ by task, model and seed only.

    ``label`` is the method's name, followed by what tells its settings apart where the folder
    holds several of them. ``runs`` are in the order of task, model and seed. ``track``, what it
    learned on, is part of its setting: one of :data:`circuitbench_leaderboard.groups.TRACKS`.
    """

    method: str
    label: str
    family: str
    settings: Mapping[str, str]
    runs: tuple[RunRow, ...]
    track: str = NO_TRAINING

    @cached_property
    def finished(self) -> dict[TaskOnModel, dict[int, RunRow]]:
        """The finished runs: task on model -> seed -> run."""
        found: dict[TaskOnModel, dict[int, RunRow]] = {}
        for run in self.runs:
            if run.status == "done":
                found.setdefault(TaskOnModel.of(run), {})[run.seed] = run
        return found

    def values(
        self, of: Value, tasks: Collection[TaskOnModel] | None = None
    ) -> dict[TaskOnModel, dict[int, float]]:
        """A number of every finished run that has it: task on model -> seed -> value.

        ``tasks`` asks for those on these alone.
        """
        found = self.finished
        numbers = {
            task: {seed: v for seed, run in found[task].items() if (v := of(run)) is not None}
            for task in (found if tasks is None else [task for task in tasks if task in found])
        }
        return {task: by_seed for task, by_seed in numbers.items() if by_seed}


class Grid(NamedTuple):
    """The runs an entry must have finished to be ranked: each of the tasks with each seed."""

    tasks: tuple[TaskOnModel, ...]
    seeds: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many runs that is."""
        return len(self.tasks) * len(self.seeds)

    def covered(self, values: Mapping[TaskOnModel, Mapping[int, float]]) -> int:
        """How many of the runs are there."""
        return sum(seed in values.get(task, {}) for task in self.tasks for seed in self.seeds)


def gather(runs: Iterable[RunRow]) -> list[Entry]:
    """Group runs into entries, ordered by label.

    Runs that differ in anything that can change a number, a version say, are never averaged:
    they make two entries.
    """
    groups: dict[tuple[str, str], list[RunRow]] = {}
    for run in runs:
        key = (run.method, _identity(run.settings, run.versions_text)[0])
        groups.setdefault(key, []).append(run)
    settings = {
        key: _identity(members[0].settings, members[0].versions_text)[1]
        for key, members in groups.items()
    }
    siblings: dict[str, list[Mapping[str, str]]] = {}
    for (method, _), flat in settings.items():
        siblings.setdefault(method, []).append(flat)
    entries = []
    for (method, text), members in groups.items():
        apart = _difference(settings[method, text], siblings[method])
        families = sorted({family for run in members if (family := run.family)})
        entries.append(
            Entry(
                method,
                f"{method} ({', '.join(apart)})" if apart else method,
                families[0] if families else "other",
                settings[method, text],
                tuple(sorted(members, key=lambda r: (TaskOnModel.of(r), r.seed, r.model_name))),
                _track(members),
            )
        )
    return sorted(entries, key=lambda e: (e.label, canonical(dict(e.settings))))


def _track(runs: Sequence[RunRow]) -> str:
    """The track of an entry: that of the run that learned most, if one of them failed early, say."""
    found = {track_of(run) for run in runs}
    return max(found, key=list(TRACKS.values()).index)


def external_entries(runs: Iterable[RunRow]) -> tuple[Entry, ...]:
    """Circuits found elsewhere by name, each with all its files, by task and model."""
    named: dict[str, list[RunRow]] = {}
    for run in runs:
        named.setdefault(run.method, []).append(run)
    return tuple(
        Entry(
            name,
            name,
            members[0].family or "other",
            {},
            tuple(sorted(members, key=lambda r: (r.task, r.model_name, r.created, r.run_id))),
        )
        for name, members in sorted(named.items())
    )


def widest_grid(filled: Iterable[Mapping[TaskOnModel, Mapping[int, float]]]) -> Grid:
    """The widest grid that at least one entry fills: most runs, then most tasks.

    Whoever fills it is complete. It is always a grid that some complete entry filled, so an
    entry that is incomplete by it could not have changed it: adding one never moves the others.
    """
    filled = list(filled)
    candidates: set[Grid] = set()
    for values in filled:
        seed_sets = {frozenset(by_seed) for by_seed in values.values()}
        for seeds in {*seed_sets, frozenset.intersection(*seed_sets)} if seed_sets else ():
            tasks = sorted(task for task, by_seed in values.items() if seeds <= by_seed.keys())
            if seeds:
                candidates.add(Grid(tuple(tasks), tuple(sorted(seeds))))

    def preference(grid: Grid) -> tuple[Any, ...]:
        complete = sum(grid.covered(values) == grid.size for values in filled)
        return (-grid.size, -len(grid.tasks), -complete, grid)

    return min(candidates, key=preference, default=Grid((), ()))


def all_tasks(entries: Sequence[Entry]) -> list[TaskOnModel]:
    """Every task on a model that any run is about, finished or not."""
    return sorted({TaskOnModel.of(run) for entry in entries for run in entry.runs})


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings with dotted names, values as text."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


# Thousands of runs share a few settings.
@lru_cache(maxsize=4096)
def _identity(settings: str, versions: str) -> tuple[str, Mapping[str, str]]:
    """What tells entries of a method apart, as one text and as dotted names."""
    kept = {k: v for k, v in json.loads(versions).items() if k not in NOT_IDENTITY}
    flat = flat_settings({"spec": json.loads(settings), "versions": kept})
    return canonical(flat), flat


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
