"""The core works without any extra, and what needs one says which, in one line."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from strangers import circuitbench
from synthetic_records import record

from circuitbench.core.extras import EXTRAS, MissingExtra, needs_extra
from circuitbench.results import write_record

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = {
    "circuitbench": ROOT / "circuitbench",
    "circuitbench_agents": ROOT / "agents" / "circuitbench_agents",
    "circuitbench_baselines": ROOT / "baselines" / "circuitbench_baselines",
    "circuitbench_experiments": ROOT / "experiments" / "circuitbench_experiments",
    "circuitbench_leaderboard": ROOT / "leaderboard" / "circuitbench_leaderboard",
}
BLOCK = """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def without(packages: Iterable[str], folder: Path, *words: str) -> tuple[int, str, str]:
    """The command line where these packages are not installed: status, output, errors."""
    done = circuitbench(folder, *words, before=BLOCK.format(packages=set(packages)))
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_the_core_works_without_any_extra(tmp_path: Path) -> None:
    for method in ("random", "acdc", "head-ablation"):
        run = ("run", "--in-process", "--method", method, "--batch-size", "4")
        status, _, errors = without(EXTRAS, tmp_path, *run)
        assert status == 0, errors
    written, *others = (tmp_path / "results").glob("*.json")
    assert len(others) == 2
    for words in (
        ("--help",),
        ("list", "methods"),
        ("list", "models", "--json"),
        ("show", str(written)),
        ("validate", "results"),
        ("leaderboard", "results", "--format", "markdown"),
    ):
        status, output, errors = without(EXTRAS, tmp_path, *words)
        assert (status, errors) == (0, ""), words
        assert output
    code = f"import sys\n{BLOCK.format(packages=set(EXTRAS))}\nimport circuitbench as c\n" + (
        "for name in c._homes(): getattr(c, name)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("gymnasium", ("run", "--in-process", "--method", "rl-ppo")),
        ("stable_baselines3", ("run", "--in-process", "--method", "rl-reinforce")),
        ("cma", ("run", "--in-process", "--method", "cma-es")),
        ("sklearn", ("run", "--in-process", "--method", "subset-regression")),
        ("matplotlib", ("validate-task", "histogram", "--figure", "card.png")),
        ("seaborn", ("reproduce", "mechrl", "--quick")),
        ("huggingface_hub", ("run", "--method", "random", "--model", "gpt2")),
    ],
)
def test_what_needs_an_extra_says_which(
    package: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CIRCUITBENCH_WEIGHTS", raising=False)
    status, _, errors = without([package], tmp_path, *words)
    assert status == 2, errors
    line = errors.splitlines()[-1]
    assert re.fullmatch(
        rf"error: .+ needs {package}: pip install 'circuitbench\[{EXTRAS[package]}\]'", line
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "format_"), [("matplotlib", "markdown"), ("seaborn", "csv"), ("jinja2", "html")]
)
def test_figures_and_page_say_which_extra_they_need(
    package: str, format_: str, tmp_path: Path
) -> None:
    write_record(record("random", "ioi"), tmp_path / "results")
    words = ("leaderboard", "results", "--format", format_, "--out", "site")
    status, _, errors = without([package], tmp_path, *words)
    assert status == 2, errors
    assert f"needs {package}: pip install 'circuitbench[figures]'" in errors.splitlines()[-1]


def test_another_missing_package_is_not_blamed_on_an_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), needs_extra("this"):
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
    with (
        pytest.raises(MissingExtra, match=r"a wish needs cma: .*\[learning\]"),
        needs_extra("a wish"),
    ):
        raise ModuleNotFoundError("No module named 'cma.options'", name="cma.options")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: Iterable[str]) -> set[str]:
    """Names of distributions, without versions; our own extras are left out."""
    names = {normal(re.split(r"[\s<>=!~;\[]", text)[0]) for text in requirements}
    return names - {"circuitbench"}


def imported(lazily: bool) -> dict[str, set[str]]:
    """Top-level name -> modules that import it; with ``lazily`` from inside functions only."""
    found: dict[str, set[str]] = {}
    for folder in PACKAGES.values():
        for path in folder.rglob("*.py"):
            tree = ast.parse(path.read_text())
            inside = {
                id(node)
                for function in ast.walk(tree)
                if isinstance(function, ast.FunctionDef)
                or (isinstance(function, ast.If) and "TYPE_CHECKING" in ast.unparse(function.test))
                for node in ast.walk(function)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module or ""]
                else:
                    continue
                if (id(node) in inside) == lazily:
                    for name in names:
                        top = name.partition(".")[0]
                        found.setdefault(top, set()).add(path.relative_to(ROOT).as_posix())
    ours = {*sys.stdlib_module_names, *PACKAGES}
    return {name: where for name, where in found.items() if name not in ours}


# Parts of another package that are imported by a name of their own.
ALONG = {"markupsafe": "jinja2", "pydantic_core": "pydantic"}


# Extras that no environment of ours installs: what brings a module.
SAID = {"mlflow": ["mlflow-skinny"], "ray": ["ray"], "wandb": ["wandb"]}


def distributions(names: Iterable[str]) -> set[str]:
    known = {**SAID, **packages_distributions()}
    return {normal(known[ALONG.get(name, name)][0]) for name in names}


OPTIONAL = PROJECT["optional-dependencies"]
# Extras of what we work with, not of what users import.
TOOLS = ("all", "dev", "docs")
# Imported by packages of ours that an extra brings, never by us: torch's and sb3's event writers.
INDIRECT = {"tensorboard"}


def test_whatever_is_imported_is_declared_and_the_other_way_round() -> None:
    users = declared(
        text for extra, texts in OPTIONAL.items() if extra not in TOOLS for text in texts
    )
    names = {**imported(False), **imported(True)}
    assert distributions(names) == (declared(PROJECT["dependencies"]) | users) - INDIRECT


def test_the_table_of_extras_is_that_of_pyproject() -> None:
    known = {**SAID, **packages_distributions()}
    for name, extra in EXTRAS.items():
        names = {normal(x) for x in known.get(name, [name])}
        assert names & declared(OPTIONAL[extra]), name
    tabled = {normal(known.get(name, [name])[0]) for name in EXTRAS}
    for extra, texts in OPTIONAL.items():
        if extra not in TOOLS:
            assert declared(texts) <= tabled, extra


def test_the_core_imports_extras_inside_functions_only() -> None:
    base = declared(PROJECT["dependencies"])
    eager = {
        name: where
        for name, paths in imported(False).items()
        if (where := {path for path in paths if path.startswith("circuitbench/")})
    }
    assert distributions(eager) <= base, eager
