"""What verbs share: the options of a run, where settings come from, how a verb fails."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, get_args

import click

from circuitbench.core.errors import InvalidSpec
from circuitbench.oracle.ablations import ABLATIONS
from circuitbench.oracle.engine.devices import PRECISIONS, Device
from circuitbench.runs.isolation.limits import Limits, parse_bytes

truth_option = click.option(
    "--truth", help="Which circuit a task's file is scored against, or none (default: its own)."
)
control_option = click.option(
    "--control", help="Text file for control spans (default: the task's own text)."
)


def spec_options(command: Any) -> Any:
    """The options of every verb that runs a method; absent ones stay None."""
    options = [
        click.option(
            "--model",
            help="Model, model@variant, hf:NAME_OR_FOLDER or folder:PATH; default: the task's own.",
        ),
        click.option("--budget", type=int, help="Most oracle queries discovery may spend."),
        click.option("--ablation", help=f"What replaces a head: {_one_of(ABLATIONS)}."),
        click.option(
            "--weight", type=float, help="Price of control damage in the reward (default 1)."
        ),
        click.option("--batch-size", type=int, help="Prompts per batch (default 32)."),
        truth_option,
        control_option,
        click.option("--device", help=f"{_one_of(get_args(Device))}."),
        click.option("--precision", help=f"{_one_of(PRECISIONS)}."),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="KEY=VALUE",
            help="A hyperparameter, e.g. threshold=0.1 or ppo.gamma=0.9.",
        ),
        click.option("--config", type=Path, help="YAML file of settings; options override it."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


functional_option = click.option(
    "--functional", help="Truth-free tests: none, quick or full (default quick)."
)
out_option = click.option("--out", type=Path, help="Folder for records (default results/).")


def training_options(command: Any) -> Any:
    """Where a learner saves and shows its training; no part of what is run."""
    command = click.option(
        "--tensorboard", type=Path, help="Folder for TensorBoard events of a training."
    )(command)
    return click.option(
        "--checkpoints", type=Path, help="Folder to save a training in, and to go on from."
    )(command)


track_option = click.option(
    "--track", help="Show finished runs in mlflow, tensorboard or wandb (default: none)."
)


def isolation_options(command: Any) -> Any:
    """What a method may take, and where it runs."""
    command = click.option(
        "--in-process",
        is_flag=True,
        help="Run methods in this process, with everything in their reach; for debugging.",
    )(command)
    command = click.option(
        "--memory", metavar="SIZE", help="Memory a method may take, e.g. 4G (default: no limit)."
    )(command)
    return click.option(
        "--timeout", type=float, help="Seconds a method may take (default: no limit)."
    )(command)


def limits_of(timeout: float | None, memory: str | None, in_process: bool = False) -> Limits:
    """The limits that a command line states.

    Raises :class:`InvalidSpec` for a value that is none, and for limits on what is in this process.
    """
    limits = Limits(timeout, None if memory is None else parse_bytes(memory))
    if in_process and limits != Limits():
        raise InvalidSpec("--timeout and --memory need a process of its own for each method")
    return limits


def wants_raise(reraise: bool) -> bool:
    """Whether ``--raise`` or ``CIRCUITBENCH_DEBUG`` asks for errors as they are."""
    return reraise or bool(os.environ.get("CIRCUITBENCH_DEBUG"))


raise_option = click.option(
    "--raise",
    "reraise",
    is_flag=True,
    help="Raise what goes wrong, with its traceback, --in-process; so does CIRCUITBENCH_DEBUG=1.",
)


class LetThrough(Exception):
    """Carries an error past the one-line report, to be raised as it was."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def letting_through(wanted: bool) -> Iterator[None]:
    """Let every error out of the command line as it is, if that is wanted."""
    try:
        yield
    except Exception as error:
        if wanted:
            raise LetThrough(error) from error
        raise


class Failed(Exception):
    """Ends a verb with a message and an exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def fail(message: str, status: int) -> NoReturn:
    """End a verb with a message and an exit status: 1 (a run failed) or 2 (a wrong request)."""
    raise Failed(message, status)


def settings_of(
    options: dict[str, Any], single: bool = True
) -> tuple[list[Mapping[str, Any]], Path]:
    """Settings from the config file and the command line, in rising rank, and the out folder."""
    from circuitbench.runs.spec import parse_assignment, read_config

    config, out = options.pop("config"), options.pop("out", None)
    assignments = dict(parse_assignment(text) for text in options.pop("assignments"))
    layers: list[Mapping[str, Any]] = []
    folder = out or Path("results")
    if config is not None:
        content = read_config(config)
        if out is None and "out" in content:
            folder = Path(str(content["out"]))
        content.pop("out", None)
        for key in ("method", "task", "seed"):
            if not single and key in content:
                raise InvalidSpec(
                    f"{config}: a sweep takes --{key}s on the command line, not {key!r}"
                )
        layers.append(content)
    layers.append({key: value for key, value in options.items() if value is not None})
    layers.append({"hyperparameters": assignments})
    return layers, folder


def _one_of(names: Iterable[str]) -> str:
    """``zero (default), mean or resample``: names for a help text, the default first."""
    first, *others = names
    return ", ".join([f"{first} (default)", *others[:-1]]) + f" or {others[-1]}"


def parse_names(text: str) -> list[str]:
    """Names separated by commas, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
