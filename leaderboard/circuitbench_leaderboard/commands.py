"""The verbs of this package: leaderboard, compare."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from circuitbench.cli.display import warn
from circuitbench.cli.options import parse_names
from circuitbench.runs.sweep_file import parse_seeds


@click.command()
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
    from circuitbench_leaderboard.render import render

    options: dict[str, Any] = {} if by is None else {"by": by}
    if tasks is not None:
        options["tasks"] = parse_names(tasks)
    if seeds is not None:
        options["seeds"] = parse_seeds(seeds)
    options["workers"] = os.cpu_count() or 1
    click.echo(render(results, format_, out, warn=warn, **options).rstrip("\n"))


@click.command()
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
    from circuitbench_leaderboard.compare import compare as compare_sides

    options = {} if by is None else {"by": by}
    click.echo(compare_sides(a, b, results, warn=warn, **options).text(), nl=False)
