"""Progress to be seen: a bar on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from circuitbench.runs.progress import Progress, silent


@contextmanager
def progress_bar(title: str, console: Console) -> Iterator[Progress]:
    """A bar where ``console`` can move its cursor, plain lines where it cannot."""
    if not console.is_terminal and not console.is_jupyter:
        last = ""

        def line(stage: str, fraction: float | None) -> None:
            nonlocal last
            # One line per stage and per tenth of it: a log should stay readable.
            tenth = "" if fraction is None else f" {int(fraction * 10) * 10}%"
            mark = stage.split(" ")[0] + tenth
            if mark != last:
                console.print(f"{title}: {stage}{tenth}", markup=False, soft_wrap=True)
                last = mark

        yield line
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        item = bar.add_task(title, total=None)

        def update(stage: str, fraction: float | None) -> None:
            total = None if fraction is None else 1.0
            bar.update(item, description=f"{title}: {stage}", total=total, completed=fraction or 0)

        yield update


def shown_progress(
    title: str, progress: Progress | bool | None
) -> AbstractContextManager[Progress]:
    """The progress that was asked for: your own, a bar (True), none (False).

    None shows a bar in a notebook, where nothing else says that something happens, and nothing
    in a script.
    """
    console = Console(stderr=True, highlight=False)
    if progress is None:
        progress = console.is_jupyter
    if console.is_jupyter and find_spec("ipywidgets") is None:  # what rich moves a bar with there
        console = Console(stderr=True, highlight=False, force_jupyter=False, force_terminal=False)
    if isinstance(progress, bool):
        return progress_bar(title, console) if progress else nullcontext(silent)
    return nullcontext(progress)
