"""The example of docs/plugins.md, installed as a stranger's package would be."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

DOC = Path(__file__).parents[2] / "docs" / "plugins.md"


def install(folder: Path) -> None:
    """What pip leaves in site-packages: the module, and metadata with the entry point."""
    python, config, *_ = (
        m[1] for m in re.finditer(r"```(?:python|toml)\n(.*?)```", DOC.read_text(), re.S)
    )
    (folder / "knockout.py").write_text(python)
    meta = folder / "stranger-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    ((name, target),) = re.findall(r'^([\w-]+) = "(.+)"$', config, re.M)
    (meta / "entry_points.txt").write_text(f"[circuitbench.methods]\n{name} = {target}\n")


def circuitbench(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "circuitbench", *words],
        env={**os.environ, "PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_strangers_method_runs_like_ours_and_keeps_the_contract(tmp_path: Path) -> None:
    install(tmp_path)
    listed = json.loads(circuitbench(tmp_path, "list", "methods", "--json"))
    assert {
        "name": "layer-knockout",
        "target": "knockout:LayerKnockout",
        "origin": "stranger 1.0",
    } in listed
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
