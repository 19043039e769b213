"""What the docs refer to exists: files, sections, scripts, modules."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "circuitbench",
    "baselines",
    "agents",
    "leaderboard",
    "experiments",
    "benchmarks",
    "docs",
    "tests",
)
SOURCES = [path.as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "leaderboard/published/README.md"]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http:", "https:")):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_and_modules_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(r"[\w/]+/\w+\.py\b", text):
        assert any(source.endswith(f"/{path}") for source in SOURCES), path
    for name in re.findall(r"(?:from|import|-m) (circuitbench[\w.]*)", text):
        path = name.replace(".", "/")
        places = (f"/{path}.py", f"/{path}/__init__.py")
        assert any(source.endswith(places) for source in SOURCES), name
