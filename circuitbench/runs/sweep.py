"""Many runs: every method on every task with every seed, resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

from circuitbench.core.errors import InvalidSpec
from circuitbench.models.base import Model
from circuitbench.plugins.method import Learner, TrainingTools
from circuitbench.plugins.registry import load_model
from circuitbench.plugins.tiers import model_for, places
from circuitbench.results import Record, check_folder, read_folder
from circuitbench.runs.once import run_and_write
from circuitbench.runs.plan import Rerun, is_todo
from circuitbench.runs.prepare import Prepared, prepare
from circuitbench.runs.progress import Progress, silent
from circuitbench.runs.spec import RunSpec
from circuitbench.runs.training import training_tools
from circuitbench.runs.unmeasured import is_unmeasured


def grid(
    base: RunSpec, methods: Sequence[str], tasks: Sequence[str], seeds: Sequence[int]
) -> list[RunSpec]:
    """``base`` with every combination, seeds varying slowest so that early stops stay balanced."""
    for kind, values in (("method", methods), ("task", tasks), ("seed", seeds)):
        if not values:
            raise InvalidSpec(f"a sweep needs at least one {kind}")
    return [
        replace(base, method=method, task=task, seed=seed)
        for seed, task, method in product(seeds, tasks, methods)
    ]


def tier_grid(
    base: RunSpec, methods: Sequence[str], tier: str, seeds: Sequence[int]
) -> list[RunSpec]:
    """``base`` with every method on every task of a tier, plantings drawn for every seed.

    Raises:
        UnknownName: there is no such tier.
        InvalidSpec: ``base`` names a model, or there is no method or seed.
    """
    if base.model is not None:
        raise InvalidSpec(f"a tier has models of its own; leave out model {base.model}")
    for kind, values in (("method", methods), ("seed", seeds)):
        if not values:
            raise InvalidSpec(f"a sweep needs at least one {kind}")
    return [
        replace(base, method=method, task=at.task, model=model_for(tier, at, seed), seed=seed)
        for seed, at, method in product(seeds, places(tier), methods)
    ]


def run_all(
    specs: Sequence[RunSpec],
    out: Path,
    progress: Progress = silent,
    started: Callable[[int, RunSpec], None] = lambda index, spec: None,
    *,
    checkpoints: Path | None = None,
    tensorboard: Path | None = None,
    reraise: bool = False,
    rerun: Rerun = "failed",
) -> Iterator[tuple[Record, bool]]:
    """Run what ``out`` does not hold yet; yields each record and whether it is new.

    Every spec is resolved before the first runs, so a wrong name costs nothing, and each model
    is loaded once. A run that failed is recorded and does not stop the others (unless
    ``reraise``, see :func:`circuitbench.runs.run.run`); next time it is run again, from its
    discovery on if it got so far (``rerun`` may say otherwise). Learners save and show their
    training under ``checkpoints`` and ``tensorboard``, each run in a folder named by its id; other
    methods have no use for them.
    """
    check_folder(out)
    model_of: Callable[[str], Model] = cache(load_model)

    def resolve(spec: RunSpec) -> Prepared:
        return prepare(spec, model_of)

    def tools(prepared: Prepared, folder: str = "") -> TrainingTools:
        if not isinstance(prepared.method, Learner):
            return TrainingTools()
        folders = (root and root / folder for root in (checkpoints, tensorboard))
        return training_tools(prepared.method, prepared.spec.method, *folders)

    for spec in {(s.method, s.task, s.model): s for s in specs}.values():
        tools(resolve(spec))
    stored = {record.run_id: record for record in read_folder(out)[0]}
    for index, spec in enumerate(specs):
        started(index, spec)
        prepared = resolve(spec)
        earlier = stored.get(prepared.run_id)
        if not is_todo(earlier, rerun):
            assert earlier is not None
            yield earlier, False
            continue
        unmeasured = earlier if earlier is not None and is_unmeasured(earlier) else None
        record = run_and_write(
            prepared,
            out,
            progress,
            tools=tools(prepared, prepared.run_id),
            reraise=reraise,
            unmeasured=unmeasured,
        )
        stored[prepared.run_id] = record
        yield record, True
