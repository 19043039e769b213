"""The submission to MIB's track: laid out as its code reads it, each violation one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from circuitbench.core.errors import InvalidCircuitFile, InvalidSpec
from circuitbench.files import CircuitFile, read, write
from circuitbench.files.mib import FOLDERS, MODELS, PERCENT, check, folder_of, lay_out

# Edges by model, as the track's evaluation states them (EDGE_COUNTS).
EDGES = {"gpt2": 32_491, "qwen2.5": 179_749, "gemma2": 74_218, "llama3": 1_592_881}
TWO = ("ioi_gpt2", "mcqa_gemma2")


def scored(model: str) -> CircuitFile:
    config = MODELS[model]
    return CircuitFile(config, edge_scores=np.random.default_rng(0).normal(size=config.n_edges))


@pytest.fixture(scope="module")
def circuits() -> dict[str, CircuitFile]:
    return {folder: scored(FOLDERS[folder][1]) for folder in TWO}


def test_the_models_have_as_many_edges_as_the_track_says() -> None:
    assert {name: config.n_edges for name, config in MODELS.items()} == EDGES
    assert len(FOLDERS) == 12


def test_our_tasks_by_the_tracks_names() -> None:
    assert folder_of("gpt2-ioi", "gpt2") == folder_of("ioi", "gpt2") == "ioi_gpt2"
    assert folder_of("arc_easy", "llama3@x") == "arc-easy_llama3"
    assert folder_of("gpt2-greater-than", "gpt2") is None
    assert folder_of("ioi", "planted") is None


@pytest.mark.parametrize("format_", ["eap-ig-json", "eap-ig-pt"])
def test_importances(format_: str, circuits: dict[str, CircuitFile], tmp_path: Path) -> None:
    paths = lay_out(circuits, tmp_path / "out", format_)
    assert [path.parent.name for path in paths] == list(TWO)
    assert {path.stem for path in paths} == {"importances"}
    assert check(tmp_path / "out") == []
    assert read(paths[0]) == circuits["ioi_gpt2"]


def test_nine_circuits_none_larger_than_it_may_be(
    circuits: dict[str, CircuitFile], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    paths = lay_out(circuits, out, "eap-ig-pt", binary=True)
    assert len(paths) == 2 * len(PERCENT) == 18
    assert check(out) == []
    sizes = [int(read(path).shown_edges.sum()) for path in paths[:9]]
    assert sizes == [
        int(p * EDGES["gpt2"]) for p in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    ]
    rank = circuits["ioi_gpt2"].edge_rank
    inside = read(paths[0]).shown_edges
    assert rank is not None
    assert rank[inside].min() >= rank[~inside].max()

    config = MODELS["gpt2"]
    write(CircuitFile(config, edges_in=np.arange(config.n_edges) < 40), paths[0], "eap-ig-pt")
    assert check(out) == [
        "ioi_gpt2/0.1-percent.pt: 40 edges; the circuit of at most 0.1 % may have 32"
    ]
    paths[1].unlink()
    assert check(out) == [
        "ioi_gpt2: 8 circuit files; expected one with importance scores, or 9 circuits"
    ]


def test_each_violation_is_one_line(circuits: dict[str, CircuitFile], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert check_lines(out, {"ioi_gpt2": circuits["ioi_gpt2"]}) == [
        "at least two tasks are needed, and there is ioi",
        "at least two models are needed, and there is gpt2",
    ]
    (out / "notes.txt").write_text("x")
    (out / "ioi_gpt3").mkdir()
    (out / "mcqa_gemma2").mkdir()
    (out / "ioi_gemma2").mkdir()
    (out / "ioi_gemma2" / "a.json").write_text("{")
    (out / "ioi_gemma2" / "a.txt").write_text("{")
    (out / "ioi_qwen2.5").mkdir()
    write(circuits["ioi_gpt2"], out / "ioi_qwen2.5" / "a.pt", "eap-ig-pt")
    (out / "mcqa_qwen2.5").mkdir()
    bare = MODELS["qwen2.5"]
    none = CircuitFile(bare, edges_in=np.zeros(bare.n_edges, dtype=bool))
    write(none, out / "mcqa_qwen2.5" / "a.pt", "eap-ig-pt")
    lines = check(out)
    assert all("\n" not in line for line in lines)
    for start in (
        "ioi_gemma2/a.txt: neither .json nor .pt",
        "ioi_gemma2/a.json: truncated",
        "ioi_gpt3: not a task and model of the track; valid: ioi_gpt2",
        "ioi_qwen2.5/a.pt: a model of 12 x 12, with MLPs; expected 24 x 14, with MLPs",
        "mcqa_gemma2: 0 circuit files; expected one",
        "mcqa_qwen2.5/a.pt: holds no importance scores",
        "notes.txt: lies beside the folders",
    ):
        assert sum(line.startswith(start) for line in lines) == 1, start
    assert len(lines) == 7


def test_edges_and_nodes_do_not_mix(circuits: dict[str, CircuitFile], tmp_path: Path) -> None:
    config = MODELS["gemma2"]
    nodes = CircuitFile(config, node_scores=np.arange(config.n_nodes, dtype=float))
    lines = check_lines(tmp_path / "out", {**circuits, "mcqa_gemma2": nodes})
    assert lines == [
        "a submission scores edges or nodes, not both: ioi_gpt2 of edges, mcqa_gemma2 of nodes"
    ]
    with pytest.raises(InvalidCircuitFile, match="need scores of edges"):
        lay_out({"mcqa_gemma2": nodes}, tmp_path / "other", binary=True)


def test_nothing_foreign_is_submitted(circuits: dict[str, CircuitFile], tmp_path: Path) -> None:
    (tmp_path / "old").write_text("x")
    with pytest.raises(InvalidSpec, match="not an empty folder"):
        lay_out(circuits, tmp_path)
    with pytest.raises(InvalidSpec, match="not csv"):
        lay_out(circuits, tmp_path / "out", "csv")
    with pytest.raises(InvalidSpec, match="no such folder"):
        check(tmp_path / "none")


def check_lines(out: Path, circuits: dict[str, CircuitFile]) -> list[str]:
    lay_out(circuits, out, "eap-ig-pt")
    return check(out)
