"""The verb of this package: reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from circuitbench import InvalidSpec, UnknownName
from circuitbench.cli.display import out_console, progress_bar


class Experiments(click.Group):
    """A group that tells an unknown experiment the nearest."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the experiment; raises :class:`UnknownName` for one that does not exist."""
        if args and self.get_command(ctx, args[0]) is None:
            raise UnknownName("experiment", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


@click.group(cls=Experiments)
def reproduce() -> None:
    """Repeat a paper's experiment; ours beside the published figures.

    \b
    Example:
      circuitbench reproduce mib --model hf:gpt2 --methods edge-attribution-patching
      circuitbench reproduce acdc --model hf:gpt2 --tasks ioi --set acdc-edges.prefilter=3000
      circuitbench reproduce mechrl --quick --out mechrl/
    """


def benchmark_options(command: Any) -> Any:
    """What a table of edges takes."""
    options = [
        click.option("--model", required=True, help="hf:NAME_OR_FOLDER, or any other model."),
        click.option("--methods", help="Ours, by comma (default: all that the paper has too)."),
        click.option(
            "--prompts", type=int, default=32, show_default=True, help="Prompts per discovery."
        ),
        click.option("--seeds", default="0", show_default=True, help="0,1,2 or 0-4."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="METHOD.KEY=VALUE",
            help="A hyperparameter, e.g. acdc-edges.prefilter=3000.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@reproduce.command()
@benchmark_options
@click.option("--task", default="ioi-wang", show_default=True, help="Or a file of MIB's prompts.")
@click.option("--case", help="Folder of an InterpBench case: AUROC against its edges too.")
@click.option("--out", type=Path, default=Path("mib"), show_default=True, help="Folder.")
def mib(out: Path, **options: Any) -> None:
    """CMD and CPR of edge methods on IOI, as MIB computes them.

    \b
    Example:
      circuitbench reproduce mib --model hf:gpt2
      circuitbench reproduce mib --model hf:gpt2 --methods eap-ig-inputs --prompts 100
    """
    _tables("mib", out, options)


@reproduce.command()
@benchmark_options
@click.option("--tasks", help="docstring, greater-than, ioi, by comma (default: those that fit).")
@click.option("--out", type=Path, default=Path("acdc"), show_default=True, help="Folder.")
def acdc(out: Path, **options: Any) -> None:
    """Edge AUC against the circuits that ACDC is scored against.

    \b
    Example:
      circuitbench reproduce acdc --model hf:gpt2 --tasks ioi --set acdc-edges.prefilter=3000
    """
    _tables("acdc", out, options)


def _tables(experiment: str, out: Path, options: dict[str, Any]) -> None:
    from circuitbench.cli.options import parse_names
    from circuitbench.results import check_folder
    from circuitbench.runs.spec import parse_assignment
    from circuitbench.runs.sweep_file import parse_seeds
    from circuitbench_experiments.published.measure import EXPERIMENTS, Settings
    from circuitbench_experiments.published.report import markdown, write_report

    hyperparameters: dict[str, dict[str, Any]] = {}
    for text in options.pop("assignments"):
        key, value = parse_assignment(text)
        method, dot, name = key.partition(".")
        if not dot:
            raise InvalidSpec(f"--set takes METHOD.KEY=VALUE here, not {text!r}")
        hyperparameters.setdefault(method, {})[name] = value
    if options["prompts"] < 2:
        raise InvalidSpec(f"--prompts must be 2 or more, not {options['prompts']}")
    for name in ("methods", "tasks"):
        if options.get(name) is not None:
            options[name] = tuple(parse_names(options[name]))
    options["seeds"] = tuple(parse_seeds(options["seeds"]))
    settings = Settings(**options, hyperparameters=hyperparameters)
    check_folder(out)
    with progress_bar(experiment) as progress:
        tables = EXPERIMENTS[experiment](settings, out, lambda done, text: progress(text, done))
    paths = write_report(tables, out)
    click.echo(markdown(tables))
    out_console.print("written: " + ", ".join(map(str, paths)), soft_wrap=True)


@reproduce.command()
@click.option(
    "--paper", default="v1", show_default=True, help="Its version: v1 (heads), v2 (edges)."
)
@click.option("--model", help="Instead of the embedded one, e.g. hf:gpt2@folded.")
@click.option("--quick", is_flag=True, help="Fewer steps and prompts.")
@click.option("--seeds", help="0,1,2 or 0-4: each a training (default: five, of v2 quick two).")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting.")
@click.option("--out", type=Path, default=Path("mechrl"), show_default=True, help="Folder.")
def mechrl(paper: str, assignments: tuple[str, ...], **options: Any) -> None:
    """Repeat MechRL's experiment, its evaluation repaired; resumable.

    \b
    Example:
      circuitbench reproduce mechrl --quick --out mechrl/
      circuitbench reproduce mechrl --set seeds=5 --set held_out_task=docstring
      circuitbench reproduce mechrl --model hf:gpt2@folded --set device=cuda
      circuitbench reproduce mechrl --paper v2 --quick --out mechrl-edges/
      circuitbench reproduce mechrl --paper v2 --set acdc-edges.prefilter=3000
    """
    from circuitbench.runs.spec import parse_assignment

    versions = {"v1": _heads, "v2": _edges}
    if paper not in versions:
        raise UnknownName("version of the paper", paper, list(versions))
    versions[paper](overrides=dict(map(parse_assignment, assignments)), **options)


def _heads(
    model: str | None, quick: bool, seeds: str | None, overrides: dict[str, Any], out: Path
) -> None:
    """The first version."""
    from dataclasses import asdict

    from circuitbench.results import check_folder
    from circuitbench.runs.spec import configure
    from circuitbench.runs.sweep_file import parse_seeds
    from circuitbench_experiments.mechrl import protocol
    from circuitbench_experiments.mechrl.report import markdown, write_report

    base = asdict(protocol.QUICK) if quick else {}
    if model is not None:
        base |= protocol.on_model(model)
    if seeds is not None:
        named = parse_seeds(seeds)
        if named != list(range(len(named))):
            raise InvalidSpec(f"seeds of v1 are counted from 0, e.g. 0-{len(named)}, not {seeds!r}")
        base["seeds"] = len(named)
    settings = configure(protocol.MechRL, {**base, **overrides}, "mechrl")
    check_folder(out)
    with progress_bar("mechrl") as progress:
        results = protocol.reproduce(settings, out, lambda done, text: progress(text, done))
    paths = write_report(results, out)
    click.echo(markdown(results))
    if settings.train_tasks == protocol.PUBLISHED["train_tasks"]:
        from circuitbench_experiments.published import mechrl as published

        paths += _beside(published.table(settings, results), out)
    out_console.print("written: " + ", ".join(map(str, paths)), soft_wrap=True)


def _edges(
    model: str | None, quick: bool, seeds: str | None, overrides: dict[str, Any], out: Path
) -> None:
    """The second version."""
    from circuitbench.results import check_folder
    from circuitbench.runs.spec import configure
    from circuitbench.runs.sweep_file import parse_seeds
    from circuitbench_experiments.mechrl_edges import protocol, settings
    from circuitbench_experiments.mechrl_edges.report import markdown, write_report
    from circuitbench_experiments.published import mechrl as published

    name = settings.Edges.model if model is None else model
    base = {**settings.on_model(name), **(settings.quick(name) if quick else {})}
    if seeds is not None:
        base["seeds"] = tuple(parse_seeds(seeds))
    mine = settings.by_method({**base, **overrides})
    chosen = configure(settings.Edges, mine, "mechrl --paper v2")
    check_folder(out)
    with progress_bar("mechrl v2") as progress:
        results = protocol.reproduce(chosen, out, lambda done, text: progress(text, done))
    paths = write_report(results, out)
    click.echo(markdown(results))
    paths += _beside(published.edge_table(chosen, results), out)
    out_console.print("written: " + ", ".join(map(str, paths)), soft_wrap=True)


def _beside(table: Any, out: Path) -> list[Path]:
    """Show and keep a paper's table with ours beside it."""
    from circuitbench_experiments.published import report

    click.echo(report.markdown([table]))
    return report.write_report([table], out, "published")
