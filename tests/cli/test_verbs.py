"""Verbs come by entry point; one that is broken hurts nobody who does not call it."""

import re
from pathlib import Path

import pytest
from strangers import circuitbench, install

GROUP = "circuitbench.commands"
GREET = '''
import click
import {needs}


@click.command()
@click.argument("name")
def greet(name):
    """Say hello. And more."""
    click.echo(f"hello {{name}}")
'''
HEAVY = (
    "import atexit; atexit.register(lambda: print('heavy:', sorted({'torch', 'numpy', 'pandas', "
    "'circuitbench_leaderboard', 'circuitbench_experiments', 'friend'} & set(sys.modules))))"
)


@pytest.fixture
def strangers(tmp_path: Path) -> Path:
    """One good verb and five bad ones."""
    install(tmp_path, "friend", {GROUP: {"greet": "friend:greet"}}, friend=GREET.format(needs="os"))
    install(
        tmp_path,
        "broken",
        {GROUP: {"hurt": "broken:greet", "absent": "nowhere:greet", "number": "numbers_:N"}},
        broken=GREET.format(needs="no_such_module"),
        numbers_="N = 3\n",
    )
    install(tmp_path, "twin", {GROUP: {"twice": "friend:greet"}})
    install(tmp_path, "other", {GROUP: {"twice": "friend:greet", "list": "friend:greet"}})
    return tmp_path


def test_help_lists_every_verb_and_imports_none(strangers: Path) -> None:
    done = circuitbench(strangers, "--help", before=HEAVY)
    assert done.returncode == 0, done.stderr
    rows = dict(re.findall(r"^  ([\w-]+) +(.*)$", done.stdout, re.M))
    assert rows["greet"] == "Say hello."
    assert rows["hurt"] == "Say hello."  # its source can be read, whatever it imports
    assert rows["leaderboard"].startswith("Make tables")
    assert rows["reproduce"].startswith("Repeat")
    assert "registered twice" in rows["twice"]
    assert "unusable" in rows["absent"]
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_a_strangers_verb_runs(strangers: Path) -> None:
    done = circuitbench(strangers, "greet", "world")
    assert (done.returncode, done.stdout) == (0, "hello world\n")


@pytest.mark.parametrize(
    ("verb", "parts"),
    [
        ("hurt", ("broken:greet", "broken 1.0", "no_such_module")),
        ("absent", ("nowhere:greet", "nowhere")),
        ("number", ("must be a click command", "int")),
        ("twice", ("registered twice", "twin 1.0", "other 1.0")),
        ("list", ("registered twice", "circuitbench itself", "other 1.0")),
        ("gret", ("did you mean 'greet'",)),
    ],
)
def test_a_bad_verb_is_one_clear_line(strangers: Path, verb: str, parts: tuple[str, ...]) -> None:
    done = circuitbench(strangers, verb, "methods")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line
    assert "Traceback" not in done.stderr
