"""A behaviour in a file, from the command line to the board; no Python of the user's."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from circuitbench.cli import main
from circuitbench.results import read_folder
from circuitbench.tasks.text.task import read_task

PAGE = (Path(__file__).parents[2] / "docs/your-behaviour.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(# [\w.]+\n.*?)```", PAGE, re.S)
TASK = (
    EXAMPLES[0]
    + """\
truths:
  mine:
    source: a guess
    kind: ambiguous
    models: planted-easy
    layers: 12
    heads: 12
    roles: {mover: {heads: "0.0"}}
truth: mine
"""
)


def test_the_examples_of_the_docs_hold(tmp_path: Path) -> None:
    for text in EXAMPLES:
        path = tmp_path / text.splitlines()[0].removeprefix("# ")
        path.write_text(text)
        read_task(str(path))
    truths = re.search(r"```yaml\n(truths:.*?)```", PAGE, re.S)
    assert truths is not None
    path.write_text(EXAMPLES[1] + truths[1])
    assert list(read_task(str(path)).truths) == ["wang-2022-ioi", "mine"]
    assert len(EXAMPLES) == 2


def test_from_a_file_to_the_board(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "who.yaml").write_text(TASK)
    common = ["--method", "attribution-patching", "--batch-size", "4"]
    assert main(["run", "--task", "mine/who.yaml", "--truth", "none", *common]) == 0
    out = capsys.readouterr().out
    assert "none is known" in out
    assert "faithfulness, resample ablation" in out
    (record,) = read_folder(Path("results"))[0]
    assert record.task.startswith("who.yaml@")
    assert record.spec["truth"] == "none"
    assert record.truth == {}
    assert record.info["task"]["title"] == "Who was given it"
    assert "mine" not in json.dumps(record.content())
    monkeypatch.chdir(folder)
    words = record.command.split()[1:]
    assert main([*words, "--out", str(tmp_path / "again")]) == 0  # the command repeats the run
    (again,) = read_folder(tmp_path / "again")[0]
    assert (again.run_id, again.discovery) == (record.run_id, record.discovery)
    capsys.readouterr()
    results = str(tmp_path / "results")
    assert main(["show", record.run_id, "--results", results]) == 0
    assert "nobody knows which are true" in capsys.readouterr().out
    assert main(["validate", results]) == 0
    assert main(["leaderboard", results]) == 0
    board = capsys.readouterr().out
    assert "Nobody knows the circuit of these tasks" in board
    assert "| 1 | [attribution-patching](#runs-1) | **" in board
    # Beside a run with a truth, it has a table of its own.
    assert (
        main(["run", "--task", "who.yaml", *common, "--functional", "none", "--out", results]) == 0
    )
    assert "AUROC" in capsys.readouterr().out
    assert main(["leaderboard", results]) == 0
    board = capsys.readouterr().out
    assert "## Tasks without a known circuit" in board
    assert board.count("| who.yaml@") == 2
    assert main(["leaderboard", results, "--by", "cmd_resample"]) == 0
    assert "## Tasks without a known circuit" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "none.yaml"], "cannot read none.yaml: No such file"),
        (["--task", "odd name.yaml"], "not a task name"),
        (["--task", "who.yaml", "--truth", "mien"], "did you mean 'mine'"),
        (["--task", "who.yaml", "--model", "compiled-sort"], "has no tokenizer"),
        (["--task", "ioi", "--control", "x.txt"], "only files take another"),
        (["--task", "who.yaml", "--control", "x.txt"], "cannot read x.txt"),
    ],
)
def test_wrong_requests_are_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("who.yaml", "odd name.yaml"):
        Path(name).write_text(TASK)
    status = main(["run", "--method", "random", "--functional", "none", *arguments])
    captured: Any = capsys.readouterr()
    assert said in captured.err + captured.out
    assert status in (1, 2)
