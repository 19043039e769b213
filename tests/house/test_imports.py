"""The import contracts catch what they forbid (that they hold is part of `make lint`)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "circuitbench": ".",
    "circuitbench_baselines": "baselines",
    "circuitbench_agents": "agents",
    "circuitbench_leaderboard": "leaderboard",
    "circuitbench_experiments": "experiments",
}
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The five packages' sources in one folder, to plant an import in."""
    folder = tmp_path_factory.mktemp("house")
    only_source = shutil.ignore_patterns("*.safetensors", "*.json", "__pycache__")
    for name, parent in PACKAGES.items():
        shutil.copytree(ROOT / parent / name, folder / name, ignore=only_source)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.mark.parametrize(
    ("contract", "importer", "imported"),
    [
        ("packages", "circuitbench/runs/planted.py", "circuitbench_agents"),
        ("packages", "circuitbench_baselines/planted.py", "circuitbench_agents"),
        ("packages", "circuitbench_leaderboard/planted.py", "circuitbench_agents"),
        ("leaderboard", "circuitbench_leaderboard/planted.py", "circuitbench_baselines"),
        ("face", "circuitbench_baselines/planted.py", "circuitbench.oracle.heads"),
        ("rooms", "circuitbench/models/planted_import.py", "circuitbench.oracle.heads"),
        ("rooms", "circuitbench/attic/__init__.py", "circuitbench.core"),
        ("circles", "circuitbench/core/errors.py", "circuitbench.core.circuit"),
    ],
)
def test_a_forbidden_import_breaks_its_contract(
    house: Path, contract: str, importer: str, imported: str
) -> None:
    path = house / importer
    before = path.read_text() if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{before or ''}\nimport {imported}\n")
    done = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache", "--contract", contract],
        cwd=house,
        env={**os.environ, "PYTHONPATH": str(house)},
        capture_output=True,
        text=True,
    )
    if before is not None:
        path.write_text(before)
    else:
        path.unlink()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout, done.stdout
    culprit = path.parent.name if path.name == "__init__.py" else path.stem
    assert culprit in done.stdout
