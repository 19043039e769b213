"""CSV: a table of edges (``edge,sender,receiver,score,in_circuit``) or of nodes.

A table of nodes has the columns ``node,score,in_circuit``; one of heads may have ``layer,head``
instead of ``node``. Names may be ours or those of EAP-IG or auto-circuit; ours are written. An
empty column (or none) of scores or membership means that the table does not say; a node may lack
a score for itself.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import numpy as np

from circuitbench.core.circuit import Edge
from circuitbench.core.errors import InvalidCircuitFile
from circuitbench.files.circuit_file import CircuitFile, Config
from circuitbench.files.fields import found
from circuitbench.files.names import edge_from_any, from_any, unknown

Table = Literal["edges", "nodes"]
T = TypeVar("T")

_EDGES = ("edge", "sender", "receiver", "score", "in_circuit")
_NODES = ("node", "score", "in_circuit")
_COLUMNS = {*_EDGES, *_NODES, "layer", "head"}
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_PARTS = re.compile(
    r"(?:(0|[1-9][0-9]{,8})\.(0|[1-9][0-9]{,8})|m(0|[1-9][0-9]{,8})|embed|logits)(?:\.[qkv])?"
)


def dumps(circuit: CircuitFile, table: Table = "edges") -> bytes:
    """The table of a circuit's edges or nodes.

    Raises :class:`InvalidCircuitFile` where it says nothing of them.
    """
    of_edges = table == "edges"
    scores = circuit.edge_scores if of_edges else circuit.node_scores
    inside = circuit.edges_in if of_edges else circuit.nodes_in
    if scores is None and inside is None:
        raise InvalidCircuitFile(f"says nothing of {table}")
    names: list[tuple[str, ...]] = (
        [(str(edge), *edge) for edge in circuit.config.graph.edges]
        if of_edges
        else [(node,) for node in circuit.config.graph.senders]
    )
    said = [
        "" if scores is None or np.isnan(s) else repr(float(s)) for s in _or_zeros(scores, names)
    ]
    member = ["" if inside is None else str(bool(i)).lower() for i in _or_zeros(inside, names)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_EDGES if of_edges else _NODES)
    writer.writerows((*name, *row) for name, *row in zip(names, said, member, strict=True))
    return text.getvalue().encode()


def _or_zeros(array: np.ndarray | None, names: list[Any]) -> np.ndarray:
    return np.zeros(len(names)) if array is None else array


def loads(data: bytes, model: Config | None = None) -> CircuitFile:
    """The circuit in a table.

    Args:
        data: the file.
        model: the model it is about. Without it the smallest model that has all names is meant,
            and a table that leaves out edges of that is refused, for it may be about a larger one.

    Raises:
        InvalidCircuitFile: names the line and column at fault. Edges that are left out score 0
            and are out; nodes that are left out are not scored.
    """
    rows = _rows(data)
    header = next(rows)[1]
    columns = _columns(header)
    of_edges = "node" not in columns and "layer" not in columns
    read = _edge if of_edges else _node
    names: dict[Edge | str, int] = {}
    scores: list[float | None] = []
    inside: list[bool | None] = []
    for line, row in rows:
        if len(row) != len(header):
            raise InvalidCircuitFile(f"line {line} has {len(row)} cells; expected {len(header)}")
        cells = dict(zip(header, row, strict=True))
        name = read(cells, line)
        if name in names:
            raise InvalidCircuitFile(f"line {line}: {name} stands there twice")
        names[name] = line
        scores.append(_score(cells.get("score", ""), line))
        inside.append(_truth(cells.get("in_circuit", ""), line))
    if not names:
        raise InvalidCircuitFile("a header and no rows")
    config = model or _smallest(names)
    items: tuple[Any, ...] = config.graph.edges if of_edges else tuple(config.graph.senders)
    places = {item: i for i, item in enumerate(items)}
    for name, line in names.items():
        if name not in places:
            kind = "edge" if of_edges else "node"
            text = unknown(kind, str(name), map(str, items))
            raise InvalidCircuitFile(f"line {line}: {text} ({config})")
    if model is None and of_edges and len(names) < len(items):
        raise InvalidCircuitFile(
            f"lists {len(names)} of the {len(items)} edges of a model of {config}; say which model"
        )
    place = np.array([places[name] for name in names])
    lines = list(names.values())
    given = _column(scores, lines, "score", partly=not of_edges)
    members = _column(inside, lines, "in_circuit", partly=False)
    rank = None if given is None else np.full(len(items), 0.0 if of_edges else np.nan)
    if rank is not None and given is not None:
        rank[place] = given
    chosen = None if members is None else np.zeros(len(items), dtype=bool)
    if chosen is not None and members is not None:
        chosen[place] = members.astype(bool)
    if of_edges:
        return CircuitFile(config, edge_scores=rank, edges_in=chosen)
    return CircuitFile(config, node_scores=rank, nodes_in=chosen)


def _rows(data: bytes) -> Iterator[tuple[int, list[str]]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidCircuitFile("not a text file") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    empty = True
    try:
        for row in reader:
            if row:
                empty = False
                yield reader.line_num, row
    except csv.Error as error:
        raise InvalidCircuitFile(f"line {reader.line_num}: not CSV ({error})") from error
    if empty:
        raise InvalidCircuitFile("empty")


def _columns(header: list[str]) -> set[str]:
    columns = set(header)
    for name in header:
        if name not in _COLUMNS:
            raise InvalidCircuitFile(f"{unknown('column', name, _COLUMNS)}")
    if len(columns) < len(header):
        raise InvalidCircuitFile("a column stands there twice")
    keys = [{"edge"}, {"sender", "receiver"}, {"node"}, {"layer", "head"}]
    of = [key for key in keys if key <= columns]
    both = any(key & {"edge", "sender"} for key in of) and any(
        key & {"node", "layer"} for key in of
    )
    if not of or both:
        raise InvalidCircuitFile(
            f"columns {', '.join(header)}; expected {','.join(_EDGES)} or {','.join(_NODES)}"
        )
    if not columns & {"score", "in_circuit"}:
        raise InvalidCircuitFile("has neither a column score nor in_circuit")
    return columns


def _edge(cells: dict[str, str], line: int) -> Edge:
    ends = [
        _named(from_any, cells[key], line, key) for key in ("sender", "receiver") if key in cells
    ]
    if "edge" not in cells:
        return Edge(*ends)
    edge = _named(edge_from_any, cells["edge"], line, "edge")
    if "sender" in cells and "receiver" in cells and edge != Edge(*ends):
        raise InvalidCircuitFile(f"line {line}: edge {edge} is not {'->'.join(ends)}")
    return edge


def _node(cells: dict[str, str], line: int) -> str:
    if "node" in cells:
        return _named(from_any, cells["node"], line, "node")
    return _named(from_any, f"{cells['layer']}.{cells['head']}", line, "layer and head")


def _named(read: Callable[[str], T], text: str, line: int, column: str) -> T:
    try:
        return read(text.strip())
    except InvalidCircuitFile as error:
        raise InvalidCircuitFile(f"line {line}, {column}: {error}") from error


def _score(text: str, line: int) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InvalidCircuitFile(f"line {line}: score must be a finite number, not {found(text)}")
    return value


def _truth(text: str, line: int) -> bool | None:
    if not text.strip():
        return None
    value = _TRUTH.get(text.strip().lower())
    if value is None:
        raise InvalidCircuitFile(
            f"line {line}: in_circuit must be true or false, not {found(text)}"
        )
    return value


def _column(values: list[Any], lines: list[int], name: str, *, partly: bool) -> np.ndarray | None:
    """A column as floats; None where it is empty throughout, NaN in its empty cells."""
    missing = [line for value, line in zip(values, lines, strict=True) if value is None]
    if len(missing) == len(values):
        return None
    if missing and not partly:
        raise InvalidCircuitFile(f"line {missing[0]}: {name} is missing, while others have one")
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _smallest(names: dict[Edge | str, int]) -> Config:
    """The smallest model that could have these nodes."""
    layers, heads, mlps = 0, 0, False
    for name, line in names.items():
        for end in name if isinstance(name, Edge) else (name,):
            match = _PARTS.fullmatch(end)
            if match is None:
                raise InvalidCircuitFile(f"line {line}: not a node: {end!r}")
            layer, head, mlp = match.groups()
            layers = max(layers, int(layer or 0) + 1, int(mlp or 0) + 1)
            heads, mlps = max(heads, int(head or 0) + 1), mlps or mlp is not None
    return Config(layers, heads, mlps)
