"""The example of docs/plugins.md, installed as a stranger's package would be."""

import json
import re
import subprocess
import sys
from pathlib import Path

import strangers

DOC = Path(__file__).parents[2] / "docs" / "plugins.md"


def install_example(folder: Path) -> None:
    """The example of the documentation, with the entry point it states."""
    text = DOC.read_text()
    (source,) = re.findall(r"```python\n(# knockout\.py\n.*?)```", text, re.S)
    ((name, target),) = re.findall(r'^([\w-]+) = "(knockout:.+)"$', text, re.M)
    strangers.install(folder, "stranger", {"circuitbench.methods": {name: target}}, knockout=source)


def circuitbench(folder: Path, *words: str) -> str:
    done = strangers.circuitbench(folder, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_strangers_method_runs_like_ours_and_keeps_the_contract(tmp_path: Path) -> None:
    install_example(tmp_path)
    listed = json.loads(circuitbench(tmp_path, "list", "methods", "--json"))
    (ours,) = (row for row in listed if row["name"] == "layer-knockout")
    assert (ours["target"], ours["origin"]) == ("knockout:LayerKnockout", "stranger 1.0")
    assert (ours["title"], ours["family"]) == ("layer-knockout", "other")
    record = json.loads(
        circuitbench(
            tmp_path,
            "run",
            "--method",
            "layer-knockout",
            "--batch-size",
            "4",
            "--set",
            "threshold=0.2",
            "--json",
        )
    )
    assert record["status"] == "done"
    assert record["costs"]["discovery"]["queries"] == 12
    assert record["spec"]["hyperparameters"] == {"threshold": 0.2}
    assert record["versions"]["stranger"] == "1.0"
    check = (
        "import knockout, circuitbench.checks.contracts as c; "
        "c.check_method(knockout.LayerKnockout)"
    )
    subprocess.run([sys.executable, "-c", check], cwd=tmp_path, check=True)


def test_only_what_is_used_is_loaded_and_lists_go_on_working(tmp_path: Path) -> None:
    """Two plug-ins of one name and a broken one beside ours."""
    group = "circuitbench.methods"
    strangers.install(
        tmp_path, "one", {group: {"twin": "one:A", "broken": "one:A"}}, one="import no_such_module"
    )
    strangers.install(tmp_path, "two", {group: {"twin": "two:A"}}, two="raise SystemExit(3)")
    listed = json.loads(circuitbench(tmp_path, "list", "methods", "--json"))
    assert [row["origin"] for row in listed if row["name"] == "twin"] == ["one 1.0", "two 1.0"]
    assert "twin" in circuitbench(tmp_path, "list", "methods")
    assert circuitbench(tmp_path, "run", "--method", "random", "--batch-size", "4")
    for method, parts in (
        ("twin", ("registered twice", "one:A (one 1.0)", "two:A (two 1.0)")),
        ("broken", ("one:A (one 1.0)", "no_such_module")),
    ):
        done = strangers.circuitbench(tmp_path, "run", "--method", method)
        assert done.returncode == 2
        assert all(part in done.stderr.splitlines()[-1] for part in parts)
