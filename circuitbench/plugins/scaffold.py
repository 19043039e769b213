"""A small installable project that holds one plug-in, to begin with."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Mapping
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template

from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.core.version import __version__

WHATS = ("method", "task", "model", "metric")
LONGEST = 32  # characters of a name: lines of the templates stay within 100
# What to change in the plug-in first, and the command that shows it at work.
TODO = {
    "method": "Replace what `discover` asks and concludes.",
    "task": "Replace the prompts, then the truth.",
    "model": "Replace the random weights.",
    "metric": "Replace `compute`.",
}
USE = {
    "method": "circuitbench run --method $name --task ioi",
    "task": "circuitbench run --method head-ablation --task $name",
    "model": "circuitbench doctor --model $name",
    "metric": "circuitbench list metrics",
}


def write_project(what: str, name: str, folder: Path) -> list[Path]:
    """Write the project of a new ``what`` called ``name``; returns the files.

    Raises:
        UnknownName: ``what`` is no kind of plug-in.
        InvalidSpec: the name is none, or its module would hide another, or something lies in
            ``folder``, or it cannot be written.
    """
    if what not in WHATS:
        raise UnknownName("kind of plug-in", what, WHATS)
    words = _words(what, name)
    texts = {
        f"{words['module']}.py": _filled(f"{what}.py", words),
        f"test_{words['module']}.py": _filled(f"test_{what}.py", words),
        "pyproject.toml": _filled("pyproject.toml", words),
        "README.md": _filled("README.md", words),
    }
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InvalidSpec(f"{folder} is there already; nothing is overwritten (--folder)")
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidSpec(f"cannot write to {folder}: {error.strerror or error}") from error
    return [folder / file for file in texts]


def _words(what: str, name: str) -> dict[str, str]:
    """What stands for the ``$words`` of the templates."""
    pattern, example = (
        (r"[a-z][a-z0-9]*(_[a-z0-9]+)*", "first_hit")
        if what == "metric"
        else (r"[a-z][a-z0-9]*(-[a-z0-9]+)*", "layer-knockout")
    )
    if not re.fullmatch(pattern, name) or len(name) > LONGEST:
        raise InvalidSpec(
            f"not a name for a new {what}: {name!r}; expected small letters and digits in words "
            f"like {example}, {LONGEST} characters at most"
        )
    parts = re.split("[-_]", name)
    module = "_".join(parts)
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or find_spec(module):
        raise InvalidSpec(f"a module {module!r} would hide Python's or an installed one; rename it")
    camel = "".join(part.capitalize() for part in parts)
    return {
        "what": what,
        "name": name,
        "module": module,
        "object": {"model": "build", "metric": module.upper()}.get(what, camel),
        "title": " ".join(parts).capitalize(),
        "distribution": f"circuitbench-{'-'.join(parts)}",
        "version": __version__,
        "todo": TODO[what],
        "use": Template(USE[what]).substitute(name=name),
    }


def _filled(template: str, words: Mapping[str, str]) -> str:
    text = (files(__package__) / "templates" / f"{template}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(words)
