"""EAP-IG's and MIB's ``.pt``: matrices of sources by destinations.

Sources: input, then layer by layer the heads and the MLP. Destinations: layer by layer the
queries of all heads, the keys, the values, the MLP; then the logits. MLPs always have their
places. Cells of pairs that are no edge may hold anything, and are not looked at.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from circuitbench.core.errors import InvalidCircuitFile
from circuitbench.files import torch_files
from circuitbench.files.circuit_file import CircuitFile, Config, with_mlps, without_mlps
from circuitbench.files.eap_ig import (
    MARK,
    Mark,
    assemble,
    config_dict,
    read_config,
    read_mark,
    shown_nodes,
)
from circuitbench.files.fields import entry, found, of_kind
from circuitbench.files.names import to_eap_ig

_OPTIONAL = {
    "node_scores": "nodes_scores",
    "neuron_scores": "neurons_scores",
    "neurons_in": "neurons_in_graph",
}


def dumps(circuit: CircuitFile) -> bytes:
    """The file of a circuit."""
    mark, circuit = Mark.of(circuit), with_mlps(circuit)
    config = circuit.config
    sources, destinations = _names(config)
    scores = np.zeros(config.n_edges) if circuit.edge_scores is None else circuit.edge_scores
    content: dict[str, Any] = {
        "cfg": config_dict(config),
        "src_nodes": sources,
        "dst_nodes": destinations,
        "edges_scores": torch_files.scores_tensor(_matrix(config, scores)),
        "edges_in_graph": torch.from_numpy(_matrix(config, circuit.shown_edges)),
        "nodes_in_graph": torch.from_numpy(shown_nodes(circuit)),
    }
    for ours, theirs in _OPTIONAL.items():
        array = getattr(circuit, ours)
        if array is not None:
            of_bool = array.dtype == bool
            content[theirs] = (
                torch.from_numpy(array) if of_bool else torch_files.scores_tensor(array)
            )
    return torch_files.dump({**content, MARK: mark.as_dict()})


def loads(content: Any) -> CircuitFile:
    """The circuit in a loaded file; raises :class:`InvalidCircuitFile` naming the field."""
    content = of_kind(content, dict, "the file")
    mark = read_mark(content)
    config = read_config(content, mlps=True)
    for key, expected in zip(("src_nodes", "dst_nodes"), _names(config), strict=True):
        _check_names(entry(content, key, list), expected, key)
    matrix = (config.n_nodes, len(config.graph.receivers))
    arrays: dict[str, np.ndarray | None] = {"edge_scores": None}
    for key in ("edges_in_graph", "nodes_in_graph"):
        if key not in content:
            raise InvalidCircuitFile(f"{key} is missing")
    if "edges_scores" in content:  # MIB takes circuits without
        scores = torch_files.numbers(content["edges_scores"], matrix, "edges_scores")
        arrays["edge_scores"] = _cells(config, scores)
    inside = torch_files.numbers(content["edges_in_graph"], matrix, "edges_in_graph")
    arrays["edges_in"] = torch_files.memberships(
        torch.from_numpy(_cells(config, inside)), (config.n_edges,), "edges_in_graph"
    )
    arrays["nodes_in"] = torch_files.memberships(
        content["nodes_in_graph"], (config.n_nodes,), "nodes_in_graph"
    )
    for ours, theirs in _OPTIONAL.items():
        if theirs in content:
            arrays[ours] = _of_nodes(content[theirs], config, ours, theirs)
    if mark is None or mark.mlps:
        circuit = assemble(config, arrays, mark)
    else:
        circuit = without_mlps(assemble(config, arrays, mark))
    return circuit


def _of_nodes(value: Any, config: Config, ours: str, theirs: str) -> np.ndarray:
    shape: tuple[int, ...] = (config.n_nodes,)
    if ours != "node_scores":
        if config.d_model is None:
            raise InvalidCircuitFile(f"{theirs} is given, but cfg.d_model is not")
        shape = (*shape, config.d_model)
    read = torch_files.memberships if ours == "neurons_in" else torch_files.numbers
    return read(value, shape, theirs)


def _names(config: Config) -> tuple[list[str], list[str]]:
    """Sources and destinations in the order of the matrices."""
    destinations = []
    for layer in range(config.n_layers):
        for letter in "qkv":
            destinations += [f"a{layer}.h{head}<{letter}>" for head in range(config.n_heads)]
        destinations.append(f"m{layer}")
    return list(map(to_eap_ig, config.graph.senders)), [*destinations, "logits"]


def _check_names(names: list[Any], expected: list[str], key: str) -> None:
    """Their reader goes by position alone, so another order would silently be another circuit."""
    if len(names) != len(expected):
        raise InvalidCircuitFile(f"{key} names {len(names)} nodes; expected {len(expected)}")
    for i, (name, right) in enumerate(zip(names, expected, strict=True)):
        if name != right:
            raise InvalidCircuitFile(f"{key}[{i}] must be {right!r}, not {found(name)}")


def _places(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every edge."""
    column = {name: i for i, name in enumerate(_names(config)[1])}
    columns = np.array([column[to_eap_ig(receiver)] for receiver in config.graph.receivers])
    receiver, sender = config.edge_ends
    return sender, columns[receiver]


def _matrix(config: Config, values: np.ndarray) -> np.ndarray:
    matrix = np.zeros((config.n_nodes, len(config.graph.receivers)), dtype=values.dtype)
    matrix[_places(config)] = values
    return matrix


def _cells(config: Config, matrix: np.ndarray) -> np.ndarray:
    return np.asarray(matrix[_places(config)])
