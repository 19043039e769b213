"""`circuitbench check`: what it says of good and of broken plug-ins, and how it exits."""

import json
from pathlib import Path

import pytest
import strangers

from circuitbench.cli.commands import main

BROKEN = """
from dataclasses import dataclass
from circuitbench import Discovery, Metric
import numpy as np

@dataclass(frozen=True)
class Nan:
    def discover(self, oracle, rng):
        return self._answer(oracle)

    def _answer(self, oracle):
        return Discovery(np.full(oracle.shape, np.nan), frozenset())
"""
GROUP = "circuitbench.methods"


def test_a_good_plugin_exits_0_and_shows_every_promise(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "head-ablation"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("method head-ablation: circuitbench_baselines.ablation:HeadAblation")
    assert all(line.startswith("  ok ") for line in lines[1:-1])
    assert lines[-1] == f"All {len(lines) - 2} promises are kept."


def test_a_name_of_several_kinds_is_checked_as_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "trained-induction", "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [report["what"] for report in reports] == ["task", "model"]
    assert main(["check", "trained-induction", "--kind", "model", "--json"]) == 0
    assert [report["what"] for report in json.loads(capsys.readouterr().out)] == ["model"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["acd"], "did you mean 'acdc'"),
        (["acdc", "--kind", "tsk"], "did you mean 'task'"),
        (["acdc", "--kind", "task"], "unknown task 'acdc'"),
        (["acdc", "--model", "planted"], "only a task is checked on a model"),
        (["f1", "--set", "threshold=1"], "unknown method 'f1'"),
        (["acdc", "--set", "treshold=1"], "did you mean 'threshold'"),
        (["ioi", "--model", "planted-eas"], "did you mean 'planted-easy'"),
    ],
)
def test_a_wrong_request_exits_2(
    words: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *words]) == 2
    assert part in capsys.readouterr().err.splitlines()[-1]


def test_a_broken_plugin_exits_1_and_reads_as_advice(tmp_path: Path) -> None:
    strangers.install(
        tmp_path,
        "stranger",
        {GROUP: {"nan": "broken:Nan", "gone": "no_such_module:X", "twin": "broken:Nan"}},
        broken=BROKEN,
    )
    strangers.install(tmp_path, "other", {GROUP: {"twin": "broken:Nan"}})
    say = "from circuitbench.cli.commands import main; "
    say += "print([main(['check', name]) for name in ('nan', 'gone', 'twin')])"
    done = strangers.circuitbench(tmp_path, "check", "nan", "--traceback", before=say)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: nan breaks 1 promise"
    others, _, thorough = done.stdout.partition("[1, 1, 1]")
    brief = others[: others.index("method gone")]
    assert "BROKEN  answer: It answers with a complete, finite Discovery" in brief
    assert "found: the method's score of head 0.0 is nan" in brief
    assert "do:    Return Discovery(scores, selected)" in brief
    assert "first mend 'answer'" in brief
    assert "note    description" in brief
    assert "circuitbench check nan --kind method --traceback" in brief
    assert "Traceback" not in brief
    assert "Traceback (most recent call last)" in thorough
    for part in ("no_such_module", "registered twice"):
        assert part in " ".join(others.split())
    assert others.count("BROKEN  import") == 2
