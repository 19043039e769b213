"""From a folder of records to a table, figures and a page."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal

from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.core.extras import needs_extra
from circuitbench.evaluation.metrics import DEFAULT, ranking_metric
from circuitbench.plugins.tiers import TIERS
from circuitbench.results import TABLE_FILE, write_atomically
from circuitbench.results.index import read_runs
from circuitbench_leaderboard import formats
from circuitbench_leaderboard.board import Board, board
from circuitbench_leaderboard.cards import read_health
from circuitbench_leaderboard.groups import tier_of, tiers_in_order
from circuitbench_leaderboard.tables import tables
from circuitbench_leaderboard.truth_free.page import STEM

Format = Literal["markdown", "csv", "latex", "html", "json"]
FORMATS: tuple[Format, ...] = ("markdown", "csv", "latex", "html", "json")


def load_board(
    results: Path | str,
    by: str = DEFAULT,
    warn: Callable[[str], None] = lambda line: None,
    intervals: bool = False,
    tasks: Collection[str] | None = None,
    seeds: Collection[int] | None = None,
    workers: int = 1,
    commit: str | None = None,
    tier: str | None = None,
) -> Board:
    """Read a results folder and rank what is in it.

    ``warn`` gets one line per file that is left out; ``intervals`` asks for those of all quality
    metrics; ``tasks``, ``seeds`` and ``tier`` keep only those runs; ``workers`` as in
    :func:`circuitbench.results.index.read_runs`; ``commit`` as in
    :func:`circuitbench_leaderboard.sources.choose_source`. Raises :class:`InvalidSpec` for a folder
    that is absent or holds no usable record and for a metric that cannot rank,
    :class:`UnknownName` for an unknown metric or tier, or a task that no record is about.
    """
    chosen = ranking_metric(by)
    if tier is not None and tier not in TIERS:
        raise UnknownName("tier", tier, TIERS)
    runs, problems = read_runs(results, warn, workers=workers)
    for problem in problems:
        warn(f"left out {problem}")
    if not runs:
        why = f"all {len(problems)} files in it are unusable" if problems else "it is empty"
        raise InvalidSpec(
            f"no records in {results}: {why}; make one with "
            f"'circuitbench run --method random --out {results}'"
        )
    known = {run.task for run in runs}
    for task in tasks or ():
        if task not in known:
            raise UnknownName("task", task, known)
    kept = [
        run
        for run in runs
        if (not tasks or run.task in tasks)
        and (not seeds or run.seed in seeds)
        and (tier is None or tier_of(run) == tier)
    ]
    if not kept:
        there = ", ".join(tiers_in_order(tier_of(run) for run in runs))
        raise InvalidSpec(
            f"no records in {results} have the tasks, seeds and tier asked for; its tiers: {there}"
        )
    return board(kept, problems, chosen, intervals, commit)


def render(
    results: Path | str,
    format: str = "markdown",
    out: Path | str | None = None,
    *,
    by: str = DEFAULT,
    warn: Callable[[str], None] = lambda line: None,
    tasks: Collection[str] | None = None,
    seeds: Collection[int] | None = None,
    workers: int = 1,
    commit: str | None = None,
    health: Path | str | None = None,
    tier: str | None = None,
) -> str:
    """The leaderboard of a results folder as text.

    Args:
        results: folder of records.
        format: ``markdown``, ``csv`` (one line per method, task and model), ``latex``, ``html``
            (the page; printed, all in one) or ``json``.
        out: folder for the same text as a file, the figures (PNG and SVG), and for ``csv`` all
            tables. Links to records are relative to it, or else to the working directory. Where
            the page of ``circuitbench predict-truth`` is in it, the page links to that.
        by: the metric that ranks.
        warn: gets one line per file that is left out.
        tasks, seeds, tier: compare on these alone; None or empty takes all there are.
        workers: processes that read many new records, see
            :func:`circuitbench.results.index.read_runs`.
        commit: the version or commit that is ranked, see
            :func:`circuitbench_leaderboard.sources.choose_source`.
        health: folder of cards of tasks (``circuitbench validate-task TASK --json``), which the
            page shows.

    Returns:
        What to print: the table, or with ``html`` and ``out`` the page's path.

    Raises:
        UnknownName: an unknown format, metric, tier or task.
        InvalidSpec: no records, or ``out`` cannot be written.
    """
    if format not in FORMATS:
        raise UnknownName("format", format, FORMATS)
    shown = load_board(results, by, warn, format == "html", tasks, seeds, workers, commit, tier)
    base = Path(out) if out is not None else Path()
    if format != "html" and out is None:
        return next(iter(_texts(shown, format, base).values()))
    # Drawing libraries take a second to import; a table should not wait for them.
    with needs_extra("a figure"):
        from circuitbench_leaderboard.figures import draw, write_figures

    drawings = draw(shown)
    if format == "html":
        with needs_extra("the page"):
            from circuitbench_leaderboard import page

        cards = read_health(health, warn) if health is not None else {}
        if out is None:
            return page.single_page(shown, tables(shown), drawings, base, cards)
        beside = f"{STEM}.html"
        linked = beside if (base / beside).is_file() else ""
        files = page.pages(shown, tables(shown), drawings, base, cards, linked)
        printed = str(base / page.SHELL)
    else:
        files = _texts(shown, format, base)
        printed = next(iter(files.values()))
    write_figures(drawings, base / "figures")
    for file, content in files.items():
        write_atomically(base / file, content)
    if format == "html":
        page.remove_stale_details(base, files)
    return printed


def _texts(shown: Board, format: str, base: Path) -> dict[str, str]:
    """File name -> text; the first one is what gets printed."""
    made = tables(shown)
    if format == "csv":
        # A task or model may hold a colon, which not every file system takes.
        texts = {
            f"{t.key.replace(':', '-')}.csv": formats.csv_text(t, base) for t in made if t.rows
        }
        first = "tasks.csv" if "tasks.csv" in texts else "external.csv"
        return {first: texts.pop(first), **texts}
    if format == "json":
        return {TABLE_FILE: formats.json_text(shown, made, base)}
    if format == "latex":
        return {"leaderboard.tex": formats.latex(shown, made, base)}
    return {"leaderboard.md": formats.markdown(shown, made, base)}
