"""The command line: parses, calls, prints. Nothing is computed here."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from circuitbench.cli.circuits import export, import_, score
from circuitbench.cli.display import (
    err_console,
    head_grid_lines,
    out_console,
    progress_bar,
    summary,
    warn,
)
from circuitbench.cli.examine import check, doctor, stability, validate_task
from circuitbench.cli.new import new
from circuitbench.cli.options import (
    Failed,
    LetThrough,
    fail,
    functional_option,
    isolation_options,
    letting_through,
    limits_of,
    out_option,
    raise_option,
    settings_of,
    spec_options,
    track_option,
    training_options,
    wants_raise,
)
from circuitbench.cli.signals import Terminated, terminating
from circuitbench.cli.sweeping import status, sweep
from circuitbench.cli.verbs import Verbs
from circuitbench.core.errors import CircuitBenchError, InvalidSpec, nearest
from circuitbench.core.extras import missing_extra
from circuitbench.core.version import __version__
from circuitbench.runs.failure import shown


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
@click.option("--task", help="Task (default induction) or file; see `circuitbench list tasks`.")
@click.option("--seed", type=int, help="Root of every random draw (default 0).")
@click.option("--json", "as_json", is_flag=True, help="Print the record instead of the summary.")
@spec_options
@functional_option
@isolation_options
@training_options
@track_option
@out_option
@raise_option
def run(
    as_json: bool,
    in_process: bool,
    reraise: bool,
    timeout: float | None,
    memory: str | None,
    checkpoints: Path | None,
    tensorboard: Path | None,
    track: str | None,
    **options: Any,
) -> None:
    """Run one method on one task and write one record.

    \b
    Example:
      circuitbench run --method rl-ppo
      circuitbench run --method acdc --task ioi --seed 3
      circuitbench run --method acdc --set threshold=0.1 --set objective=metric
      circuitbench run --method rl-ppo --set ppo.gamma=0.9 --checkpoints training/
      circuitbench run --task ./my-task.yaml --model gpt2 --method acdc
      circuitbench run --config run.yaml --budget 144
    """
    reraise = wants_raise(reraise)
    in_process = in_process or reraise
    limits = limits_of(timeout, memory, in_process)
    settings, out = settings_of(options)
    from circuitbench.evaluation.metrics import metrics
    from circuitbench.results import check_folder, remove_leftovers
    from circuitbench.runs.once import loading, run_and_write
    from circuitbench.runs.prepare import prepare
    from circuitbench.runs.spec import build_spec
    from circuitbench.runs.tracking import tracking
    from circuitbench.runs.trainings import forget, tools_of

    spec = build_spec(*settings)
    metrics()  # a metric that is refused is said now, not after the work
    remove_leftovers(check_folder(out))
    with (
        tracking(track, out, warn) as tracked,
        progress_bar(f"{spec.method} on {spec.task}") as progress,
        letting_through(reraise),
        loading(in_process, limits, _pass_on) as method_of,
    ):
        progress("loading", None)
        prepared = prepare(spec, method_of=method_of)
        tools = tools_of(prepared, out, checkpoints, tensorboard)
        record = run_and_write(prepared, out, progress, tools=tools, reraise=reraise)
        forget(out, record)
        tracked(record)
    if as_json:
        click.echo(json.dumps(record.content(), indent=1))
    else:
        out_console.print(summary(record))
        out_console.print(f"record: {record.path}", soft_wrap=True)
    if record.status != "done":
        fail(f"run {record.ending}: {record.reason} (record: {record.path})", 1)


@cli.command(name="list")
@click.argument("what", metavar="methods|tasks|models|metrics")
@click.option("--tier", help="Only tasks of this tier: easy, standard, hard, trained, literature.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(what: str, tier: str | None, as_json: bool) -> None:
    """List what is installed, ours and third parties'; imports no plug-in.

    \b
    Example:
      circuitbench list methods
      circuitbench list tasks --tier hard
    """
    from circuitbench.cli.listing import WIDTH, rows_of, table_of

    rows = rows_of(what, tier)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        out_console.print(table_of(what, rows), width=WIDTH)


@cli.command()
@click.argument("record", metavar="RECORD")
@click.option(
    "--results",
    type=Path,
    default=Path("results"),
    show_default=True,
    help="Where to look for a run id.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the verified record as JSON.")
def show(record: str, results: Path, as_json: bool) -> None:
    """Show one stored run: scores, truth, costs, and the command that repeats it.

    RECORD is a file, a file in an archive as if that were a folder, or a run id (its first
    digits are enough).

    \b
    Example:
      circuitbench show results/acdc_ioi_planted_seed3_0123456789abcdef.json
      circuitbench show published/acdc.zip/acdc_ioi_planted_seed3_0123456789abcdef.json
      circuitbench show 01234567 --results published/
    """
    from circuitbench.results import find_record, read_record

    is_path = record.endswith(".json") or Path(record).exists()
    loaded = read_record(record) if is_path else find_record(record, results)
    if as_json:
        click.echo(json.dumps(loaded.content(), indent=1))
        return
    out_console.print(summary(loaded))
    if loaded.status != "done":
        out_console.print(f"{loaded.ending}: {loaded.reason}", markup=False, soft_wrap=True)
        if loaded.traceback:
            out_console.print(loaded.traceback.rstrip(), markup=False, soft_wrap=True)
    else:
        for line in head_grid_lines(loaded):
            out_console.print(line, markup=False, soft_wrap=True)
    if loaded.command:
        out_console.print(f"repeat with: {loaded.command}", soft_wrap=True)


@cli.command()
@click.argument("results", type=Path)
def validate(results: Path) -> None:
    """Check every record of a folder: schema, checksum, duplicates, content.

    \b
    Example:
      circuitbench validate results/
    """
    from circuitbench.results.validate import validate as validate_folder

    report = validate_folder(results)
    if report.ok and not report.n_records:
        raise InvalidSpec(f"no records in {results}")
    click.echo(report.text(), nl=False)
    if not report.ok:
        fail(f"{_counted(len(report.problems), 'problem')} in {results}", 1)


@cli.command()
@click.argument("results", type=Path)
@click.option("--out", type=Path, help="Folder for the archives (default: the same folder).")
@click.option("--remove", is_flag=True, help="Then remove the files that the archives replace.")
def archive(results: Path, out: Path | None, remove: bool) -> None:
    """Pack the records of a folder into a few compressed files, one per method.

    Archives are read like a folder of records by every verb. Records of an older schema are
    converted. What cannot be read is named and left alone.

    \b
    Example:
      circuitbench archive results/ --out published/
      circuitbench archive results/ --remove
    """
    from circuitbench.results.packing import pack_folder

    packed = pack_folder(results, out or results, remove, warn=warn)
    size = sum(path.stat().st_size for path in packed.archives)
    click.echo(
        f"{_counted(packed.n_records, 'record')} in {_counted(len(packed.archives), 'archive')} "
        f"in {out or results} ({size:,} bytes); {_counted(packed.n_removed, 'file')} removed"
    )


for verb in (new, check, sweep, status, stability, validate_task, doctor, export, import_, score):
    cli.add_command(verb)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status.

    0; 1 where a run failed; 2 for a wrong request; 130 after Ctrl-C; 143 after SIGTERM.
    """
    try:
        with terminating():
            cli.main(args=argv, prog_name="circuitbench", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as help_:
        click.echo(help_.format_message())
        return 0
    except LetThrough as through:
        raised = through.error
    except Failed as failed:
        err_console.print(f"error: {failed}", style="red", markup=False, soft_wrap=True)
        return failed.status
    except click.ClickException as error:
        return _report(_click_message(error), 2)
    except CircuitBenchError as error:
        return _report(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _report("interrupted; the same command goes on from here", 130)
    except Terminated:
        return _report("terminated; the same command goes on from here", 143)
    except BrokenPipeError:
        # The reader (head, say) has what it wanted; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        missing = missing_extra(error, "this command")
        if missing is not None:
            return _report(str(missing), missing.exit_code)
        if wants_raise(False):
            raise
        return _report(
            f"internal error: {type(error).__name__}: {error}; "
            "set CIRCUITBENCH_DEBUG=1 for the traceback and please report it",
            1,
        )
    else:
        return 0
    raise raised


def _pass_on(printed: bytes) -> None:
    """Show what a method prints, beside the progress."""
    text = printed.decode("utf-8", "replace")
    err_console.print(shown(text, len(text), keep="\n\t"), markup=False, end="", soft_wrap=True)


def _counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def _report(message: str, status: int) -> int:
    line = " ".join(message.split())
    err_console.print(f"error: {line}", style="red", markup=False, soft_wrap=True)
    return status


def _click_message(error: click.ClickException) -> str:
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        known = [name for p in error.ctx.command.params for name in p.opts if name.startswith("--")]
        return f"unknown option {error.option_name!r}; {nearest(error.option_name, known)}"
    return error.format_message()
