"""Packages as strangers would install them: a module, and metadata with entry points."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def install(
    folder: Path, name: str, entry_points: Mapping[str, Mapping[str, str]], **modules: str
) -> None:
    """What pip would leave in ``folder``: ``{group: {name: target}}`` and the modules' sources."""
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
    meta = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, entries in entry_points.items():
        lines += [f"[{group}]", *(f"{key} = {target}" for key, target in entries.items())]
    (meta / "entry_points.txt").write_text("\n".join(lines) + "\n")


def circuitbench(folder: Path, *words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """The command line in a process that finds ``folder``'s packages; ``before`` runs first."""
    code = f"import sys; {before}\nfrom circuitbench.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
