"""What made a record: a board stands on one version and one commit of circuitbench."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from circuitbench.core.errors import InvalidSpec
from circuitbench.results.run_row import RunRow

ANY = "any"
"""Instead of a commit: rank runs of all versions and commits together."""


def short_commit(run: RunRow) -> str:
    """The commit in 9 digits, still marked where the tree was changed."""
    commit = str(run.versions.get("commit") or "unknown")
    return commit[:9] + ("-dirty" if commit.endswith("-dirty") else "")


def source_of(run: RunRow) -> str:
    """Version and commit of circuitbench, as ``0.2.0 @ 0123456ab``."""
    return f"{run.versions.get('circuitbench') or 'unknown'} @ {short_commit(run)}"


def ablation_of(run: RunRow) -> str:
    """What replaced a head when the method was asked and measured; "" where nothing says."""
    return str(run.spec.get("ablation") or "")


def main_ablation(runs: Sequence[RunRow]) -> str:
    """The ablation of most finished runs; of equals the first by name, zero before all."""
    found = Counter(ablation_of(run) for run in runs if run.status == "done")
    return min(found, key=lambda kind: (-found[kind], kind != "zero", kind), default="")


def choose_source(runs: Sequence[RunRow], commit: str | None = None) -> str:
    """The source a board of ``runs`` stands on: that of most finished runs, of equals the newest.

    ``commit`` asks for the one whose commit or version begins so; :data:`ANY` gives ``""``, all
    of them. Raises :class:`InvalidSpec` where no run or more than one source fits.
    """
    if commit == ANY or not runs:
        return ""
    found: dict[str, tuple[int, str]] = {}
    for run in runs:
        finished, newest = found.get(source_of(run), (0, ""))
        found[source_of(run)] = (finished + (run.status == "done"), max(newest, run.created))
    if commit is None:
        return max(found, key=lambda source: (*found[source], source))
    fitting = [s for s in found if any(part.startswith(commit) for part in (s, s.split(" @ ")[1]))]
    if len(fitting) != 1:
        raise InvalidSpec(
            f"{len(fitting) or 'no'} sources begin with {commit!r}; the records are of "
            f"{', '.join(sorted(found))}; 'any' ranks all of them together"
        )
    return fitting[0]
