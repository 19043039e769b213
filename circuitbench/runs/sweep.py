"""Many runs: every method on every task with every seed, resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from circuitbench.core.errors import InvalidSpec
from circuitbench.plugins.method import Learner, TrainingTools
from circuitbench.results import Record, check_folder, read_folder, write_record
from circuitbench.runs.run import Prepared, Progress, prepare, run, silent
from circuitbench.runs.spec import RunSpec
from circuitbench.runs.training import training_tools


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


def parse_names(text: str) -> list[str]:
    """Names separated by commas, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def parse_seeds(text: str) -> list[int]:
    """``"0,1,2"`` or ``"0-4"`` or both mixed; raises :class:`InvalidSpec` on anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InvalidSpec(f"seeds must look like 0,1,2 or 0-4, not {text!r}")
        seeds += range(int(first), int(last) + 1) if dash else [int(first)]
    if not seeds or len(seeds) > 10_000:
        raise InvalidSpec(f"{text!r} names {len(seeds)} seeds; expected between 1 and 10000")
    return list(dict.fromkeys(seeds))


def run_all(
    specs: Sequence[RunSpec],
    out: Path,
    progress: Progress = silent,
    started: Callable[[int, RunSpec], None] = lambda index, spec: None,
    checkpoints: Path | None = None,
    tensorboard: Path | None = None,
) -> Iterator[tuple[Record, bool]]:
    """Run what ``out`` does not hold yet; yields each record and whether it is new.

    Every spec is resolved before the first runs, so a wrong name costs nothing. A run that
    failed is recorded and does not stop the others; failed records are run again next time.
    Learners save and show their training under ``checkpoints`` and ``tensorboard``, each run in
    a folder called like its id; other methods have no use for them.
    """

    def tools(prepared: Prepared, folder: str = "") -> TrainingTools:
        if not isinstance(prepared.method, Learner):
            return TrainingTools()
        folders = (root and root / folder for root in (checkpoints, tensorboard))
        return training_tools(prepared.method, prepared.spec.method, *folders)

    check_folder(out)
    for spec in {(s.method, s.task, s.model): s for s in specs}.values():
        tools(prepare(spec))
    done = {record.run_id: record for record in read_folder(out)[0] if record.status == "done"}
    for index, spec in enumerate(specs):
        started(index, spec)
        prepared = prepare(spec)
        if prepared.run_id in done:
            yield done[prepared.run_id], False
            continue
        record = run(prepared, progress, tools(prepared, prepared.run_id))
        write_record(record, out)
        yield record, True
