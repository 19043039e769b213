"""Finished runs shown in a tracker: MLflow, TensorBoard or Weights & Biases; off unless asked for.

A run is told once, when its record is there: what was asked for, its metrics, its curves over
queries. A tracker is told by the driver and can change nothing; one that fails ends no sweep.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from circuitbench.core.errors import InvalidSpec, nearest
from circuitbench.core.extras import MissingExtra, needs_extra
from circuitbench.results import Record
from circuitbench.results.run_row import RunRow
from circuitbench.runs.failure import one_line, shown
from circuitbench.runs.spec import dotted

TEXT = 500  # characters of a setting or a reason that are passed on
PROJECT = "circuitbench"


class Tracker(Protocol):
    """Where finished runs are shown. What it raises is said once, and is no run's failure."""

    def log(self, run: RunRow) -> None:
        """Show one run."""
        ...

    def close(self) -> None:
        """No more follow."""
        ...


Track = Callable[[Record], None]


@contextmanager
def tracking(name: str | None, out: Path, warn: Callable[[str], None]) -> Iterator[Track]:
    """A function that shows a record in a tracker, for as long as a block lasts.

    Args:
        name: of the tracker, see :data:`TRACKERS`; None shows nothing.
        out: folder of the records, in which TensorBoard's events go to ``tensorboard/RUN_ID``.
        warn: told when a tracker fails; it is left alone from then on.

    Raises:
        InvalidSpec: no such tracker, or it cannot be reached.
        MissingExtra: its package is not installed.
    """
    if name is None:
        yield lambda record: None
        return
    if name not in TRACKERS:
        raise InvalidSpec(f"no tracker {name!r}; {nearest(name, TRACKERS)}")
    try:
        tracker: Tracker | None = TRACKERS[name](out)
    except MissingExtra:
        raise
    except Exception as error:
        raise InvalidSpec(f"--track {name}: {shown(one_line(error), 300)}") from error

    def track(record: Record) -> None:
        nonlocal tracker
        if tracker is None:
            return
        try:
            tracker.log(RunRow.of(record))
        except Exception as error:
            warn(f"--track {name} failed, and is left out: {shown(one_line(error), 300)}")
            tracker = None

    try:
        yield track
    finally:
        if tracker is not None:
            with suppress(Exception):
                tracker.close()


class MLflow:
    """An MLflow run for each, in the experiment ``MLFLOW_EXPERIMENT_NAME`` or ``circuitbench``.

    The server or folder is what ``MLFLOW_TRACKING_URI`` says.
    """

    def __init__(self, out: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        with needs_extra("--track mlflow"):
            from mlflow import MlflowClient, entities
        self._client, self._entities = MlflowClient(), entities
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        made = self._client.create_experiment(name) if found is None else found.experiment_id
        self._experiment = made

    def log(self, run: RunRow) -> None:
        """See :class:`Tracker`."""
        told = self._client.create_run(self._experiment, run_name=title(run), tags=ending(run))
        now, number = int(1000 * time.time()), self._entities.Metric
        numbers = [number(key, value, now, 0) for key, value in run.values.items()]
        for key, curve in run.curves.items():
            numbers += [number(f"{key}_by_queries", value, now, step) for step, value in curve]
        settings = [self._entities.Param(key, value) for key, value in asked(run).items()]
        self._client.log_batch(told.info.run_id, params=settings[:100])
        for i in range(0, len(numbers), 1000):  # as many as one request may hold
            self._client.log_batch(told.info.run_id, metrics=numbers[i : i + 1000])
        good = run.status == "done"
        self._client.set_terminated(told.info.run_id, "FINISHED" if good else "FAILED")

    def close(self) -> None:
        """See :class:`Tracker`."""


class TensorBoard:
    """A folder of events for each run, ``tensorboard/RUN_ID`` beside the records."""

    def __init__(self, out: Path) -> None:
        if find_spec("tensorboard") is None:
            raise MissingExtra("tensorboard", "--track tensorboard")
        self._out = out / "tensorboard"

    def log(self, run: RunRow) -> None:
        """See :class:`Tracker`."""
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self._out / run.run_id)) as write:
            for key, value in run.values.items():
                write.add_scalar(key, value, 0)
            for key, curve in run.curves.items():
                for step, value in curve:
                    write.add_scalar(f"{key}_by_queries", value, step)
            said = {"run": title(run), **ending(run), **asked(run)}
            write.add_text("run", "\n\n".join(f"{key}: {value}" for key, value in said.items()))

    def close(self) -> None:
        """See :class:`Tracker`."""


class WeightsAndBiases:
    """A W&B run for each, in the project ``WANDB_PROJECT`` or ``circuitbench``.

    ``WANDB_MODE=offline`` keeps it on this machine, in the folder ``WANDB_DIR``.
    """

    def __init__(self, out: Path) -> None:
        with needs_extra("--track wandb"):
            import wandb
        self._wandb = wandb

    def log(self, run: RunRow) -> None:
        """See :class:`Tracker`."""
        told = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=title(run),
            config={**asked(run), **ending(run)},
            reinit=True,
            save_code=False,
            settings=self._wandb.Settings(silent=True, console="off", disable_git=True),
        )
        steps: dict[int, dict[str, float]] = {}
        for key, curve in run.curves.items():
            for step, value in curve:
                steps.setdefault(step, {})[f"{key}_by_queries"] = value
        for step in sorted(steps):
            told.log(steps[step], step=step)
        told.summary.update(dict(run.values))
        told.finish(exit_code=0 if run.status == "done" else 1)

    def close(self) -> None:
        """See :class:`Tracker`."""


TRACKERS: Mapping[str, Callable[[Path], Tracker]] = {
    "mlflow": MLflow,
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


def title(run: RunRow) -> str:
    """A run in words."""
    return f"{run.method} on {run.task} ({run.model_name}) seed {run.seed}"


def asked(run: RunRow) -> dict[str, str]:
    """Everything that was asked for, by dotted name, as text."""
    spec: dict[str, Any] = dotted(run.spec)
    return {key: shown(str(value), TEXT) for key, value in spec.items()}


def ending(run: RunRow) -> dict[str, str]:
    """Which run it is, and how it ended."""
    said = {"run_id": run.run_id, "status": run.status, "reason": shown(run.reason, TEXT)}
    return {key: value for key, value in said.items() if value}
