"""The verb that begins a plug-in."""

from __future__ import annotations

from pathlib import Path

import click

from circuitbench.cli.display import out_console
from circuitbench.core.errors import InvalidSpec


@click.command()
@click.argument("what", metavar="method|task|model|metric")
@click.argument("name")
@click.option("--folder", type=Path, help="Where to write it (default: a folder NAME here).")
def new(what: str, name: str, folder: Path | None) -> None:
    """Begin a plug-in of your own: a small installable project with a test of the contract.

    \b
    Example:
      circuitbench new method layer-knockout
      circuitbench new metric first_hit --folder ~/metrics/first-hit
    """
    from circuitbench.plugins.scaffold import WHATS, write_project

    if what in WHATS:
        from circuitbench.checks.plugin import origins

        taken = origins(what, name)
        if taken:
            raise InvalidSpec(f"{what} {name!r} exists already: {' and '.join(taken)}")
    target = folder or Path(name)
    for path in write_project(what, name, target):
        out_console.print(f"wrote {path}", soft_wrap=True, markup=False)
    out_console.print(
        f"next: pip install --editable '{target}[dev]' && circuitbench check {name}",
        soft_wrap=True,
        markup=False,
    )
