"""export, import and score as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuitbench.cli.commands import main
from circuitbench.files import CircuitFile, Config, read, write
from circuitbench.files.records import config_of
from circuitbench.plugins.registry import load_model, load_task
from circuitbench.results import read_folder, read_record

TASK = "reverse"  # 2 x 8 heads with MLPs, and its truth names edges


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Run a command line in an empty folder; returns status, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def run(*words: Any) -> Any:
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a method that scores heads."""
    folder = tmp_path_factory.mktemp("results")
    words = ["run", "--method", "random", "--task", TASK, "--batch-size", "4"]
    assert main([*words, "--functional", "none", "--out", str(folder)]) == 0
    (path,) = folder.glob("random*.json")
    return path


@pytest.fixture(scope="module")
def truth() -> tuple[Config, np.ndarray]:
    """The model's shape, and which of its edges are true."""
    task = load_task(TASK)
    model = load_model(task.default_model)
    truth: Any = task.truth(model)
    true = truth.edges
    config = config_of(model)
    assert true is not None
    return config, np.array([edge in true for edge in config.graph.edges])


@pytest.mark.parametrize(
    ("format_", "name"), [("eap-ig-json", "a.json"), ("eap-ig-pt", "a.pt"), ("csv", "a.csv")]
)
def test_a_run_is_exported_and_scores_as_it_did(
    format_: str, name: str, run_path: Path, call: Any
) -> None:
    status, out, _ = call("export", run_path, "--format", format_, "--out", name)
    assert (status, out) == (0, f"circuit: {name}\n")
    options = ["--ranking", "signed"] if format_ == "csv" else []
    status, out, _ = call("score", name, "--task", TASK, "--json", *options)
    assert status == 0
    assert (
        call("import", name, "--task", TASK, "--method-name", "x", "--out", "new", *options)[0] == 0
    )
    (imported,), problems = read_folder("new")
    assert not problems
    own = read_record(run_path)
    for key in ("scores", "selected"):
        assert imported.discovery[key] == own.discovery[key]
    assert imported.truth == own.truth


def test_the_truth_scores_full_marks(truth: tuple[Config, np.ndarray], call: Any) -> None:
    config, true = truth
    found = CircuitFile(config, edge_scores=-2.0 * true, edges_in=true)
    write(found, Path("a.json"), "eap-ig-json")
    status, out, err = call("score", "a.json", "--task", TASK, "--json")
    assert (status, err) == (0, "")
    values = {key: entry["value"] for key, entry in json.loads(out).items()}
    assert values["edge_average_precision"] == values["edge_auroc"] == values["edge_f1"] == 1
    signed = json.loads(call("score", "a.json", "--task", TASK, "--json", "--ranking", "signed")[1])
    assert signed["edge_average_precision"]["value"] < 0.2
    status, out, _ = call("score", "a.json", "--task", TASK)
    assert "Edge F1" in out
    assert not Path("results").exists()


def test_top_takes_the_best_as_the_circuit(truth: tuple[Config, np.ndarray], call: Any) -> None:
    config, true = truth
    write(CircuitFile(config, edge_scores=1.0 * true), Path("a.pt"), "auto-circuit")
    status, out, err = call("score", "a.pt", "--task", TASK, "--json")
    assert "--top N takes the N best" in err
    assert not {"f1", "edge_f1"} & json.loads(out).keys()
    status, out, err = call("score", "a.pt", "--task", TASK, "--json", "--top", int(true.sum()))
    assert (status, err) == (0, "")
    assert json.loads(out)["edge_f1"]["value"] == 1


def test_an_import_says_how_to_repeat_it(truth: tuple[Config, np.ndarray], call: Any) -> None:
    config, true = truth
    write(CircuitFile(config, edges_in=true), Path("my circuit.csv"), "csv")
    words = ("import", "my circuit.csv", "--task", TASK, "--method-name", "mine", "--out", "one")
    assert call(*words)[0] == 0
    (record,), _ = read_folder("one")
    assert record.info["method"]["family"] == "Found elsewhere"
    status, out, _ = call("show", next(Path("one").glob("*.json")))
    assert status == 0
    assert "unknown: found elsewhere" in out
    assert "import 'my circuit.csv'" in out
    assert call("validate", "one")[0] == 0
    status, out, _ = call("leaderboard", "one")
    assert status == 0
    assert "Circuits found elsewhere" in out


def test_a_submission_is_laid_out_and_checked(run_path: Path, call: Any) -> None:
    folder = run_path.parent
    name = f"{TASK}/compiled-{TASK}=ioi_gpt2"
    status, out, err = call("export", folder, "--mib-submission", "--name", name, "--out", "sub")
    assert status == 1
    assert out.splitlines() == [
        "1 files in 1 folders: sub",
        "ioi_gpt2/importances.json: a model of 2 x 8, with MLPs; expected 12 x 12, with MLPs",
        "at least two tasks are needed, and there is ioi",
        "at least two models are needed, and there is gpt2",
    ]
    assert "3 things keep sub from being a submission" in err
    assert read("sub/ioi_gpt2/importances.json").config.n_heads == 8
    status, out, _ = call("export", folder, "--mib-submission", "--out", "sub2")
    assert out.splitlines()[1:] == [
        f"{TASK}/compiled-{TASK}: not a task and model of the track, left out; see --name",
        "nothing to submit",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("export", "RUN", "--out", "a", "--format", "json"), "unknown format 'json'"),
        (("export", "none.json", "--out", "a"), "none.json"),
        (("export", "RUN", "--out", "a", "--format", "auto-circuit"), ""),
        (("score", "bad.json", "--task", TASK), "bad.json: truncated"),
        (("score", "bad.json", "--task", "reverze"), "did you mean 'reverse'"),
        (("score", "bad.json", "--task", TASK, "--ranking", "up"), "unknown ranking 'up'"),
        (("import", "bad.json", "--task", TASK, "--method-name", "../x"), "not a method name"),
        (("export", "RES", "--mib-submission", "--out", "a", "--name", "x"), "TASK/MODEL=FOLDER"),
        (
            ("export", "RES", "--mib-submission", "--out", "a", "--name", "x/y=ioi_gpt3"),
            "did you mean 'ioi_gpt2'",
        ),
        (("export", "RES", "--mib-submission", "--out", "a", "--seed", "7"), "unknown seed '7'"),
    ],
)
def test_wrong_requests_get_one_line(
    words: tuple[str, ...], message: str, run_path: Path, call: Any
) -> None:
    Path("bad.json").write_text('{"cfg": ')
    given = {"RUN": run_path, "RES": run_path.parent}
    status, out, err = call(*(given.get(word, word) for word in words))
    if not message:  # heads only: their edges are written as 1 and 0
        assert (status, out) == (0, "circuit: a\n")
        return
    assert status == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
