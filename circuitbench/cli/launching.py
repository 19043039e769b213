"""The options that say where the runs of a sweep run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from circuitbench.cli.options import parse_names
from circuitbench.core.errors import InvalidSpec, nearest

if TYPE_CHECKING:
    from circuitbench.runs.launch.base import Launcher

LAUNCHERS = ("local", "ray")
LAUNCHING = ("launcher", "address", "workers", "threads", "gpus_per_run", "devices")


def launcher_options(command: Any) -> Any:
    """Where, how many at a time, and with what of the machine."""
    options = [
        click.option("--launcher", default="local", show_default=True, help="local or ray."),
        click.option("--address", help="Ray cluster, auto or host:port (default: a new one)."),
        click.option(
            "--workers", type=int, help="Runs at a time (default 1; on Ray all there is room for)."
        ),
        click.option(
            "--threads", type=int, help="Threads of each (default: cores / workers; on Ray 1)."
        ),
        click.option("--gpus-per-run", type=float, help="Share of a GPU, on Ray, e.g. 0.25."),
        click.option("--devices", help="CUDA devices for local workers in turn, e.g. 0,1."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def launcher_of(options: Mapping[str, Any], out: Path | None, many: bool) -> Launcher:
    """The launcher that a command line states.

    Args:
        options: of :func:`launcher_options`.
        out: folder that the workers write records to; None if they are to write none.
        many: whether there are many runs.

    Raises:
        UnknownName, InvalidSpec, MissingExtra: options that do not go together, and what the
            launcher itself refuses.
    """
    name = options["launcher"]
    if name not in LAUNCHERS:
        raise InvalidSpec(f"no launcher {name!r}; {nearest(name, LAUNCHERS)}")
    other = ("devices",) if name == "ray" else ("address", "gpus_per_run")
    for key in other:
        if options[key] is not None:
            option = f"--{key.replace('_', '-')}"
            needs = "local" if name == "ray" else "ray"
            raise InvalidSpec(f"{option} is for --launcher {needs}; leave it out")
    if name == "ray":
        from circuitbench.runs.launch.on_ray import Ray

        gpus = options["gpus_per_run"] or 0.0
        return Ray(options["address"], options["workers"], options["threads"], gpus, out)
    from circuitbench.runs.launch.local import Local

    workers = 1 if options["workers"] is None else options["workers"]
    devices = parse_names(options["devices"] or "")
    return Local(workers, options["threads"], devices, libraries=many)
