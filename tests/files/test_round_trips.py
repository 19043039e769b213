"""What is written is read back, and stands where the other tools look for it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from circuit_files import circuit, circuits
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitbench.core.circuit import Edge
from circuitbench.core.edges import Graph
from circuitbench.core.errors import InvalidCircuitFile, UnknownName
from circuitbench.files import (
    FORMATS,
    CircuitFile,
    Config,
    auto_circuit,
    csv_table,
    eap_ig_json,
    eap_ig_pt,
    fitted,
    losses,
    named,
    read,
    torch_files,
    write,
)
from circuitbench.files.circuit_file import with_mlps, without_mlps
from circuitbench.files.names import (
    edge_from_any,
    edge_to_auto_circuit,
    edge_to_eap_ig,
    from_auto_circuit,
    from_eap_ig,
    to_auto_circuit,
    to_eap_ig,
)

GPT2 = Config(12, 12, True, 768)
SMALL = Config(2, 3, True, 4)


def reread(found: CircuitFile, format_: str, folder: Path) -> CircuitFile:
    path = folder / f"circuit{FORMATS[format_].suffix}"
    write(found, path, format_)
    return read(path)


@settings(max_examples=60, deadline=None)
@given(circuits())
def test_eap_ig_keeps_everything(found: CircuitFile) -> None:
    assert eap_ig_json.loads(eap_ig_json.dumps(found)) == found
    assert eap_ig_pt.loads(torch_files.load(eap_ig_pt.dumps(found))) == found


@settings(max_examples=40, deadline=None)
@given(circuits(("edge_scores",)))
def test_auto_circuit_keeps_edge_scores(found: CircuitFile) -> None:
    assert auto_circuit.loads(torch_files.load(auto_circuit.dumps(found))) == found


@settings(max_examples=40, deadline=None)
@given(circuits(("edge_scores", "edges_in")))
def test_a_table_keeps_edges(found: CircuitFile) -> None:
    assert csv_table.loads(csv_table.dumps(found)) == found


@settings(max_examples=40, deadline=None)
@given(circuits(("node_scores", "nodes_in")))
def test_a_table_keeps_nodes(found: CircuitFile) -> None:
    assert csv_table.loads(csv_table.dumps(found, "nodes"), found.config) == found


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("mlps", [True, False])
def test_files_are_told_apart_by_what_is_in_them(format_: str, mlps: bool, tmp_path: Path) -> None:
    found = circuit(Config(2, 3, mlps), FORMATS[format_].holds[:2])
    assert reread(found, format_, tmp_path) == found


def test_our_graph_of_gpt2_is_theirs() -> None:
    assert (GPT2.n_nodes + 1, GPT2.n_edges) == (158, 32_491)
    assert len(GPT2.graph.edges) == GPT2.n_edges


@given(st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_nodes_and_edges_are_counted_without_listing_them(
    n_layers: int, n_heads: int, mlps: bool
) -> None:
    config, graph = Config(n_layers, n_heads, mlps), Graph(n_layers, n_heads, mlps)
    assert (config.n_nodes, config.n_edges) == (len(graph.senders), len(graph.edges))


def test_names_are_translated_both_ways() -> None:
    for node in (*SMALL.graph.senders, *SMALL.graph.receivers):
        assert from_eap_ig(to_eap_ig(node)) == from_auto_circuit(to_auto_circuit(node)) == node
    edge = Edge("0.1", "2.3.q")
    assert edge_to_eap_ig(edge) == "a0.h1->a2.h3<q>"
    assert edge_to_auto_circuit(Edge("embed", "3.0.v")) == "Resid Start->A3.0.V"
    assert edge_to_auto_circuit(Edge("m1", "logits")) == "MLP 1->Resid End"
    for text in ("0.1->2.3.q", "a0.h1->a2.h3<q>", "A0.1->A2.3.Q"):
        assert edge_from_any(text) == edge
    for text in ("0.1", "a00.h1->logits", "0.1->2.3.x", "->", "x->y"):
        with pytest.raises(InvalidCircuitFile):
            edge_from_any(text)


def forward(name: str, config: Config) -> int:
    """Where EAP-IG looks for a source: ``Graph._forward_index`` of its code, restated."""
    if name == "input":
        return 0
    layer = int(name[1:].split(".")[0])
    first = 1 + layer * (config.n_heads + 1)
    return first + (config.n_heads if name[0] == "m" else int(name.split("h")[1]))


def backward(name: str, config: Config) -> int:
    """Where it looks for a destination: ``Graph._backward_index``."""
    if name == "logits":
        return -1
    layer = int(name[1:].split(".")[0])
    first = layer * (3 * config.n_heads + 1)
    if name[0] == "m":
        return first + 3 * config.n_heads
    head, letter = name.split("h")[1].rstrip(">").split("<")
    return first + "qkv".index(letter) * config.n_heads + int(head)


@pytest.mark.parametrize("mlps", [True, False])
def test_matrices_hold_every_edge_where_eap_ig_looks_for_it(mlps: bool) -> None:
    config = Config(3, 2, mlps, 4)
    found = circuit(config, ("edge_scores", "edges_in", "nodes_in"))
    content = torch_files.load(eap_ig_pt.dumps(found))
    assert found.edge_scores is not None
    assert found.edges_in is not None
    cells = 0
    for i, edge in enumerate(config.graph.edges):
        source, destination = edge_to_eap_ig(edge).split("->")
        place = forward(source, config), backward(destination, config)
        assert content["edges_scores"][place] == found.edge_scores[i]
        assert content["edges_in_graph"][place] == found.edges_in[i]
        cells += int(content["edges_in_graph"][place])
    assert content["edges_in_graph"].sum() == cells
    assert content["edges_scores"].shape == (1 + 3 * 3, 3 * 7 + 1)
    assert content["src_nodes"][:4] == ["input", "a0.h0", "a0.h1", "m0"]
    assert content["dst_nodes"][:7] == [
        "a0.h0<q>", "a0.h1<q>", "a0.h0<k>", "a0.h1<k>", "a0.h0<v>", "a0.h1<v>", "m0",
    ]  # fmt: skip


def test_json_has_what_their_reader_asks_for() -> None:
    found = circuit(SMALL, ("edge_scores", "nodes_in", "node_scores"))
    content = json.loads(eap_ig_json.dumps(found))
    assert content["cfg"] == {
        "n_layers": 2, "n_heads": 3, "parallel_attn_mlp": False, "d_model": 4,
    }  # fmt: skip
    assert len(content["nodes"]) == SMALL.n_nodes + 1
    assert content["nodes"]["logits"] == {"in_graph": True}
    assert "score" not in content["nodes"]["input"]  # not scored: they keep such nodes in
    assert all({"score", "in_graph"} == edge.keys() for edge in content["edges"].values())
    assert len(content["edges"]) == SMALL.n_edges


def test_neurons_of_a_head_stand_with_its_whole_layer() -> None:
    found = circuit(SMALL, ("neuron_scores", "neurons_in"))
    nodes = json.loads(eap_ig_json.dumps(found))["nodes"]
    assert np.shape(nodes["a1.h2"]["neurons"]) == (3, 4)
    assert np.shape(nodes["m1"]["neurons_scores"]) == (4,)
    assert found.neurons_in is not None
    places = SMALL.head_places[1]
    assert np.array_equal(nodes["a1.h2"]["neurons"], found.neurons_in[places])


def test_auto_circuit_tensors_hold_every_edge_where_it_looks_for_it() -> None:
    found = circuit(SMALL, ("edge_scores",))
    content = torch_files.load(auto_circuit.dumps(found))
    assert found.edge_scores is not None
    for edge, score in zip(SMALL.graph.edges, found.edge_scores, strict=True):
        source = SMALL.graph.senders.index(edge.sender)
        if edge.receiver == "logits":
            assert content["blocks.1.hook_resid_post"][source] == score
        elif edge.receiver.startswith("m"):
            assert content[f"blocks.{edge.receiver[1:]}.hook_mlp_in"][source] == score
        else:
            layer, head, letter = edge.receiver.split(".")
            assert content[f"blocks.{layer}.hook_{letter}_input"][int(head), source] == score
    assert [tuple(t.shape) for t in content.values()] == [
        (3, 1), (3, 1), (3, 1), (4,), (3, 5), (3, 5), (3, 5), (8,), (9,),
    ]  # fmt: skip


def test_auto_circuit_files_of_several_experiments(tmp_path: Path) -> None:
    one, two = circuit(SMALL, ("edge_scores",), 1), circuit(SMALL, ("edge_scores",), 2)
    first, second = (torch_files.load(auto_circuit.dumps(c)) for c in (one, two))
    path = tmp_path / "scores.pkl"
    torch.save({"IOI": {"EAP": first, "ACDC": second}}, path)
    bare = Config(2, 3)
    assert read(path, entry="IOI/ACDC") == CircuitFile(bare, edge_scores=two.edge_scores)
    with pytest.raises(InvalidCircuitFile, match="choose an entry of: IOI/EAP, IOI/ACDC"):
        read(path)
    with pytest.raises(InvalidCircuitFile, match="did you mean 'IOI/EAP'"):
        read(path, entry="IOI/EPA")
    torch.save({"IOI": {"EAP": first}}, path)
    assert read(path) == CircuitFile(bare, edge_scores=one.edge_scores)


def test_scores_are_float32_as_the_tools_have_them_unless_that_loses_digits() -> None:
    exact = CircuitFile(SMALL, edge_scores=np.full(SMALL.n_edges, 0.5))
    content = torch_files.load(eap_ig_pt.dumps(exact))
    assert content["edges_scores"].dtype == torch.float32
    fine = CircuitFile(SMALL, edge_scores=np.full(SMALL.n_edges, 0.1))
    assert torch_files.load(eap_ig_pt.dumps(fine))["edges_scores"].dtype == torch.float64


def test_a_file_of_another_tool_says_nothing_of_a_set_that_nobody_cut() -> None:
    content = json.loads(eap_ig_json.dumps(circuit(SMALL, ("edge_scores",))))
    del content["circuitbench"]
    assert eap_ig_json.loads(json.dumps(content).encode()).parts == ("edge_scores",)
    content["edges"]["input->m0"]["in_graph"] = True
    found = eap_ig_json.loads(json.dumps(content).encode())
    assert found.parts == ("edge_scores", "edges_in")
    assert found.edges_in is not None
    assert found.edges_in.sum() == 1


def test_circuits_without_scores_are_read_as_mib_reads_them() -> None:
    content = json.loads(eap_ig_json.dumps(circuit(SMALL)))
    del content["circuitbench"]
    for edge in content["edges"].values():
        del edge["score"]
    found = eap_ig_json.loads(json.dumps(content).encode())
    assert found.parts == ("edges_in", "nodes_in")
    assert found.edge_rank is not None
    assert set(found.edge_rank) == {0.0, 1.0}


def test_edges_left_out_of_a_json_score_0_and_are_out() -> None:
    content = {
        "cfg": {"n_layers": 1, "n_heads": 1},
        "nodes": {},
        "edges": {"input->a0.h0<q>": {"score": -2, "in_graph": True}},
    }
    found = eap_ig_json.loads(json.dumps(content).encode())
    assert found.config == Config(1, 1, mlps=False)
    assert found.edge_scores is not None
    assert sorted(found.edge_scores) == [-2, 0, 0, 0, 0]


def test_cells_that_are_no_edge_are_not_looked_at() -> None:
    found = circuit(SMALL)
    content = torch_files.load(eap_ig_pt.dumps(found))
    content["edges_scores"][-1, 0] = np.nan  # from the last MLP into the first layer
    content["edges_in_graph"][-1, 0] = True
    assert eap_ig_pt.loads(content) == found


def test_tables_in_any_words_and_columns() -> None:
    found = circuit(Config(1, 2, mlps=False))
    rows = list(csv.DictReader(io.StringIO(csv_table.dumps(found).decode())))
    for translate in (edge_to_eap_ig, edge_to_auto_circuit):
        lines = [
            f"{translate(Edge(r['sender'], r['receiver']))},{r['in_circuit']},{r['score']}"
            for r in reversed(rows)
        ]
        text = "edge,in_circuit,score\n" + "\n".join(lines)
        assert csv_table.loads(text.encode()) == found
    heads = "layer,head,score\n0,1,0.5\n0,0,-1\n"
    assert csv_table.loads(heads.encode()).node_scores is not None
    only = csv_table.loads(b"edge,in_circuit\n0.1->logits,TRUE\n", Config(1, 2, mlps=False))
    assert only.parts == ("edges_in",)


def test_what_a_format_cannot_hold_is_said(tmp_path: Path) -> None:
    found = circuit(SMALL, ("edge_scores", "nodes_in"))
    assert write(found, tmp_path / "a.json", "eap-ig-json") == []
    assert write(found, tmp_path / "a.csv", "csv") == [
        "csv cannot hold which nodes are in the circuit"
    ]
    signed = CircuitFile(SMALL, edge_scores=found.edge_scores, ranking="signed")
    assert "scores are negative" in losses(signed, named("eap-ig-json"))[0]
    with pytest.raises(InvalidCircuitFile, match="cannot write csv-nodes"):
        write(signed, tmp_path / "b.csv", "csv-nodes")
    with pytest.raises(UnknownName, match="did you mean 'eap-ig-json'"):
        write(found, tmp_path / "c.json", "eap-json")
    assert not (tmp_path / "b.csv").exists()


def test_nodes_that_are_in_show_the_edges_between_them() -> None:
    config = Config(1, 2, mlps=False)
    found = CircuitFile(config, nodes_in=np.array([True, True, False]))
    shown = {str(e) for e, i in zip(config.graph.edges, found.shown_edges, strict=True) if i}
    assert shown == {
        "embed->0.0.q", "embed->0.0.k", "embed->0.0.v", "embed->logits", "0.0->logits",
    }  # fmt: skip
    scores = auto_circuit.loads(torch_files.load(auto_circuit.dumps(found))).edge_scores
    assert np.array_equal(scores, found.shown_edges)  # type: ignore[arg-type]


def test_mlps_are_put_in_and_taken_out() -> None:
    parts = ("edge_scores", "edges_in", "node_scores", "nodes_in")
    found = circuit(Config(3, 2, mlps=False, d_model=4), parts)
    wide = with_mlps(found)
    assert without_mlps(wide) == found
    assert wide.edge_scores is not None
    scores = dict(zip(wide.config.graph.edges, wide.edge_scores, strict=True))
    assert found.edge_scores is not None
    for edge, score in zip(found.config.graph.edges, found.edge_scores, strict=True):
        assert scores.pop(edge) == score
    assert set(scores.values()) == {0.0}


def test_a_file_is_fitted_to_a_model() -> None:
    bare, wide = Config(2, 3, mlps=False), Config(2, 3)
    found = circuit(bare)
    assert fitted(found, bare, "m") == found
    assert fitted(with_mlps(found), bare, "m") == found
    assert fitted(found, wide, "m") == with_mlps(found)
    with pytest.raises(InvalidCircuitFile, match="edges of MLPs, but m has no MLPs"):
        fitted(circuit(wide), bare, "m")
    with pytest.raises(InvalidCircuitFile, match="2 x 3 heads, but m has 3 x 2"):
        fitted(found, Config(3, 2), "m")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "a.json"
    write(circuit(SMALL, seed=1), path, "eap-ig-json")
    before = path.read_bytes()

    def refuse(*_: Any) -> None:
        raise OSError("full")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(Exception, match="full"):
        write(circuit(SMALL, seed=2), path, "eap-ig-json")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
