"""The shell command that repeats a run."""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from circuitbench.runs.spec import SPEC_KEYS, RunSpec


def command_line(spec: RunSpec) -> str:
    """The shell command that repeats a run."""
    words = ["circuitbench", "run"]
    defaults = RunSpec()
    for key in SPEC_KEYS:
        value = getattr(spec, key)
        if key == "hyperparameters":
            continue
        if key in ("method", "task", "model", "seed") or value != getattr(defaults, key):
            words += [f"--{key.replace('_', '-')}", str(value)]
    for key, value in spec.hyperparameters.items():
        words += ["--set", f"{key}={_yaml(value)}"]
    return shlex.join(words)


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
