"""What a sweep will do, said before it does it: runs, what is there already, time and queries."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from circuitbench.core.errors import InvalidSpec, RunFailed, nearest
from circuitbench.results import Record, file_name, read_folder, run_id, versions
from circuitbench.runs.isolation.errors import from_method
from circuitbench.runs.launch.base import Launcher
from circuitbench.runs.spec import RunSpec
from circuitbench.runs.unmeasured import is_interrupted

Rerun = Literal["missing", "failed", "all"]

CHUNK = 20  # specs resolved at a time
TRIES = 3  # of what ends its worker
REFUSED = frozenset({"UnknownName", "InvalidSpec"})  # a wrong request: nothing is run
SKIPPED = frozenset({"MissingExtra", "ModelUnavailable"})


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Args:
        spec: what is asked for.
        identity, versions: what its record will be known by.
        problem: why it cannot be run, as
            :func:`circuitbench.runs.isolation.errors.described`; None if it can.
        earlier: its record, if there is one.
        todo: whether it is to be run.
    """

    spec: RunSpec
    identity: Mapping[str, Any]
    versions: Mapping[str, Any]
    problem: Mapping[str, str] | None = None
    earlier: Record | None = None
    todo: bool = True

    @property
    def run_id(self) -> str:
        """See :func:`circuitbench.results.run_id`."""
        return run_id(self.identity, self.versions)


@dataclass(frozen=True)
class Estimate:
    """What runs will take, from records at hand.

    Args:
        seconds: of one worker, one run after the other.
        queries: of training and discovery.
        known: how many of the runs there are records to go by for.
    """

    seconds: float = 0.0
    queries: float = 0.0
    known: int = 0


@dataclass
class Plan:
    """All runs of a sweep, in the order in which they are started."""

    out: Path
    runs: list[Planned]
    records: list[Record] = field(default_factory=list, repr=False)

    @property
    def todo(self) -> list[Planned]:
        """The runs that are to be run."""
        return [run for run in self.runs if run.todo]

    @property
    def kept(self) -> list[Planned]:
        """The runs whose record is there."""
        return [run for run in self.runs if not run.todo]

    def estimate(self) -> Estimate:
        """What is to do will take, by the median of records of the same method and task.

        Where there is none, of the same method; where there is none either, the run counts nothing.
        """
        seconds, queries, known = 0.0, 0.0, 0
        costs = Forecast(self.records)
        for run in self.todo:
            found = costs.of(run.spec.method, run.spec.task)
            if found is not None:
                seconds, queries, known = seconds + found[0], queries + found[1], known + 1
        return Estimate(seconds, queries, known)

    def lines(self, workers: int) -> list[str]:
        """The plan in words."""
        n, kept, todo = len(self.runs), len(self.kept), self.todo
        lines = [f"{n:,} runs: {kept:,} done before, {len(todo):,} to do, in {self.out}"]
        broken = [run for run in todo if run.problem is not None]
        if broken:
            lines.append(f"{len(broken):,} of them cannot be run, e.g. {_why(broken[0])}")
        found = self.estimate()
        if found.known:
            part = "" if found.known == len(todo) else f" (for {found.known:,} of them)"
            lines.append(
                f"estimated from records there{part}: {duration(found.seconds / workers)} with "
                f"{workers} worker{'' if workers == 1 else 's'}, {found.queries:,.0f} queries"
            )
        elif todo:
            lines.append("no records there to estimate time and queries from")
        return lines


def check_rerun(rerun: str) -> Rerun:
    """``rerun`` if it is one; raises :class:`InvalidSpec`."""
    if rerun not in get_args(Rerun):
        raise InvalidSpec(f"no rerun {rerun!r}; {nearest(rerun, get_args(Rerun))}")
    return rerun  # type: ignore[return-value]


def plan(
    specs: Sequence[RunSpec],
    out: Path,
    launcher: Launcher,
    rerun: Rerun = "missing",
    said: Callable[[int, int], None] = lambda done, total: None,
) -> Plan:
    """Resolve every spec, and see what ``out`` holds of it.

    Args:
        specs: each once, however often it is given.
        out: the folder of records.
        launcher: resolves; plug-ins are loaded there, never here.
        rerun: which runs that left a record are run again. An interrupted one always goes on.
        said: told how many specs are resolved.

    Raises:
        UnknownName, InvalidSpec: a request that is wrong; the first of them.
    """
    found = _resolve_all(list(specs), launcher, said)
    records = read_folder(out)[0] if out.is_dir() else []
    stored = {record.run_id: record for record in records}
    runs: dict[str, Planned] = {}
    for spec, resolved in zip(specs, found, strict=True):
        problem = resolved.get("failed")
        if problem is not None:
            if problem["ours"] in REFUSED:
                raise from_method(problem)
            run = Planned(spec, unresolved(spec), versions(), problem)
        else:
            run = Planned(spec, resolved["identity"], resolved["versions"])
        earlier = stored.get(run.run_id)
        todo = is_todo(earlier, rerun)
        runs.setdefault(
            run.run_id, Planned(spec, run.identity, run.versions, problem, earlier, todo)
        )
    return Plan(out, list(runs.values()), records)


def unresolved(spec: RunSpec) -> dict[str, Any]:
    """The identity of a run whose plug-ins cannot be loaded: what was asked for."""
    fields = asdict(spec)
    return {
        **fields,
        "model": spec.model or "default",
        "hyperparameters": dict(spec.hyperparameters),
    }


def unresolved_file(spec: RunSpec) -> str:
    """The name of the file of such a run's record."""
    identity = unresolved(spec)
    return file_name(identity, run_id(identity, versions()))


def duration(seconds: float) -> str:
    """``95`` as ``1 min 35 s``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def is_todo(earlier: Record | None, rerun: Rerun) -> bool:
    """Whether a run with this record, or with none, is to be run."""
    if earlier is None or rerun == "all":
        return True
    if earlier.status == "done":
        return False
    return rerun == "failed" or is_interrupted(earlier)


def _why(run: Planned) -> str:
    assert run.problem is not None
    return f"{run.spec.method} on {run.spec.task}: {run.problem['text']}"


def _resolve_all(
    specs: list[RunSpec], launcher: Launcher, said: Callable[[int, int], None]
) -> list[Mapping[str, Any]]:
    """For every spec its identity and versions, or ``failed``."""
    # A method, a task and a model are looked up once; only seeds and settings differ then.
    waiting = [list(range(i, min(i + CHUNK, len(specs)))) for i in range(0, len(specs), CHUNK)]
    waiting.reverse()
    answers: dict[int, Mapping[str, Any]] = {}
    busy: dict[int, list[int]] = {}
    deaths: dict[int, int] = {}
    while waiting or busy:
        for slot in range(launcher.slots):
            if waiting and slot not in busy:
                busy[slot] = waiting.pop()
                fields = [asdict(specs[i]) for i in busy[slot]]
                launcher.start(slot, {"do": "resolve", "specs": fields})
        for event in launcher.wait(0.5):
            if event.kind == "progress":
                continue
            chunk = busy.pop(event.slot)
            if event.kind == "done":
                answers.update(zip(chunk, event.content, strict=True))
                wrong = next((a["failed"] for a in event.content if "failed" in a), None)
                if wrong is not None and wrong["ours"] in REFUSED:
                    raise from_method(wrong)
            elif event.kind == "failed":
                answers.update({i: {"failed": event.content} for i in chunk})
            elif len(chunk) > 1:  # one of them ends its worker: which?
                waiting += [[i] for i in reversed(chunk)]
            else:
                (i,) = chunk
                deaths[i] = deaths.get(i, 0) + 1
                if deaths[i] < TRIES:
                    waiting.append(chunk)
                else:
                    answers[i] = {"failed": lost(f"{event.content} when it was loaded")}
            said(len(answers), len(specs))
    return [answers[i] for i in range(len(specs))]


def lost(why: str) -> dict[str, str]:
    """A death as :func:`circuitbench.runs.isolation.errors.described` puts an error."""
    return {"ours": RunFailed.__name__, "kind": RunFailed.__name__, "text": why, "traceback": ""}


class Forecast:
    """Medians of seconds and queries by method and task."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._found: dict[tuple[str, str | None], list[tuple[float, float]]] = {}
        for record in records:
            self.learn(record)

    def learn(self, record: Record) -> None:
        """Count a record; one of a run that did not end well says nothing."""
        cost = None if record.external or record.status != "done" else cost_of(record)
        if cost is not None:
            for task in (record.task, None):
                self._found.setdefault((record.method, task), []).append(cost)

    def left(self, todo: Iterable[Planned], running: Iterable[tuple[Planned, float]]) -> float:
        """Seconds of one worker that runs will take; NaN where nothing is known of one of them.

        Args:
            todo: all runs that have not ended.
            running: those of them that go on, each with its seconds so far.
        """
        medians: dict[tuple[str, str], float] = {}
        total = 0.0
        for run in todo:
            key = run.spec.method, run.spec.task
            if key not in medians:
                found = self.of(*key)
                medians[key] = float("nan") if found is None else found[0]
            total += medians[key]
        for run, seconds in running:
            total -= min(seconds, medians.get((run.spec.method, run.spec.task), 0.0))
        return total

    def of(self, method: str, task: str) -> tuple[float, float] | None:
        """Seconds and queries of one run, or None."""
        found = self._found.get((method, task)) or self._found.get((method, None))
        if found is None:
            return None
        seconds, queries = zip(*found, strict=True)
        return statistics.median(seconds), statistics.median(queries)


def cost_of(record: Record) -> tuple[float, float] | None:
    """Seconds and queries of a finished run; None where it does not say."""
    try:
        learning, finding = record.costs["training"], record.costs["discovery"]
        seconds = sum(float(c.get("method_seconds", c["seconds"])) for c in (learning, finding))
        seconds += float(record.costs.get("evaluation", {}).get("seconds", 0.0))
        return seconds, float(learning["queries"] + finding["queries"])
    except (LookupError, TypeError, ValueError):
        return None
