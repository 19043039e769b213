"""EAP-IG's and MIB's ``.json``: ``cfg``, ``nodes`` and ``edges`` by name.

A trap of theirs that is kept here: ``neurons`` and ``neurons_scores`` of a head hold the rows of
*all* heads of its layer (their index of a head is a slice), and their reader spreads a single
row over the layer. Read here: either; written: all heads' rows.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np

from circuitbench.core.errors import InvalidCircuitFile
from circuitbench.files.circuit_file import CircuitFile, Config
from circuitbench.files.eap_ig import (
    MARK,
    Mark,
    assemble,
    config_dict,
    read_config,
    read_mark,
    shown_nodes,
)
from circuitbench.files.fields import entry, membership, number, of_kind
from circuitbench.files.names import edge_to_eap_ig, to_eap_ig, unknown


def dumps(circuit: CircuitFile) -> bytes:
    """The file of a circuit."""
    graph = circuit.config.graph
    inside = shown_nodes(circuit).tolist()
    nodes: dict[str, dict[str, Any]] = {
        to_eap_ig(sender): {"in_graph": inside[i], **_node_scores(circuit, i)}
        for i, sender in enumerate(graph.senders)
    }
    nodes["logits"] = {"in_graph": True}
    none = np.zeros(circuit.config.n_edges)
    scores = (none if circuit.edge_scores is None else circuit.edge_scores).tolist()
    edges_in = circuit.shown_edges.tolist()
    edges = {
        edge_to_eap_ig(edge): {"score": scores[i], "in_graph": edges_in[i]}
        for i, edge in enumerate(graph.edges)
    }
    content = {
        "cfg": config_dict(circuit.config),
        "nodes": nodes,
        "edges": edges,
        MARK: Mark.of(circuit).as_dict(),
    }
    return json.dumps(content).encode()


def _node_scores(circuit: CircuitFile, node: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if circuit.node_scores is not None and not np.isnan(circuit.node_scores[node]):
        found["score"] = float(circuit.node_scores[node])
    rows = _rows(circuit.config, node)
    for key, array in (("neurons", circuit.neurons_in), ("neurons_scores", circuit.neuron_scores)):
        if array is not None:
            found[key] = array[rows].tolist()
    return found


def _rows(config: Config, node: int) -> int | slice:
    """Whose rows a node's entry holds: its own, or those of all heads of its layer."""
    layer, place = divmod(node - 1, config.n_heads + config.mlps)
    if node == 0 or place == config.n_heads:
        return node
    first = 1 + layer * (config.n_heads + config.mlps)
    return slice(first, first + config.n_heads)


def loads(data: bytes) -> CircuitFile:
    """The circuit in a file; raises :class:`InvalidCircuitFile` naming the field at fault.

    Nodes and edges that the file leaves out are out and score 0, as EAP-IG reads them.
    """
    content = of_kind(_parse(data), dict, "the file")
    nodes, edges = entry(content, "nodes", dict), entry(content, "edges", dict)
    mlps = any(name.startswith("m") for name in nodes) or any("m" in name for name in edges)
    mark = read_mark(content)
    config = read_config(content, mlps)
    if mark is not None and mark.mlps != mlps:
        raise InvalidCircuitFile(f"{MARK}.mlps is not what nodes and edges say")
    arrays = {**_read_nodes(nodes, config), **_read_edges(edges, config)}
    return assemble(config, arrays, mark)


def _read_edges(edges: dict[str, Any], config: Config) -> dict[str, np.ndarray | None]:
    places = {edge_to_eap_ig(edge): i for i, edge in enumerate(config.graph.edges)}
    scores, inside = np.zeros(config.n_edges), np.zeros(config.n_edges, dtype=bool)
    scored = 0
    for name, found in edges.items():
        place = places.get(name)
        if place is None:
            raise InvalidCircuitFile(f"edges: {unknown('edge', name, places)} ({config})")
        if type(found) is not dict:
            of_kind(found, dict, f"edges.{name}")
        if "in_graph" not in found:
            raise InvalidCircuitFile(f"edges.{name}.in_graph is missing")
        inside[place] = membership(found["in_graph"], f"edges.{name}.in_graph")
        if "score" in found:
            scored += 1
            scores[place] = number(found["score"], f"edges.{name}.score")
    if scored and scored < len(edges):
        lacking = next(name for name, found in edges.items() if "score" not in found)
        raise InvalidCircuitFile(f"edges.{lacking}.score is missing, while others have one")
    return {"edge_scores": scores if scored else None, "edges_in": inside}


def _read_nodes(nodes: dict[str, Any], config: Config) -> dict[str, np.ndarray | None]:
    places = {to_eap_ig(sender): i for i, sender in enumerate(config.graph.senders)}
    inside = np.zeros(config.n_nodes, dtype=bool)
    scores: np.ndarray | None = None
    neurons: dict[str, np.ndarray | None] = {"neurons": None, "neurons_scores": None}
    for name, found in nodes.items():
        where = f"nodes.{name}"
        of_kind(found, dict, where)
        if name == "logits":  # always in; their reader does not look at it
            continue
        place = places.get(name)
        if place is None:
            raise InvalidCircuitFile(f"nodes: {unknown('node', name, places)} ({config})")
        if "in_graph" not in found:
            raise InvalidCircuitFile(f"{where}.in_graph is missing")
        inside[place] = membership(found["in_graph"], f"{where}.in_graph")
        if "score" in found:
            scores = np.full(config.n_nodes, np.nan) if scores is None else scores
            scores[place] = number(found["score"], f"{where}.score")
        for key in (key for key in neurons if key in found):
            neurons[key] = _with_row(neurons[key], found[key], config, place, f"{where}.{key}")
    return {
        "nodes_in": inside,
        "node_scores": scores,
        "neurons_in": neurons["neurons"],
        "neuron_scores": neurons["neurons_scores"],
    }


def _with_row(
    table: np.ndarray | None, value: Any, config: Config, place: int, where: str
) -> np.ndarray:
    """``table [n_nodes, d_model]`` (None: not begun) with the neurons of one node filled in."""
    if config.d_model is None:
        raise InvalidCircuitFile(f"{where} is given, but cfg.d_model is not")
    is_scores = where.endswith("_scores")
    if table is None:
        shape = (config.n_nodes, config.d_model)
        table = np.full(shape, np.nan) if is_scores else np.zeros(shape, dtype=bool)
    row = of_kind(value, list, where)
    rows = _rows(config, place)
    if isinstance(rows, slice) and row and type(row[0]) is list:
        if len(row) != config.n_heads:
            raise InvalidCircuitFile(
                f"{where} has {len(row)} rows; expected one per head ({config.n_heads})"
            )
        row = of_kind(row[place - rows.start], list, where)
    if len(row) != config.d_model:
        raise InvalidCircuitFile(f"{where} has {len(row)} entries; expected {config.d_model}")
    read = number if is_scores else membership
    table[place] = [read(item, f"{where}[{i}]") for i, item in enumerate(row)]
    return table


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise InvalidCircuitFile("not a text file") from error
    except json.JSONDecodeError as error:
        text = error.doc.strip()
        cut = not text or (text.startswith("{") and not text.endswith("}"))
        kind = "truncated" if cut else "not JSON"
        raise InvalidCircuitFile(f"{kind} ({error.msg}, line {error.lineno})") from error
    except RecursionError as error:
        raise InvalidCircuitFile("nested too deeply") from error
    except ValueError as error:
        raise InvalidCircuitFile("holds a number with too many digits") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise InvalidCircuitFile(f"{twice!r} stands there twice")
    return content
