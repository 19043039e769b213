"""The verbs of this package: leaderboard, predict-truth, compare, submit, verify."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from circuitbench.cli.display import progress_bar, warn
from circuitbench.cli.options import fail, parse_names
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
@click.option("--tier", help="Only this tier: easy, standard, hard, trained, literature.")
@click.option("--commit", help="The commit or version that is ranked, or any (default: of most).")
@click.option("--health", type=Path, help="Folder of health cards (validate-task --json) to show.")
@click.option("--out", type=Path, help="Folder for the table, the figures and the page.")
def leaderboard(
    results: Path,
    format_: str,
    by: str | None,
    tasks: str | None,
    seeds: str | None,
    tier: str | None,
    commit: str | None,
    health: Path | None,
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
    options |= {"workers": os.cpu_count() or 1, "commit": commit, "health": health, "tier": tier}
    click.echo(render(results, format_, out, warn=warn, **options).rstrip("\n"))


@click.command(name="predict-truth")
@click.argument("results", type=Path)
@click.option(
    "--format", "format_", default="markdown", show_default=True, help="markdown, html, json."
)
@click.option("--commit", help="The commit or version that counts, or any (default: of most).")
@click.option("--out", type=Path, help="Folder for the page.")
def predict_truth(results: Path, format_: str, commit: str | None, out: Path | None) -> None:
    """Say whether numbers that need no truth predict those that do.

    \b
    Example:
      circuitbench predict-truth results/
      circuitbench predict-truth results/ --format html --out site/
    """
    from circuitbench_leaderboard.truth_free.page import render_report

    workers = os.cpu_count() or 1
    click.echo(render_report(results, format_, out, warn, workers, commit).rstrip("\n"))


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


@click.command()
@click.argument("results", type=Path)
@click.option("--method", help="Which one, where the folder holds several.")
@click.option("--package", default="", help="What pip installs to have the method.")
@click.option("--tuned-on", default="", help="On what its settings were chosen.")
@click.option(
    "--out",
    type=Path,
    default=Path("submissions"),
    show_default=True,
    help="Where the folder of the submission is written.",
)
def submit(results: Path, method: str | None, package: str, tuned_on: str, out: Path) -> None:
    """Pack a method's records for a pull request, and check them.

    \b
    Example:
      circuitbench submit results/ --method my-method --package my-methods==1.0 \\
          --tuned-on "planted seeds 100-199"
    """
    from circuitbench_leaderboard.submission import submit as pack

    made = pack(results, out, tuned_on=tuned_on, method=method, package=package, warn=warn)
    click.echo(made.text.rstrip("\n"))
    click.echo(f"\nwritten: {made.folder}; docs/submitting.md says what to do with it")


@click.command()
@click.argument("folder", type=Path)
@click.option("--number", type=int, required=True, help="Draws which runs are repeated.")
def verify(folder: Path, number: int) -> None:
    """Repeat one run per task of a submission, and compare the numbers.

    \b
    Example:
      circuitbench verify leaderboard/submissions/my-method --number 7211
    """
    from circuitbench_leaderboard.submission import verify as check

    with progress_bar(f"verify {folder.name}") as progress:
        found = check(folder, number, progress=progress)
    click.echo(found.text())
    if found.verification.outcome != "verified":
        fail(f"{folder.name} is not verified", 1)
