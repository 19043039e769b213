"""A method's records, checked and packed into what a pull request needs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuitbench.core.errors import InvalidSpec
from circuitbench.evaluation.metrics import DEFAULT, metric
from circuitbench.plugins.tiers import PLACES
from circuitbench.results import Record, file_part, write_atomically, write_record
from circuitbench.results.archive import SUFFIX
from circuitbench.results.packing import pack_folder
from circuitbench.results.run_row import RunRow
from circuitbench.results.validate import checked_records
from circuitbench_leaderboard.entries import Entry, TaskOnModel, flat_settings, gather
from circuitbench_leaderboard.groups import (
    part,
    preset_of,
    tier_of,
    tiers_in_order,
    track_of,
)
from circuitbench_leaderboard.sources import source_of
from circuitbench_leaderboard.submission.manifest import MANIFEST, RECORDS, Manifest, digest_of

FEWEST_SEEDS = 5
LARGEST = 1_000_000  # bytes of an archive: what the repository takes
_PER_RUN = ("task", "model", "method", "seed", "hyperparameters")


@dataclass(frozen=True)
class Submitted:
    """The folder that was written, what it says of itself, and the text of the pull request."""

    folder: Path
    manifest: Manifest
    text: str


def submit(
    results: Path | str,
    out: Path | str,
    *,
    tuned_on: str,
    method: str | None = None,
    package: str = "",
    warn: Callable[[str], None] = lambda line: None,
) -> Submitted:
    """Check the records of one method and write ``out/METHOD``: archive, manifest, text.

    The records hold together (as ``circuitbench validate`` says), are all finished, of one
    setting, of one version and commit, and their methods ran in a process of their own. Tasks
    and seeds that a full board would have are listed as missing, and are no fault.

    Args:
        results: folder of records.
        out: where the folder of the submission is written.
        tuned_on: on what the settings were chosen.
        method: which one, where ``results`` holds several.
        package: what pip installs to have the method; "" for our own.
        warn: gets one line per run that is left out because it is not finished.

    Raises:
        InvalidSpec: the records cannot be submitted; says why and what to do.
    """
    records, problems = checked_records(results)
    if problems:
        raise InvalidSpec(
            f"{len(problems)} files in {results} cannot be used, the first: {problems[0]}; "
            f"'circuitbench validate {results}' lists them all"
        )
    if not tuned_on.strip():
        raise InvalidSpec("say on what the settings were tuned: --tuned-on 'planted seeds 100-199'")
    own = _of_one_method(records, results, method)
    for record in own:
        if record.status != "done":
            where = f"{record.task} / {record.model_name}, seed {record.seed}"
            warn(f"left out: {where}: {record.reason}")
    done = [record for record in own if record.status == "done"]
    entry = _entry(done)
    manifest = _write(Path(out), done, entry, tuned_on, package)
    folder = Path(out) / file_part(entry.method)
    text = _text(entry, manifest)
    write_atomically(folder / "README.md", text)
    if package:
        write_atomically(folder / "requirements.txt", f"{package}\n")
    write_atomically(folder / MANIFEST, manifest.text())
    return Submitted(folder, manifest, text)


def _of_one_method(
    records: Sequence[Record], results: Path | str, method: str | None
) -> list[Record]:
    names = sorted({record.method for record in records if not record.external})
    if not names:
        raise InvalidSpec(
            f"no runs of a method in {results}; circuits found elsewhere are not submitted but "
            "imported (circuitbench import), and stand in a section of their own"
        )
    if method is None and len(names) > 1:
        raise InvalidSpec(f"{results} holds {', '.join(names)}; choose one with --method")
    chosen = names[0] if method is None else method
    if chosen not in names:
        raise InvalidSpec(f"no runs of {chosen!r} in {results}; it holds {', '.join(names)}")
    return [r for r in records if r.method == chosen and not r.external]


def _entry(done: Sequence[Record]) -> Entry:
    """The runs as the one entry they must make."""
    if not done:
        raise InvalidSpec("none of the runs is finished")
    rows = [RunRow.of(record) for record in done]
    sources = sorted({source_of(row) for row in rows})
    if len(sources) > 1:
        raise InvalidSpec(
            f"the runs are of {' and '.join(sources)}; a submission is of one version and commit"
        )
    if sources[0].endswith("-dirty"):
        raise InvalidSpec(
            f"the runs are of {sources[0]}: a changed tree, which nobody else has; "
            "run them with a clean one"
        )
    inside = [r for r in done if r.hardware.get("isolation") == "in-process"]
    if inside:
        raise InvalidSpec(
            f"{len(inside)} runs were made --in-process, where a method can reach the truth; "
            "run them again without it"
        )
    entries = gather(rows)
    if len(entries) > 1:
        raise InvalidSpec(
            f"the runs are of several settings or machines' libraries: "
            f"{'; '.join(entry.label for entry in entries)}; submit one of them"
        )
    return entries[0]


def _write(
    out: Path, done: Sequence[Record], entry: Entry, tuned_on: str, package: str
) -> Manifest:
    name = f"{RECORDS}/{file_part(entry.method)}{SUFFIX}"
    folder = out / file_part(entry.method)
    if (folder / name).exists():
        (folder / name).unlink()  # of an earlier submission: packing would add to it
    with tempfile.TemporaryDirectory() as aside:
        for record in done:
            write_record(record, Path(aside))
        pack_folder(aside, folder / RECORDS)
    size = (folder / name).stat().st_size
    if size > LARGEST:
        raise InvalidSpec(
            f"the archive has {size:,} bytes, the repository takes {LARGEST:,}: "
            "submit fewer seeds, or runs without edges"
        )
    first = entry.runs[0]
    told = part(first.info, "method")
    title, family, paper, link = (str(told.get(key) or "") for key in _SAID)
    tasks: dict[str, list[str]] = {}
    found = {cell: tier_of(runs[0]) for cell, runs in _cells(entry).items()}
    for tier in tiers_in_order(found.values()):
        tasks[tier] = [str(cell) for cell in sorted(found) if found[cell] == tier]
    spec = {key: value for key, value in first.spec.items() if key not in _PER_RUN}
    hyperparameters = flat_settings(_mapping(first.spec.get("hyperparameters")))
    return Manifest(
        method=entry.method,
        title=title,
        family=family,
        paper=paper,
        link=link,
        track=track_of(first),
        package=package,
        tuned_on=tuned_on.strip(),
        source=source_of(first),
        settings={**spec, "hyperparameters": hyperparameters},
        tasks=tasks,
        seeds=sorted({run.seed for run in entry.runs}),
        runs=len(entry.runs),
        missing=_missing(entry),
        archive=name,
        sha256=digest_of(folder / name),
    )


_SAID = ("title", "family", "paper", "link")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _cells(entry: Entry) -> dict[TaskOnModel, list[RunRow]]:
    """The finished runs by task on a model; plantings of a preset are one model."""
    cells: dict[TaskOnModel, list[RunRow]] = {}
    for run in entry.runs:
        cells.setdefault(TaskOnModel(run.task, preset_of(run.model_name)), []).append(run)
    return cells


def _missing(entry: Entry) -> list[str]:
    """What a full row of the board would have: its seeds, and every task of the tiers it is in."""
    cells = _cells(entry)
    seeds = sorted({run.seed for run in entry.runs})
    lines = []
    if len(seeds) < FEWEST_SEEDS:
        lines.append(f"{len(seeds)} of {FEWEST_SEEDS} seeds")
    for cell, runs in sorted(cells.items()):
        absent = [str(seed) for seed in seeds if seed not in {run.seed for run in runs}]
        if absent:
            lines.append(f"{cell}: seed {', '.join(absent)}")
    present = {tier_of(run) for run in entry.runs}
    for tier, places in PLACES.items():
        absent = [f"{p.task} / {p.model}" for p in places if (p.task, p.model) not in cells]
        if tier in present:
            lines += [f"tier {tier}: {task}" for task in absent]
        else:
            lines.append(f"tier {tier}: all of it")
    return lines


def _text(entry: Entry, manifest: Manifest) -> str:
    """What the pull request says."""
    shown = (metric(DEFAULT), metric("group_recall"), metric("queries"), metric("training_queries"))
    lines = [
        f"# {manifest.title or manifest.method} (`{manifest.method}`)",
        "",
        f"{manifest.runs} runs, seeds {', '.join(map(str, manifest.seeds))}, by circuitbench "
        f"{manifest.source}. Track: {manifest.track}. Tuned on: {manifest.tuned_on}.",
    ]
    if manifest.paper or manifest.link:
        lines += ["", " ".join(filter(None, (f"Paper: {manifest.paper}", manifest.link))).strip()]
    if manifest.package:
        lines += ["", f"`pip install '{manifest.package}'`"]
    lines += ["", "| Task / model | Runs | " + " | ".join(m.title for m in shown) + " |"]
    lines += ["| --- | ---: |" + " ---: |" * len(shown)]
    for task, runs in sorted(_cells(entry).items()):
        numbers = []
        for measure in shown:
            values = [v for run in runs if (v := run.values.get(measure.key)) is not None]
            mean = sum(values) / len(values) if values else None
            numbers.append("–" if mean is None else f"{mean:,.{measure.digits}f}")
        lines.append(f"| {task} | {len(runs)} | " + " | ".join(numbers) + " |")
    if manifest.missing:
        lines += ["", "Missing:", "", *(f"- {line}" for line in manifest.missing)]
    lines += ["", f"Archive: `{manifest.archive}`, SHA-256 `{manifest.sha256}`."]
    return "\n".join(lines) + "\n"
