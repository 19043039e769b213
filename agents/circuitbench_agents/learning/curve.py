"""The learning curve: its points, where they are shown, and when training has failed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from stable_baselines3.common.logger import make_output_format

from circuitbench import MissingExtra

EXPLODED = 1e6  # a loss beyond this has left the range of any reward in this project


@dataclass(frozen=True)
class CurvePoint:
    """Learning after ``steps`` environment steps: means over the last update's episodes.

    ``hits`` are an episode's actions that showed something, as its environment counts them.
    """

    steps: int
    queries: int
    episode_return: float | None
    hits: float | None
    entropy: float
    loss: float
    seconds: float

    def line(self, done: float) -> str:
        """The figures for a progress bar, with the time left if ``done`` is the share done."""
        mean = "-" if self.episode_return is None else f"{self.episode_return:.2f}"
        hits = "-" if self.hits is None else f"{self.hits:.1f}"
        minutes, seconds = divmod(round(self.seconds * (1 / done - 1)), 60)
        left = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        return f"return {mean}, hits {hits}, {self.queries} queries, {left} left"


@contextmanager
def event_writer(folder: Path | None) -> Iterator[Callable[[CurvePoint], None]]:
    """A function that writes curve points as TensorBoard events; does nothing without a folder.

    Raises:
        MissingExtra: the ``tensorboard`` package is not installed.
    """
    if folder is None:
        yield lambda point: None
        return
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingExtra("tensorboard", "a folder for TensorBoard events")
    output = make_output_format("tensorboard", str(folder))

    def write(point: CurvePoint) -> None:
        figures = {key: value for key, value in asdict(point).items() if value is not None}
        output.write(figures, dict.fromkeys(figures, ()), point.steps)

    try:
        yield write
    finally:
        output.close()
