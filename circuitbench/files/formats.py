"""The formats by name: reading a file whatever it is, writing one as asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from circuitbench.core.errors import InvalidCircuitFile, UnknownName
from circuitbench.files import csv_table, eap_ig_json
from circuitbench.files.circuit_file import PARTS, CircuitFile, Config, with_mlps, without_mlps
from circuitbench.results.files import write_atomically

# A model of 8 billion parameters makes about 150 MB of JSON.
MOST_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Format:
    """A format: how to write it, and which arrays of a :class:`CircuitFile` it can hold.

    ``says_ranking`` is whether it says how its scores rank.
    """

    name: str
    suffix: str
    dumps: Callable[[CircuitFile], bytes]
    holds: tuple[str, ...]
    says_ranking: bool = False


def _eap_ig_pt(circuit: CircuitFile) -> bytes:
    from circuitbench.files import eap_ig_pt  # needs torch

    return eap_ig_pt.dumps(circuit)


def _auto_circuit(circuit: CircuitFile) -> bytes:
    from circuitbench.files import auto_circuit  # needs torch

    return auto_circuit.dumps(circuit)


def _csv(circuit: CircuitFile) -> bytes:
    return csv_table.dumps(circuit, "edges" if _has_edges(circuit) else "nodes")


def _has_edges(circuit: CircuitFile) -> bool:
    return circuit.edge_scores is not None or circuit.edges_in is not None


FORMATS: dict[str, Format] = {
    found.name: found
    for found in (
        Format("eap-ig-json", ".json", eap_ig_json.dumps, PARTS, says_ranking=True),
        Format("eap-ig-pt", ".pt", _eap_ig_pt, PARTS, says_ranking=True),
        Format("auto-circuit", ".pt", _auto_circuit, ("edge_scores",)),
        Format("csv", ".csv", _csv, ("edge_scores", "edges_in")),
        Format(
            "csv-nodes",
            ".csv",
            lambda circuit: csv_table.dumps(circuit, "nodes"),
            ("node_scores", "nodes_in"),
        ),
    )
}


def named(name: str) -> Format:
    """The format of this name; raises :class:`UnknownName` naming the nearest."""
    if name not in FORMATS:
        raise UnknownName("format", name, FORMATS)
    return FORMATS[name]


def write(circuit: CircuitFile, path: Path, format_: str) -> list[str]:
    """Write a circuit, whole or not at all, and say what the format could not hold, one line each.

    Raises:
        UnknownName: no such format.
        InvalidCircuitFile: the format can hold nothing of this circuit.
        InvalidSpec: the folder can't be written.
    """
    chosen = named(format_)
    try:
        data = chosen.dumps(circuit)
    except InvalidCircuitFile as error:
        raise InvalidCircuitFile(f"cannot write {format_}: {error}") from error
    write_atomically(path, data)
    return losses(circuit, chosen)


def losses(circuit: CircuitFile, format_: Format) -> list[str]:
    """What a format cannot hold of a circuit, one line each."""
    holds = set(format_.holds)
    if format_.name == "csv" and not _has_edges(circuit):
        holds = {"node_scores", "nodes_in"}  # then the table is one of nodes
    lost = [
        f"{format_.name} cannot hold {_WORDS[part]}" for part in circuit.parts if part not in holds
    ]
    scores = (circuit.edge_scores, circuit.node_scores)
    negative = sum(int((s < 0).sum()) for s in scores if s is not None)
    if circuit.ranking == "signed" and negative:
        lost.append(
            f"{negative} scores are negative and rank lowest here; most tools rank by the "
            "absolute value"
        )
    return lost


_WORDS = {
    "edge_scores": "scores of edges",
    "edges_in": "which edges are in the circuit",
    "node_scores": "scores of nodes",
    "nodes_in": "which nodes are in the circuit",
    "neuron_scores": "scores of neurons",
    "neurons_in": "which neurons are in the circuit",
}


def read(path: Path | str, model: Config | None = None, entry: str = "") -> CircuitFile:
    """The circuit in a file of any format; which one is seen from its name and content.

    Args:
        path: ``.json`` (EAP-IG), ``.csv``, or anything that ``torch.save`` made (EAP-IG,
            auto-circuit).
        model: the model it is about; only a table that leaves out edges needs it.
        entry: ``TASK/ALGORITHM`` in a file of auto-circuit that holds several.

    Raises:
        InvalidCircuitFile: names the file and the field at fault.
    """
    path = Path(path)
    try:
        return _read(path, model, entry)
    except InvalidCircuitFile as error:
        raise InvalidCircuitFile(f"{path}: {error}") from error


def _read(path: Path, model: Config | None, entry: str) -> CircuitFile:
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise InvalidCircuitFile("a folder, not a circuit file")
        if size > MOST_BYTES:
            raise InvalidCircuitFile(f"{size:,} bytes; at most {MOST_BYTES:,} are read")
        data = path.read_bytes()
    except OSError as error:
        raise InvalidCircuitFile(f"cannot be read ({error.strerror})") from error
    if not data:
        raise InvalidCircuitFile("empty")
    suffix = path.suffix.lower()
    if entry and suffix in (".json", ".csv"):
        raise InvalidCircuitFile("only files of auto-circuit have entries")
    if suffix == ".json":
        return eap_ig_json.loads(data)
    if suffix == ".csv":
        return csv_table.loads(data, model)
    return _read_torch(data, entry)


def _read_torch(data: bytes, entry: str) -> CircuitFile:
    from circuitbench.files import auto_circuit, eap_ig_pt, torch_files

    content: Any = torch_files.load(data)
    if isinstance(content, dict) and "cfg" in content:
        return eap_ig_pt.loads(content)
    if auto_circuit.is_one(content):
        return auto_circuit.loads(content, entry)
    keys = ", ".join(map(repr, list(content)[:3])) if isinstance(content, dict) else ""
    raise InvalidCircuitFile(
        "neither a graph of EAP-IG (with cfg, edges_in_graph ...) nor scores of auto-circuit "
        f"(blocks.0.hook_q_input ...), but a {type(content).__name__}"
        + (f" with {keys} ..." if keys else "")
    )


def fitted(circuit: CircuitFile, model: Config, who: str) -> CircuitFile:
    """The circuit in the graph of a model.

    A file with MLPs fits a model that has none as long as it says nothing of them: their scores
    are 0 and they are not in.

    Raises:
        InvalidCircuitFile: another number of layers or heads, or MLPs that do something.
    """
    config = circuit.config
    if (config.n_layers, config.n_heads) != (model.n_layers, model.n_heads):
        raise InvalidCircuitFile(
            f"it is about a model of {config.n_layers} x {config.n_heads} heads, "
            f"but {who} has {model.n_layers} x {model.n_heads}"
        )
    if model.mlps:
        return with_mlps(circuit)
    bare = without_mlps(circuit)
    for name in ("edge_scores", "edges_in"):
        array = getattr(circuit, name)
        if array is not None and np.count_nonzero(array) > np.count_nonzero(getattr(bare, name)):
            raise InvalidCircuitFile(f"it has edges of MLPs, but {who} has no MLPs")
    return bare
