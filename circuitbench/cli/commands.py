"""The command line: parses, calls, prints. Nothing is computed here."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from circuitbench import __version__
from circuitbench.cli.circuits import export, import_, score
from circuitbench.cli.display import (
    err_console,
    head_grid_lines,
    one_line,
    out_console,
    progress_bar,
    summary,
)
from circuitbench.cli.examine import doctor, reproduce, stability, validate_task
from circuitbench.cli.options import (
    Failed,
    fail,
    functional_option,
    out_option,
    settings_of,
    spec_options,
)
from circuitbench.core.errors import CircuitBenchError, InvalidSpec, UnknownName, nearest

if TYPE_CHECKING:  # heavy rooms load only in the verb that needs them
    from circuitbench.results import Record


class Verbs(click.Group):
    """A group that answers an unknown verb or option with the nearest that exists."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; raises :class:`UnknownName` for one that does not exist."""
        if args and self.get_command(ctx, args[0]) is None:
            raise UnknownName("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="circuitbench")
def cli() -> None:
    """Measure how well a method finds the circuit inside a transformer.

    \b
    Example:
      circuitbench run --method rl-ppo
      circuitbench leaderboard results/ --format markdown
    """


@cli.command()
@click.option("--method", help="Method (default rl-ppo); see `circuitbench list methods`.")
@click.option("--task", help="Task (default induction); see `circuitbench list tasks`.")
@click.option("--seed", type=int, help="Root of every random draw (default 0).")
@click.option("--json", "as_json", is_flag=True, help="Print the record instead of the summary.")
@spec_options
@functional_option
@out_option
def run(as_json: bool, **options: Any) -> None:
    """Run one method on one task and write one record.

    \b
    Example:
      circuitbench run --method rl-ppo
      circuitbench run --method acdc --task ioi --seed 3
      circuitbench run --method acdc --set threshold=0.1 --set objective=metric
      circuitbench run --config run.yaml --budget 144
    """
    settings, out = settings_of(options)
    from circuitbench.results import check_folder
    from circuitbench.runs.run import prepare
    from circuitbench.runs.run import run as run_prepared
    from circuitbench.runs.spec import build_spec

    spec = build_spec(*settings)
    check_folder(out)
    with progress_bar(f"{spec.method} on {spec.task}") as progress:
        progress("loading", None)
        record = run_prepared(prepare(spec), progress)
    path = _save(record, out)
    if as_json:
        click.echo(json.dumps(record.content(), indent=1))
    else:
        out_console.print(summary(record))
        out_console.print(f"record: {path}", soft_wrap=True)
    if record.status != "done":
        fail(f"run failed: {record.reason} (record: {path})", 1)


@cli.command()
@click.option("--methods", default="rl-ppo", show_default=True, help="Names, separated by commas.")
@click.option("--tasks", default="induction", show_default=True, help="Names, separated by commas.")
@click.option("--seeds", default="0", show_default=True, help="Seeds: 0,1,2 or 0-4.")
@spec_options
@functional_option
@out_option
def sweep(methods: str, tasks: str, seeds: str, **options: Any) -> None:
    """Run every method on every task with every seed; finished runs are not repeated.

    \b
    Example:
      circuitbench sweep --methods random,head-ablation,acdc --tasks induction,ioi --seeds 0-2
    """
    settings, out = settings_of(options, single=False)
    from circuitbench.runs.spec import build_spec
    from circuitbench.runs.sweep import grid, parse_names, parse_seeds, run_all

    specs = grid(
        build_spec(*settings), parse_names(methods), parse_names(tasks), parse_seeds(seeds)
    )
    failures = 0
    with progress_bar("sweep") as progress:

        def started(index: int, spec: Any) -> None:
            progress(
                f"{index + 1}/{len(specs)} {spec.method} on {spec.task} seed {spec.seed}",
                index / len(specs),
            )

        for record, new in run_all(specs, out, started=started):
            failures += record.status != "done"
            err_console.print(one_line(record, new), soft_wrap=True)
    out_console.print(f"{len(specs)} runs, {failures} failed; records in {out}", soft_wrap=True)
    if failures:
        fail(f"{failures} of {len(specs)} runs failed; the reasons are in their records", 1)


@cli.command(name="list")
@click.argument("kind", metavar="methods|tasks|models")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(kind: str, as_json: bool) -> None:
    """List what is installed, ours and third parties'; imports none of it.

    \b
    Example:
      circuitbench list methods
      circuitbench list tasks --json
    """
    from circuitbench.plugins.registry import list_plugins

    kinds: dict[str, Any] = {"methods": "method", "tasks": "task", "models": "model"}
    if kind not in kinds:
        raise UnknownName("kind of plug-in", kind, kinds)
    plugins = list_plugins(kinds[kind])
    if as_json:
        rows = [{"name": p.name, "target": p.target, "origin": p.origin} for p in plugins]
        click.echo(json.dumps(rows, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for column in (kind[:-1], "from", "defined in"):
        table.add_column(column, overflow="fold")
    for plugin in plugins:
        table.add_row(plugin.name, plugin.origin, plugin.target)
    out_console.print(table)


@cli.command()
@click.argument("record", type=Path, metavar="RECORD.json")
@click.option("--json", "as_json", is_flag=True, help="Print the verified record as JSON.")
def show(record: Path, as_json: bool) -> None:
    """Show one stored run: scores, truth, costs, and the command that repeats it.

    \b
    Example:
      circuitbench show results/acdc_ioi_planted_seed3_0123456789abcdef.json
    """
    from circuitbench.results import read_record

    loaded = read_record(record)
    if as_json:
        click.echo(json.dumps(loaded.content(), indent=1))
        return
    out_console.print(summary(loaded))
    if loaded.status != "done":
        out_console.print(f"{loaded.status}: {loaded.reason}", soft_wrap=True)
    else:
        for line in head_grid_lines(loaded):
            out_console.print(line, markup=False, soft_wrap=True)
    out_console.print(f"repeat with: {loaded.command}", soft_wrap=True)


@cli.command()
@click.argument("results", type=Path)
@click.option(
    "--format",
    "format_",
    default="markdown",
    show_default=True,
    help="markdown, csv, latex, html, json.",
)
@click.option("--by", help="The metric that ranks (default: average precision).")
@click.option("--tasks", help="Only these tasks, separated by commas.")
@click.option("--seeds", help="Only these seeds: 0,1,2 or 0-4.")
@click.option("--out", type=Path, help="Folder for the table, the figures and the page.")
def leaderboard(
    results: Path,
    format_: str,
    by: str | None,
    tasks: str | None,
    seeds: str | None,
    out: Path | None,
) -> None:
    """Make tables, figures and a page from a folder of records.

    \b
    Example:
      circuitbench leaderboard results/ --format markdown
      circuitbench leaderboard results/ --format html --out site/
    """
    from circuitbench.runs.sweep import parse_names, parse_seeds
    from circuitbench_leaderboard import render

    options: dict[str, Any] = {} if by is None else {"by": by}
    if tasks is not None:
        options["tasks"] = parse_names(tasks)
    if seeds is not None:
        options["seeds"] = parse_seeds(seeds)
    click.echo(render(results, format_, out, warn=_warn, **options).rstrip("\n"))


@cli.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--results",
    type=Path,
    default=Path("results"),
    show_default=True,
    help="Where the two methods' records are.",
)
@click.option("--by", help="The metric to compare (default: the leaderboard's).")
def compare(a: str, b: str, results: Path, by: str | None) -> None:
    """Say where two methods, or two folders of records, differ; with tests.

    \b
    Example:
      circuitbench compare acdc head-ablation --results results/
      circuitbench compare results-old/ results-new/
    """
    from circuitbench_leaderboard import compare as compare_sides

    options = {} if by is None else {"by": by}
    click.echo(compare_sides(a, b, results, warn=_warn, **options).text(), nl=False)


@cli.command()
@click.argument("results", type=Path)
def validate(results: Path) -> None:
    """Check every record of a folder: schema, checksum, duplicates, metrics.

    \b
    Example:
      circuitbench validate results/
    """
    from circuitbench_leaderboard import validate as validate_folder

    report = validate_folder(results)
    if report.ok and not report.n_records:
        raise InvalidSpec(f"no records in {results}")
    click.echo(report.text(), nl=False)
    if not report.ok:
        fail(f"{len(report.problems)} problems in {results}", 1)


for verb in (stability, validate_task, reproduce, doctor, export, import_, score):
    cli.add_command(verb)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 (a run failed) or 2 (a wrong request)."""
    try:
        cli.main(args=argv, prog_name="circuitbench", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as help_:
        click.echo(help_.format_message())
        return 0
    except Failed as failed:
        err_console.print(f"error: {failed}", style="red", markup=False, soft_wrap=True)
        return failed.status
    except click.ClickException as error:
        return _report(_click_message(error), 2)
    except CircuitBenchError as error:
        return _report(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _report("interrupted", 130)
    except BrokenPipeError:
        # The reader (head, say) has what it wanted; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("CIRCUITBENCH_DEBUG"):
            raise
        return _report(
            f"internal error: {type(error).__name__}: {error}; "
            "set CIRCUITBENCH_DEBUG=1 for the traceback and please report it",
            1,
        )
    return 0


def _report(message: str, status: int) -> int:
    line = " ".join(message.split())
    err_console.print(f"error: {line}", style="red", markup=False, soft_wrap=True)
    return status


def _warn(message: str) -> None:
    err_console.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)


def _click_message(error: click.ClickException) -> str:
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        known = [name for p in error.ctx.command.params for name in p.opts if name.startswith("--")]
        return f"unknown option {error.option_name!r}; {nearest(error.option_name, known)}"
    return error.format_message()


def _save(record: Record, out: Path) -> Path:
    """Write the record; if the folder fails now, save it elsewhere rather than lose it."""
    from circuitbench.results import write_record

    try:
        return write_record(record, out)
    except CircuitBenchError as error:
        refuge = Path(tempfile.mkdtemp(prefix="circuitbench-"))
        raise InvalidSpec(
            f"{error}; the record was saved to {write_record(record, refuge)}"
        ) from error
