"""The verb of this package: reproduce."""

from __future__ import annotations

from pathlib import Path

import click

from circuitbench import UnknownName
from circuitbench.cli.display import out_console, progress_bar


@click.command()
@click.argument("experiment", metavar="mechrl")
@click.option("--quick", is_flag=True, help="Fewer steps and prompts.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting.")
@click.option("--out", type=Path, default=Path("mechrl"), show_default=True, help="Folder.")
def reproduce(experiment: str, quick: bool, assignments: tuple[str, ...], out: Path) -> None:
    """Repeat MechRL's experiment, its evaluation repaired; resumable.

    \b
    Example:
      circuitbench reproduce mechrl --quick --out mechrl/
      circuitbench reproduce mechrl --set seeds=5 --set held_out_task=docstring
    """
    if experiment != "mechrl":
        raise UnknownName("experiment", experiment, ["mechrl"])
    from dataclasses import asdict

    from circuitbench.results import check_folder
    from circuitbench.runs.spec import configure, parse_assignment
    from circuitbench_experiments.mechrl import protocol as mechrl
    from circuitbench_experiments.mechrl.report import markdown, write_report

    base = asdict(mechrl.QUICK) if quick else {}
    overrides = dict(parse_assignment(text) for text in assignments)
    settings = configure(mechrl.MechRL, {**base, **overrides}, "mechrl")
    check_folder(out)
    with progress_bar("mechrl") as progress:
        results = mechrl.reproduce(settings, out, lambda done, text: progress(text, done))
    paths = write_report(results, out)
    click.echo(markdown(results))
    out_console.print("written: " + ", ".join(map(str, paths)), soft_wrap=True)
