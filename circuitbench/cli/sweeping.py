"""The verbs of many runs: sweep and status."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from circuitbench.cli.display import err_console, one_line, out_console, progress_bar, warn
from circuitbench.cli.launching import LAUNCHING, launcher_of, launcher_options
from circuitbench.cli.options import (
    fail,
    functional_option,
    isolation_options,
    letting_through,
    limits_of,
    out_option,
    parse_names,
    raise_option,
    settings_of,
    spec_options,
    track_option,
    training_options,
    wants_raise,
)
from circuitbench.core.errors import InvalidSpec

MANY = 50  # runs that make it worth while to import every library first

if TYPE_CHECKING:
    from circuitbench.runs.spec import RunSpec
    from circuitbench.runs.tracking import Track


@click.command()
@click.argument("file", type=Path, required=False)
@click.option("--methods", help="Names, separated by commas (default rl-ppo).")
@click.option("--tasks", help="Names, separated by commas (default induction).")
@click.option("--tier", help="All tasks of a tier, on models planted anew for every seed.")
@click.option("--seeds", help="Seeds: 0,1,2 or 0-4 (default 0).")
@spec_options
@functional_option
@launcher_options
@click.option(
    "--retries",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="How often a run is tried again whose worker died.",
)
@click.option(
    "--rerun",
    default="missing",
    show_default=True,
    help="missing, failed or all: runs with a record to run again.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@isolation_options
@training_options
@track_option
@out_option
@raise_option
def sweep(
    file: Path | None,
    retries: int,
    rerun: str,
    dry_run: bool,
    in_process: bool,
    reraise: bool,
    timeout: float | None,
    memory: str | None,
    checkpoints: Path | None,
    tensorboard: Path | None,
    track: str | None,
    **options: Any,
) -> None:
    """Run every method on every task with every seed; what is done is not repeated.

    FILE is a YAML file of methods, tasks, models, seeds, ablations and hyperparameters, in place
    of --methods, --tasks, --tier and --seeds; see docs/sweeps.md.

    \b
    Example:
      circuitbench sweep --methods random,head-ablation,acdc --tasks induction,ioi --seeds 0-2
      circuitbench sweep --methods acdc,head-ablation --tier hard --seeds 0-4
      circuitbench sweep night.yaml --workers 2 --timeout 3600 --memory 4G
      circuitbench sweep night.yaml --dry-run
      circuitbench sweep night.yaml --launcher ray --address auto --gpus-per-run 0.25
    """
    limits = limits_of(timeout, memory)
    where = {key: options.pop(key) for key in LAUNCHING}
    specs, out = _specs(file, options)
    from circuitbench.cli.watching import Display
    from circuitbench.evaluation.metrics import metrics
    from circuitbench.results import check_folder, remove_leftovers
    from circuitbench.runs.drive import drive
    from circuitbench.runs.plan import check_rerun, plan
    from circuitbench.runs.state import remove_dead
    from circuitbench.runs.tracking import tracking

    again = check_rerun(rerun)
    metrics()  # a metric that is refused is said now, not after the work
    for folder in (checkpoints, tensorboard):
        if folder is not None:
            check_folder(folder)
    if tensorboard is not None:
        from circuitbench.runs.training import check_tensorboard

        check_tensorboard(tensorboard)
    if not dry_run:
        check_folder(out)
    if out.is_dir():
        remove_leftovers(out)
        remove_dead(out)
    with tracking(None if dry_run else track, out, warn) as tracked:
        if in_process or wants_raise(reraise):
            if dry_run or where["launcher"] != "local" or (where["workers"] or 1) != 1:
                raise InvalidSpec(
                    "--in-process and --raise are for one local worker, and plan nothing"
                )
            limits_of(timeout, memory, in_process=True)
            _in_process(specs, out, again, checkpoints, tensorboard, wants_raise(reraise), tracked)
            return
        launcher = launcher_of(where, None if dry_run else out, many=len(specs) >= MANY)
        try:
            with progress_bar("sweep") as progress:
                progress("planning", None)
                made = plan(
                    specs,
                    out,
                    launcher,
                    again,
                    lambda done, total: progress("planning", done / total),
                )
            for line in made.lines(launcher.slots):
                err_console.print(line, markup=False, soft_wrap=True)
            if dry_run:
                return
            with Display(made, out, launcher.slots) as display:
                runs = drive(
                    made,
                    launcher,
                    limits,
                    checkpoints=checkpoints,
                    tensorboard=tensorboard,
                    retries=retries,
                    watch=display.watch,
                )
                for finished in runs:
                    display.finished(finished)
                    tracked(finished.record)
        finally:
            launcher.close()
            if not dry_run:
                remove_leftovers(out)
    _end(len(made.runs), display.failures, out)


@click.command()
@click.argument("results", type=Path)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(results: Path, as_json: bool) -> None:
    """Say how far the sweeps into a folder are, from any terminal.

    \b
    Example:
      circuitbench status results/
    """
    from circuitbench.results import read_folder
    from circuitbench.runs.plan import duration
    from circuitbench.runs.state import read_states

    counts: dict[str, int] = {}
    for record in read_folder(results)[0]:
        counts[record.status] = counts.get(record.status, 0) + 1
    states = [state for _, state in read_states(results)]
    if as_json:
        sweeps = [{**asdict(state), "alive": state.alive} for state in states]
        click.echo(json.dumps({"records": counts, "sweeps": sweeps}, indent=1))
        return
    lines = [f"{results}: {_counted(counts)}"]
    for state in states:
        ended = state.kept + state.done + state.failed
        if not state.alive:
            lines.append(f"a sweep was killed at {ended:,} of {state.total:,} runs; start it again")
            continue
        left = "" if state.left is None else f", about {duration(state.left)} left"
        lines.append(
            f"a sweep goes on: {ended:,} of {state.total:,} runs ended, {state.failed:,} of them "
            f"failed, {len(state.running)} running{left}"
        )
        for run in state.running:
            part = "" if run["fraction"] is None else f" {100 * run['fraction']:.0f}%"
            lines.append(
                f"  {run['method']} on {run['task']} ({run['model']}) seed {run['seed']}: "
                f"{run['stage']}{part}, {duration(run['seconds'])}"
            )
    if not states:
        lines.append("no sweep goes on")
    for line in lines:
        out_console.print(line, markup=False, soft_wrap=True)


def _specs(file: Path | None, options: dict[str, Any]) -> tuple[list[RunSpec], Path]:
    """What is to be run, and where the records go."""
    from circuitbench.runs.spec import build_spec
    from circuitbench.runs.sweep import grid, tier_grid
    from circuitbench.runs.sweep_file import parse_seeds, read_sweep

    axes = {key: options.pop(key) for key in ("methods", "tasks", "tier", "seeds")}
    given_out = options.get("out")
    layers, folder = settings_of(options, single=False)
    if file is not None:
        axes["model"] = options.get("model")
        named = [f"--{key}" for key, value in axes.items() if value is not None]
        if named:
            raise InvalidSpec(f"{file} says what is run, so leave out {', '.join(named)}")
        settings = {key: value for layer in layers for key, value in layer.items() if value}
        specs, out = read_sweep(file, settings)
        return specs, folder if given_out is not None or out is None else out
    names = [parse_names(axes[key] or default) for key, default in _DEFAULTS.items()]
    seeds = parse_seeds("0" if axes["seeds"] is None else axes["seeds"])
    if axes["tier"] is not None:
        if axes["tasks"] is not None:
            raise InvalidSpec("a tier has tasks of its own; leave out --tasks, or --tier")
        return tier_grid(build_spec(*layers), names[0], axes["tier"], seeds), folder
    return grid(build_spec(*layers), names[0], names[1], seeds), folder


_DEFAULTS = {"methods": "rl-ppo", "tasks": "induction"}


def _in_process(
    specs: list[RunSpec],
    out: Path,
    rerun: Any,
    checkpoints: Path | None,
    tensorboard: Path | None,
    reraise: bool,
    tracked: Track,
) -> None:
    """One run after the other, all of it here."""
    from circuitbench.runs.sweep import run_all

    failures = 0
    with progress_bar("sweep") as progress, letting_through(reraise):

        def started(index: int, spec: Any) -> None:
            progress(
                f"{index + 1}/{len(specs)} {spec.method} on {spec.task} seed {spec.seed}",
                index / len(specs),
            )

        runs = run_all(
            specs,
            out,
            started=started,
            checkpoints=checkpoints,
            tensorboard=tensorboard,
            reraise=reraise,
            rerun=rerun,
        )
        for record, new in runs:
            failures += record.status not in ("done", "skipped")
            if new:
                tracked(record)
            err_console.print(one_line(record, new), markup=False, soft_wrap=True)
    _end(len(specs), failures, out)


def _end(runs: int, failures: int, out: Path) -> None:
    out_console.print(f"{runs} runs, {failures} failed; records in {out}", soft_wrap=True)
    if failures:
        fail(f"{failures} of {runs} runs failed; the reasons are in their records", 1)


def _counted(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    parts = ", ".join(f"{n:,} {status}" for status, n in sorted(counts.items()))
    return f"{total:,} records" + (f" ({parts})" if parts else "")
