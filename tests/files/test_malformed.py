"""A file that is broken is refused in one line that names the field; nothing in it is run."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from circuit_files import circuit
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitbench.core.errors import InvalidCircuitFile
from circuitbench.files import (
    CircuitFile,
    Config,
    auto_circuit,
    csv_table,
    eap_ig_json,
    eap_ig_pt,
    formats,
    read,
    torch_files,
    write,
)

CONFIG = Config(2, 3, True, 4)
EVERYTHING = ("edge_scores", "edges_in", "node_scores", "nodes_in", "neuron_scores", "neurons_in")


def put(*path: Any) -> Callable[[Any], None]:
    """Sets the value at the end of a path of keys."""
    *keys, last, value = path

    def change(content: Any) -> None:
        for key in keys:
            content = content[key]
        content[last] = value

    return change


def drop(*path: Any) -> Callable[[Any], None]:
    *keys, last = path

    def change(content: Any) -> None:
        for key in keys:
            content = content[key]
        del content[last]

    return change


EDGE = "a0.h1->a1.h2<q>"
JSON = [
    (drop("cfg"), "cfg is missing"),
    (drop("edges"), "edges is missing"),
    (put("nodes", []), "nodes must be an object, not a list of 0"),
    (drop("cfg", "n_heads"), "cfg.n_heads is missing"),
    (put("cfg", "n_layers", "2"), "cfg.n_layers must be a number, not '2'"),
    (put("cfg", "n_layers", True), "cfg.n_layers must be a number, not True"),
    (put("cfg", "n_layers", 0), "n_layers must be a positive whole number, not 0"),
    (put("cfg", "n_layers", 10**6), "edges; at most"),
    (put("cfg", "d_model", 10**30), "neurons that are read"),
    (put("cfg", "d_model", -1), "d_model must be a positive whole number"),
    (put("cfg", "parallel_attn_mlp", True), "cfg.parallel_attn_mlp is true"),
    (put("cfg", "n_heads", 2), "neurons has 3 rows; expected one per head (2)"),
    (put("nodes", "m0", True), "nodes.m0 must be an object, not True"),
    (put("nodes", "a0.h9", {"in_graph": True}), "unknown node 'a0.h9'; did you mean 'a0.h"),
    (drop("nodes", "m0", "in_graph"), "nodes.m0.in_graph is missing"),
    (put("nodes", "m0", "in_graph", 2), "nodes.m0.in_graph must be true or false, not 2"),
    (put("nodes", "m0", "score", "x"), "nodes.m0.score must be a number, not 'x'"),
    (put("nodes", "m0", "score", float("inf")), "node_scores of m0 is inf"),
    (put("nodes", "m0", "neurons", [True]), "nodes.m0.neurons has 1 entries; expected 4"),
    (put("nodes", "m0", "neurons", 1), "nodes.m0.neurons must be a list"),
    (put("nodes", "a0.h1", "neurons", [[True] * 4]), "neurons has 1 rows; expected one per head"),
    (put("nodes", "m0", "neurons_scores", [1, 2, 3, None]), "neurons_scores[3] must be a number"),
    (put("cfg", "d_model", 0), "is given, but cfg.d_model is not"),
    (put("edges", EDGE, 0.5), f"edges.{EDGE} must be an object, not 0.5"),
    (drop("edges", EDGE, "in_graph"), f"edges.{EDGE}.in_graph is missing"),
    (drop("edges", EDGE, "score"), f"edges.{EDGE}.score is missing, while others have one"),
    (put("edges", EDGE, "score", float("nan")), "edge_scores of 0.1->1.2.q is nan"),
    (put("edges", EDGE, "score", None), f"edges.{EDGE}.score must be a number, not None"),
    (put("edges", EDGE, "score", 10**400), f"edges.{EDGE}.score is too large a number"),
    (put("edges", EDGE, "in_graph", "yes"), f"edges.{EDGE}.in_graph must be true or false"),
    (put("edges", "a1.h0->a0.h0<q>", {}), "unknown edge 'a1.h0->a0.h0<q>'; did you mean"),
    (put("circuitbench", "parts", ["heads"]), "circuitbench.parts: unknown 'heads'"),
    (put("circuitbench", "ranking", "up"), "circuitbench.ranking must be absolute or signed"),
    (put("circuitbench", "mlps", False), "circuitbench.mlps is not what nodes and edges say"),
]


@pytest.mark.parametrize(("change", "message"), JSON, ids=[message for _, message in JSON])
def test_json(change: Callable[[Any], None], message: str, tmp_path: Path) -> None:
    content = json.loads(eap_ig_json.dumps(circuit(CONFIG, EVERYTHING)))
    change(content)
    path = tmp_path / "circuit.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidCircuitFile) as caught:
        read(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "empty"),
        (b"\xff\xfe{", "not a text file"),
        (b'{"cfg": {"n_layers": 1', "truncated"),
        (b"hello", "not JSON"),
        (b"[]", "the file must be an object, not a list of 0"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"cfg": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"cfg": {}, "cfg": {}}', "'cfg' stands there twice"),
        (
            b'{"cfg": {"n_layers": 1, "n_heads": 1}, "nodes": {}, "edges": {}}',
            "holds neither scores nor membership",
        ),
    ],
)
def test_what_is_no_json_of_a_circuit(text: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "circuit.json"
    path.write_bytes(text)
    with pytest.raises(InvalidCircuitFile, match=message):
        read(path)


PT = [
    (drop("cfg"), "neither a graph of EAP-IG"),
    (drop("src_nodes"), "src_nodes is missing"),
    (drop("edges_in_graph"), "edges_in_graph is missing"),
    (put("src_nodes", 1, "a0.h1"), "src_nodes[1] must be 'a0.h0', not 'a0.h1'"),
    (put("dst_nodes", ["logits"]), "dst_nodes names 1 nodes; expected 21"),
    (put("edges_scores", torch.zeros(3, 3)), "edges_scores has shape [3, 3]; expected [9, 21]"),
    (put("edges_scores", [[0.0]]), "edges_scores must be a tensor, not a list of 1"),
    (put("edges_scores", torch.zeros(9, 21).to_sparse()), "edges_scores must be a plain dense"),
    (put("edges_scores", torch.zeros(9, 21) * 1j), "edges_scores must hold real numbers"),
    (put("edges_scores", torch.full((9, 21), np.nan)), "edge_scores of embed->0.0.q is nan"),
    (put("edges_in_graph", torch.full((9, 21), 2)), "edges_in_graph must hold true or false"),
    (put("nodes_in_graph", torch.zeros(8)), "nodes_in_graph has shape [8]; expected [9]"),
    (put("nodes_scores", torch.zeros(9, 1)), "nodes_scores has shape [9, 1]; expected [9]"),
    (put("neurons_scores", torch.zeros(9, 5)), "neurons_scores has shape [9, 5]; expected [9, 4]"),
    (put("cfg", 3), "cfg must be an object, not 3"),
]


@pytest.mark.parametrize(("change", "message"), PT, ids=[message for _, message in PT])
def test_pt(change: Callable[[Any], None], message: str, tmp_path: Path) -> None:
    content = torch_files.load(eap_ig_pt.dumps(circuit(CONFIG, EVERYTHING)))
    change(content)
    path = tmp_path / "circuit.pt"
    torch.save(content, path)
    with pytest.raises(InvalidCircuitFile) as caught:
        read(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


QUERY = "blocks.1.hook_q_input"
AUTO = [
    (drop(QUERY), f"{QUERY} is missing"),
    (drop("blocks.0.hook_q_input"), "blocks.0.hook_q_input is missing"),
    (drop("blocks.1.hook_resid_post"), "blocks.1.hook_resid_post is missing"),
    (put("blocks.0.hook_resid_post", torch.zeros(4)), "unknown module 'blocks.0.hook_resid_post'"),
    (put("blocks.1.hook_z", torch.zeros(3)), "not a module of auto-circuit: 'blocks.1.hook_z'"),
    (put("blocks.0.hook_attn_in", torch.zeros(3, 1)), "separate_qkv=False"),
    (put(QUERY, torch.zeros(3, 4)), f"{QUERY} has shape [3, 4]; expected [3, 5]"),
    (put(QUERY, torch.full((3, 5), np.nan)), f"{QUERY}[0, 0] is nan"),
    (put(QUERY, 1.0), f"{QUERY} must be a tensor, not 1.0"),
    (put("blocks.0.hook_q_input", torch.zeros(7, 3, 1)), "scores per position of the prompt"),
]


@pytest.mark.parametrize(("change", "message"), AUTO, ids=[message for _, message in AUTO])
def test_auto_circuit(change: Callable[[Any], None], message: str, tmp_path: Path) -> None:
    content = torch_files.load(auto_circuit.dumps(circuit(CONFIG)))
    change(content)
    path = tmp_path / "scores.pt"
    torch.save(content, path)
    with pytest.raises(InvalidCircuitFile) as caught:
        read(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


CSV = [
    (b"", "empty"),
    (b"edge,score\n", "a header and no rows"),
    (b"edge,scores\n", "unknown column 'scores'; did you mean 'score'"),
    (b"edge,score,score\n", "a column stands there twice"),
    (b"score,in_circuit\n1,true\n", "columns score, in_circuit; expected edge,sender"),
    (b"edge,node,score\n", "columns edge, node, score; expected"),
    (b"edge\n0.0->logits\n", "neither a column score nor in_circuit"),
    (b"edge,score\n0.0->logits\n", "line 2 has 1 cells; expected 2"),
    (b"edge,score\n0.0->logits,nan\n", "line 2: score must be a finite number, not 'nan'"),
    (b"edge,score\n0.0->logits,one\n", "line 2: score must be a finite number, not 'one'"),
    (b"edge,in_circuit\n0.0->logits,2\n", "line 2: in_circuit must be true or false, not '2'"),
    (b"edge,score\n0.0,1\n", "line 2, edge: not an edge: '0.0'"),
    (b"edge,score\n0.0->9.9,1\n", "line 2: unknown edge '0.0->9.9'"),
    (b"edge,score\n9.0->logits,1\n", "line 2: unknown edge '9.0->logits'; did you mean"),
    (b"edge,sender,receiver,score\n0.0->logits,0.1,logits,1\n", "is not 0.1->logits"),
    (b"edge,score\n0.0->logits,1\na0.h0->logits,2\n", "line 3: 0.0->logits stands there twice"),
    (b"edge,score\n0.0->logits,1\n0.1->logits,\n", "line 3: score is missing, while others"),
    (b'edge,score\n"0.0->logits,1\n', "not CSV"),
    (b"\xff\xfe", "not a text file"),
]


@pytest.mark.parametrize(("text", "message"), CSV, ids=[message for _, message in CSV])
def test_csv(text: bytes, message: str) -> None:
    with pytest.raises(InvalidCircuitFile) as caught:
        csv_table.loads(text, Config(1, 2))
    assert message in str(caught.value)


def test_a_table_of_some_edges_needs_the_model() -> None:
    with pytest.raises(InvalidCircuitFile, match="lists 1 of the 9 edges of a model of 1 x 2"):
        csv_table.loads(b"edge,score\n0.1->logits,1\n")


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [pickle.dumps, torch_files.dump])
@pytest.mark.parametrize("name", ["a.pt", "a.pkl", "a.bin"])
def test_a_pickle_in_disguise_is_refused_and_not_run(
    save: Callable[[Any], bytes], name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(save({"cfg": Payload(tmp_path / "run")}))
    with pytest.raises(InvalidCircuitFile, match="weights_only=True"):
        read(tmp_path / name)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": torch.zeros(1)}, torch.zeros(2), {}])
def test_tensors_that_are_no_circuit(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InvalidCircuitFile, match="neither a graph of EAP-IG"):
        read(tmp_path / "a.pt")


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidCircuitFile, match="No such file"):
        read(tmp_path / "none.json")
    with pytest.raises(InvalidCircuitFile, match="a folder"):
        read(tmp_path)
    write(circuit(CONFIG), tmp_path / "a.json", "eap-ig-json")
    with pytest.raises(InvalidCircuitFile, match="only files of auto-circuit have entries"):
        read(tmp_path / "a.json", entry="a/b")
    monkeypatch.setattr(formats, "MOST_BYTES", 10)
    with pytest.raises(InvalidCircuitFile, match="at most 10 are read"):
        read(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds neither"),
        ({"edge_scores": np.zeros(3)}, r"edge_scores has shape \[3\]; expected \[75\]"),
        ({"edge_scores": np.full(75, np.inf)}, "edge_scores of embed->0.0.q is inf"),
        ({"node_scores": np.full(9, np.nan)}, "holds neither"),
        ({"nodes_in": np.ones(9), "ranking": "up"}, "ranking must be"),
    ],
)
def test_values_in_memory_are_checked_too(arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidCircuitFile, match=message):
        CircuitFile(CONFIG, **arrays)


def test_neurons_need_a_width() -> None:
    with pytest.raises(InvalidCircuitFile, match="neurons_in needs d_model"):
        CircuitFile(Config(2, 3), neurons_in=np.ones((9, 4)))


WHOLE = {
    "a.json": eap_ig_json.dumps(circuit(CONFIG, EVERYTHING)),
    "a.pt": eap_ig_pt.dumps(circuit(CONFIG, EVERYTHING)),
    "b.pt": auto_circuit.dumps(circuit(CONFIG)),
    "a.csv": csv_table.dumps(circuit(CONFIG)),
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, share: float
) -> None:
    data = WHOLE[name][: int(share * (len(WHOLE[name]) - 8))]
    path = tmp_path_factory.mktemp("cut") / name
    path.write_bytes(data)
    with pytest.raises(InvalidCircuitFile):
        read(path)


JUNK: st.SearchStrategy[Any] = st.sampled_from(
    [None, [], {}, "x", "", 1e400, float("nan"), True, -3, 10**30, [[]], {"": 1}]
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_value_anywhere_gets_past_as_anything_but_a_refusal(data: st.DataObject) -> None:
    content = json.loads(WHOLE["a.json"])
    place, key = content, data.draw(st.sampled_from(sorted(content)))
    while isinstance(place[key], dict) and place[key] and data.draw(st.integers(0, 3)):
        place, key = place[key], data.draw(st.sampled_from(sorted(place[key])))
    place[key] = data.draw(JUNK)
    with contextlib.suppress(InvalidCircuitFile):  # whatever else it raised would fail here
        assert eap_ig_json.loads(json.dumps(content).encode()).config.n_layers == 2
