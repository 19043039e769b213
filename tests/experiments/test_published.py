"""Figures of papers beside ours: what is in the tables, and when a verdict is given."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuitbench import Edge
from circuitbench.cli import main
from circuitbench.core.edges import graph_of
from circuitbench.models import Model
from circuitbench.plugins.registry import list_plugins
from circuitbench_experiments.mechrl import protocol
from circuitbench_experiments.published.acdc_truths import TRUTHS, docstring, greater_than, ioi
from circuitbench_experiments.published.figures import Figure, Row, paper, rows_of, stand_in
from circuitbench_experiments.published.measure import ACDC_TASKS
from circuitbench_experiments.published.mechrl import table

QUICK = ("--prompts", "4", "--device", "cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: Any) -> Path:
    pytest.importorskip("transformers")
    from checkpoints_kit import save_gpt2

    folder: Path = tmp_path_factory.mktemp("models") / "tiny"
    save_gpt2(folder)
    return folder


def test_every_method_of_a_table_is_one_of_ours() -> None:
    known = {plugin.name for plugin in list_plugins("method")}
    for name in ("mib", "interpbench", "acdc"):
        assert set(paper(name).methods) <= known
    assert set(ACDC_TASKS) == set(TRUTHS) == set(paper("acdc").columns)
    assert ("EAP", "edge-attribution-patching", "CPR", 1.2) in paper("mib").figures
    assert paper("mib").transcribed
    assert not paper("acdc").transcribed


def test_acdcs_circuits_are_edges_of_their_models() -> None:
    assert len(docstring()) == 37 - 13  # the paper's count, without those within a head
    assert docstring() < set(graph_of(4, 8, mlps=False).edges)
    assert ioi() < set(graph_of(12, 12, mlps=True).edges)
    assert greater_than() < set(graph_of(12, 12, mlps=True).edges)
    parse = Edge.parse
    assert {parse("8.6->9.9.q"), parse("m5->10.7.q"), parse("4.11->5.5.k")} < ioi()
    assert not {parse("embed->5.5.q"), parse("0.1->5.5.k"), parse("9.9->10.7.q")} & ioi()
    assert {parse("0.1->m0"), parse("m7->8.11.q"), parse("m0->m3")} < greater_than()
    assert not {parse("m7->8.11.k"), parse("embed->5.5.q")} & greater_than()


def test_a_verdict_needs_the_papers_model_and_a_figure() -> None:
    figure = Figure("EAP", "edge-attribution-patching", "CPR", 1.2)
    assert Row(figure, [1.1, 1.25]).verdict == "agrees"
    assert Row(figure, [1.0]).verdict == "differs"
    assert Row(figure, [1.2], other="a stand-in").verdict == "cannot be compared"
    assert Row(figure, missing="left out").verdict == "left out"
    assert Row(figure, [1.0, 1.5]).shown == "1.250 (1.000 to 1.500)"
    rows = rows_of(paper("mib"), {("eap-ig-inputs", "CMD"): [0.03]}, {}, {}, ["eap-ig-inputs"])
    said = {(r.figure.method, r.figure.column): r.verdict for r in rows}
    assert said["EAP-IG-inputs", "CMD"] == "agrees"
    assert said["EAP-IG-inputs", "CPR"] == "not measured"
    assert said["EAP", "CMD"] == "left out"
    assert said["NAP", "CMD"] == "no counterpart here"


def test_a_model_of_the_right_shape_must_do_the_task_too() -> None:
    shape = {"layers": 12, "heads": 12, "d_model": 768}
    assert stand_in(Model("m", 12, 12, None), shape, 0.99) == ""
    assert stand_in(Model("m", 12, 16, None), shape, 0.99) == "heads 16 instead of 12"
    assert "on 52% of the prompts only" in stand_in(Model("m", 12, 12, None), shape, 0.52)


def test_mib_on_a_stand_in_says_so(tiny: Path, tmp_path: Path, capsys: Any) -> None:
    command = ["reproduce", "mib", "--model", f"hf:{tiny}", *QUICK, "--out", str(tmp_path)]
    command += ["--methods", "random-edges,eap-ig-inputs,information-flow-routes"]
    assert main([*command, "--set", "eap-ig-inputs.steps=2"]) == 0
    shown = capsys.readouterr().out
    assert "CMD, CPR: cannot be compared. This model is a stand-in: layers 2 instead" in shown
    (found,) = json.loads((tmp_path / "results.json").read_text())
    rows = {(row["ours"], row["column"]): row for row in found["rows"]}
    assert len(rows["eap-ig-inputs", "CMD"]["values"]) == 1
    assert rows["eap-ig-inputs", "CMD"]["verdict"] == "cannot be compared"
    assert rows["edge-attribution-patching", "CMD"]["verdict"] == "left out"
    # A random ranking keeps each edge for the share p of it: CPR is the area below p.
    assert rows["random-edges", "CPR"]["values"][0] == pytest.approx(0.25, abs=0.2)
    assert len(list((tmp_path / "runs").glob("*.json"))) == 3


def test_acdc_on_a_model_of_another_shape_measures_nothing(
    tiny: Path, tmp_path: Path, capsys: Any
) -> None:
    command = ["reproduce", "acdc", "--model", f"hf:{tiny}", *QUICK, "--out", str(tmp_path)]
    assert main([*command, "--tasks", "ioi"]) == 0
    shown = capsys.readouterr().out
    assert "ioi: cannot be compared. This model is a stand-in: layers 2 instead of 12" in shown
    assert "| ACDC (acdc-edges) | ioi | 0.868 |  | its circuit is of a model of 12 x 12" in shown
    assert "| ACDC (acdc-edges) | docstring | 0.434 |  | left out |" in shown


def test_acdc_measures_where_the_shape_fits(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("transformers")
    from checkpoints_kit import save_gpt2

    save_gpt2(tmp_path / "wide", layers=12, heads=12)
    command = ["reproduce", "acdc", "--model", f"hf:{tmp_path / 'wide'}", "--prompts", "2"]
    command += ["--tasks", "ioi", "--out", str(tmp_path / "out"), "--device", "cpu"]
    command += ["--methods", "acdc-edges", "--set", "acdc-edges.prefilter=5"]
    assert main(command) == 0
    (found,) = json.loads((tmp_path / "out/results.json").read_text())
    (row,) = (r for r in found["rows"] if (r["ours"], r["column"]) == ("acdc-edges", "ioi"))
    assert 0 <= row["values"][0] <= 1
    assert row["verdict"] == "cannot be compared"


def test_interpbench_auroc_on_a_case(tiny: Path, tmp_path: Path) -> None:
    from interpbench_kit import write_case

    case = write_case(tmp_path / "case", causal=True)
    prompt = {"clean": [1, 4, 2], "corrupted": [1, 3, 2], "answer": 5, "wrong": 6}
    (case / "prompts.jsonl").write_text(json.dumps(prompt) + "\n")
    command = ["reproduce", "mib", "--model", f"hf:{tiny}", *QUICK, "--out", str(tmp_path)]
    assert main([*command, "--methods", "random-edges", "--case", str(case)]) == 0
    _, found = json.loads((tmp_path / "results.json").read_text())
    (row,) = (r for r in found["rows"] if r["values"])
    assert row["method"] == "Random"
    assert row["verdict"] == "cannot be compared"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mib", "--model", "planted", "--methods", "acdc"], "unknown method of this table 'acdc'"),
        (["mib", "--model", "planted", "--set", "x=1"], "METHOD.KEY=VALUE"),
        (["acdc", "--model", "planted", "--tasks", "io"], "unknown task of this table 'io'"),
        (["mib", "--model", "hf:./nowhere"], "no folder"),
        (["mibs"], "unknown experiment 'mibs'"),
        (["mib", "--model", "planted", "--prompts", "1"], "--prompts must be 2 or more"),
    ],
)
def test_wrong_requests_are_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error


def test_mechrl_beside_the_paper(tiny: Path) -> None:
    settings = protocol.MechRL(**protocol.on_model(f"hf:{tiny}"))
    assert settings.train_tasks == ("mechrl-induction", "mechrl-ioi")
    assert "train_tasks" not in protocol.on_model("planted@3")
    row = {"contender": "oracle", "task": "mechrl-ioi", "best": 2.9}
    results = {"seeds": [{"rows": [row]}, {"rows": [{**row, "best": 3.0}]}]}
    found = table(settings, results)
    (ours,) = (r for r in found.rows if r.values)
    assert ours.figure.value == 2.948
    assert float(np.mean(ours.values)) == pytest.approx(2.95)
    assert ours.verdict == "cannot be compared"
