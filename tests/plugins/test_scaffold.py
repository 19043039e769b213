"""What `circuitbench new` writes is whole: clean, installable, tested, checked, and usable."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import strangers

from circuitbench.cli.commands import main
from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.plugins.scaffold import LONGEST, WHATS, write_project

ROOT = Path(__file__).parents[2]
LONG = f"{'a' * 15}-{'b' * 16}"
NAMES = {"method": LONG, "task": LONG, "model": LONG, "metric": LONG.replace("-", "_")}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One project of every kind, their names as long as can be."""
    folder = tmp_path_factory.mktemp("projects")
    for i, (what, name) in enumerate(NAMES.items()):
        write_project(what, f"{name[:-1]}{i}", folder / what)
    return {what: folder / what for what in NAMES}


def declared(project: Path) -> tuple[dict[str, Any], str, dict[str, dict[str, str]]]:
    """The project's table, its module, and its entry points by group."""
    table = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    (entries,) = table["entry-points"].values()
    (target,) = entries.values()
    return table, target.partition(":")[0], table["entry-points"]


def test_names_are_as_long_as_they_may_be() -> None:
    assert len(LONG) == LONGEST


@pytest.mark.parametrize("what", WHATS)
def test_a_new_project_is_small_and_clean(what: str, projects: dict[str, Path]) -> None:
    project = projects[what]
    _, module, _ = declared(project)
    assert len((project / f"{module}.py").read_text().splitlines()) <= 40
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "--no-cache", "."],
            cwd=project,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_new_projects_are_well_typed(projects: dict[str, Path]) -> None:
    """With our settings, which are strict, so that what `make lint` has read is not read again."""
    paths = [path for project in projects.values() for path in project.glob("*.py")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *map(str, paths)],
        cwd=ROOT,
        env={"MYPYPATH": os.pathsep.join(map(str, projects.values())), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# The tests of all new projects, and what the verbs say of them, in one process: each costs seconds.
INSTALLED = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
import pytest
from circuitbench.cli.commands import main

assert pytest.main(["-q", "-p", "no:cacheprovider", "-W", "error", "."]) == 0
for what, name in json.loads(sys.argv[1]).items():
    with redirect_stdout(io.StringIO()) as out:
        assert main(["check", name, "--json"]) == 0
    (report,) = json.loads(out.getvalue())
    assert {finding["standing"] for finding in report["findings"]} == {"kept"}, report
    assert main(["new", what, name]) == 2
"""


@pytest.mark.slow
def test_new_projects_keep_their_contracts_once_installed(
    projects: dict[str, Path], tmp_path: Path
) -> None:
    names = {}
    for what, project in projects.items():
        table, module, groups = declared(project)
        source = (project / f"{module}.py").read_text()
        strangers.install(tmp_path, table["name"], groups, **{module: source})
        (tmp_path / f"test_{module}.py").write_text((project / f"test_{module}.py").read_text())
        ((names[what],),) = groups.values()
    done = subprocess.run(
        [sys.executable, "-c", INSTALLED, json.dumps(names)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout
    taken = [line for line in done.stderr.splitlines() if "exists already" in line]
    assert len(taken) == 4
    assert all(f"circuitbench-{'a' * 15}" in line for line in taken)


@pytest.mark.slow
def test_a_new_project_can_be_built(projects: dict[str, Path]) -> None:
    """What pip would install: the module and its entry point, nothing else."""
    import zipfile

    from hatchling.builders.wheel import WheelBuilder

    (path,) = WheelBuilder(str(projects["method"])).build(versions=["standard"])
    names = zipfile.ZipFile(path).namelist()
    _, module, _ = declared(projects["method"])
    assert [name for name in names if ".dist-info/" not in name] == [f"{module}.py"]
    assert any(name.endswith("entry_points.txt") for name in names)


@pytest.mark.parametrize(
    ("what", "name", "part"),
    [
        ("method", "acdc", "circuitbench_baselines.acdc:ACDC (circuitbench"),
        ("metric", "f1", "exists already: f1 (circuitbench)"),
        ("task", "torch", "would hide"),
        ("task", "json", "would hide"),
        ("model", "class", "would hide"),
        ("method", "My-Method", "small letters"),
        ("method", "../up", "small letters"),
        ("method", "a" * (LONGEST + 1), "at most"),
        ("metric", "first-hit", "first_hit"),
        ("metod", "mine", "did you mean 'method'"),
    ],
)
def test_a_wrong_name_is_refused_in_one_line(
    what: str,
    name: str,
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", what, name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_project("method", "mine-alone", tmp_path / "new")
    with pytest.raises(InvalidSpec, match="is there already"):
        write_project("method", "mine-alone", tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSpec, match="is there already"):
        write_project("method", "mine-alone", tmp_path / "file")
    with pytest.raises(InvalidSpec, match="cannot write"):
        write_project("method", "mine-alone", tmp_path / "file" / "below")
    with pytest.raises(UnknownName):
        write_project("thing", "mine-alone", tmp_path / "thing")
