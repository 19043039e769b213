"""The site, as far as can be told without building it; `make docs` builds it."""

import ast
import re
import runpy
import shlex
import shutil
from pathlib import Path

import click
import pytest
import yaml
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

import circuitbench
from circuitbench.cli.commands import cli

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
GENERATED = {"methods", "tasks", "models", "all-metrics", "reference"}


def test_every_page_is_in_the_navigation_once() -> None:
    trees = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(), re.S)
    named = [line for tree in trees for line in tree.splitlines() if line and line[0] != ":"]
    assert len(named) == len(set(named))
    own = {name for name in named if "/" not in name}
    assert own == {page.stem for page in PAGES} - {"index"}
    assert {name.partition("/")[2] for name in named if "/" in name} == GENERATED


def test_every_figure_is_used_and_small() -> None:
    text = "".join(page.read_text() for page in [*PAGES, ROOT / "README.md"])
    for figure in (DOCS / "figures").iterdir():
        assert f"figures/{figure.name}" in text, figure.name
        assert figure.stat().st_size < 1_000_000


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        for block in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S):
            found.append((page.name, block))
    return found


def commands() -> list[tuple[str, str]]:
    """Every command of ours that a page shows, one line each, without comments."""
    lines = []
    for page, block in [*blocks("console"), *blocks(""), *blocks("bash")]:
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("circuitbench "):
                lines.append((page, line))
    return lines


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda x: x[:60])
def test_every_command_of_the_docs_exists_with_its_options(page: str, line: str) -> None:
    name, *words = shlex.split(line, comments=True)[1:]
    if name == "greet":
        pytest.skip("the example's own verb")
    verb = cli if name.startswith("-") else cli.get_command(click.Context(cli), name)
    while isinstance(verb, click.Group) and words and not words[0].startswith("-"):
        verb = verb.get_command(click.Context(verb), words.pop(0))
    assert verb is not None, line
    known = {option for p in verb.params for option in (*p.opts, *p.secondary_opts)}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in known | {"--help"}, line


RUNNABLE = [page for page in PAGES if "```python" in page.read_text()]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one record."""
    folder = tmp_path_factory.mktemp("results")
    circuitbench.run("random", task="reverse", batch_size=4, functional="none", results=folder)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::circuitbench.checks.contracts.UndescribedPlugin")
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.stem)
def test_examples_run(
    page: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of Python, in order, in one namespace per page; what is shown as a file is one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copytree(results, tmp_path / "results")
    for name, source in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page.read_text(), re.S):
        (tmp_path / name).write_text(source)
    sybil = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()])
    for example in sybil.parse(page).examples():
        example.evaluate()


def test_the_story_is_python() -> None:
    text = (DOCS / "story.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["file_format"] == "mystnb"
    cells = re.findall(r"```\{code-cell\} ipython3\n(.*?)```", text, re.S)
    ast.parse("\n".join(cells))
    assert len(cells) > 5


@pytest.mark.slow
def test_cards_and_reference_are_made_of_what_is_installed(tmp_path: Path) -> None:
    made = runpy.run_path(str(DOCS / "generate.py"))
    made["write"](tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == GENERATED
    methods = (tmp_path / "methods.md").read_text()
    assert "## acdc\n\n**ACDC over heads** · Mask search · [Conmy et al. 2023](" in methods
    assert "| `threshold` | `" in methods
    assert ":class:" not in methods
    reference = (tmp_path / "reference.rst").read_text()
    for line in (
        ".. autoclass:: circuitbench.Discovery",
        ".. autofunction:: circuitbench.run",
        ".. py:data:: circuitbench.GRADIENT_COST",
    ):
        assert line in reference
