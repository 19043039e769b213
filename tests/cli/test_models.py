"""Models from elsewhere on the command line: from their name to a record that can be repeated."""

from pathlib import Path
from typing import Any

import pytest
from interpbench_kit import write_case, write_prompts
from oracle_kit import random_transformer

import circuitbench as cb
from circuitbench.cli import main
from circuitbench.models.weight_names import parameters
from circuitbench.results import read_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    transformer = random_transformer()
    model = cb.from_weights(dict(parameters(transformer)), transformer.config)
    model.save(tmp_path / "my model")
    return tmp_path / "my model"


def said(capsys: Any) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_what_is_wrong_is_one_line_and_exit_status_2(folder: Path, capsys: Any) -> None:
    run = ["run", "--method", "random", "--task", "ioi", "--model"]
    for model, message in (
        ("folder:nowhere/at/all", "no folder nowhere/at/all"),
        ("folder:./nowhere", "no folder ./nowhere"),
        (f"folder:{folder},dtype=bfloat16", "a saved model is float32"),
        (f"hf:{folder}", "config.json of my-model names no model_type"),
        ("interpbench:./nowhere", "no folder ./nowhere"),
    ):
        assert main([*run, model]) == 2, model
        printed = said(capsys)
        assert message in printed, (model, printed)
        assert "Traceback" not in printed


def test_a_record_names_the_model_and_no_path(tmp_path: Path, monkeypatch: Any) -> None:
    """From start to record, and again by the record's own command."""
    case = write_case(tmp_path / "org" / "case 3")
    write_prompts(case)
    out = tmp_path / "out"
    monkeypatch.chdir(case.parent)
    arguments = ["run", "--method", "random", "--task", "interpbench", "--functional", "none"]
    assert main([*arguments, "--model", f"interpbench:{case}", "--out", str(out)]) == 0
    (record,) = read_folder(out)[0]
    assert record.spec["model"].startswith("interpbench:case-3@raw,weights=")
    assert record.path is not None
    assert str(tmp_path) not in record.path.read_text()
    assert record.info["model"]["title"] == "InterpBench case"
    assert f"--model {record.spec['model']}" in record.command
    assert main(["show", record.run_id, "--results", str(out)]) == 0
    assert main(["validate", str(out)]) == 0
