"""What is installed: five packages under their own names, with their data, found where they lie."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "circuitbench": ROOT / "circuitbench",
    "circuitbench_agents": ROOT / "agents" / "circuitbench_agents",
    "circuitbench_baselines": ROOT / "baselines" / "circuitbench_baselines",
    "circuitbench_experiments": ROOT / "experiments" / "circuitbench_experiments",
    "circuitbench_leaderboard": ROOT / "leaderboard" / "circuitbench_leaderboard",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files in the wheel."""
    from hatchling.builders.wheel import WheelBuilder

    builder = WheelBuilder(str(ROOT))
    (path,) = builder.build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    return zipfile.ZipFile(path).namelist()


def test_a_wheel_installs_our_packages_and_nothing_under_a_bare_name(wheel: list[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_a_wheel_holds_every_file_of_the_packages(wheel: list[str]) -> None:
    wanted = {
        path.relative_to(folder.parent).as_posix()
        for folder in PACKAGES.values()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert wanted <= set(wheel)
    suffixes = {Path(name).suffix for name in wanted}
    assert {".py", ".typed", ".safetensors", ".json", ".css", ".js", ".j2"} <= suffixes


def test_an_editable_install_points_at_the_folders_themselves(tmp_path: Path) -> None:
    """Editors and type checkers follow plain paths in a ``.pth`` file, not import hooks."""
    look = (
        "import sys, importlib.util as u; "
        "[print(u.find_spec(name).origin) for name in sys.argv[1:]]; "
        "print([f for f in sys.meta_path if 'editable' in repr(f).lower()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", look, *PACKAGES],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    *origins, hooks = done.stdout.splitlines()
    assert list(map(Path, origins)) == [path / "__init__.py" for path in PACKAGES.values()]
    assert hooks == "[]"


@pytest.mark.parametrize("name", ["agents", "baselines", "leaderboard", "experiments"])
def test_our_folders_never_hide_somebody_elses_package(name: str, tmp_path: Path) -> None:
    """An editable install puts the repository on the path, whose folders are bare names there."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    look = f"import sys; sys.path.append({str(tmp_path)!r}); import {name}; print({name}.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", look], cwd=ROOT.parent, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == tmp_path / name / "__init__.py"
