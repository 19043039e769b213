"""From records to circuit files and back: what is written of a run, and how a file is judged."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from circuitbench.core.circuit import Edge, heads_of
from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import InvalidCircuitFile, InvalidSpec
from circuitbench.evaluation.outcome import Outcome
from circuitbench.files.circuit_file import CircuitFile, Config, Ranking, node_of
from circuitbench.files.formats import fitted, read
from circuitbench.models.base import Model
from circuitbench.plugins.registry import info_of
from circuitbench.results import Record, versions
from circuitbench.results.discovery import plain_discovery

FAMILY = "Found elsewhere"


def config_of(model: Model) -> Config:
    """What a circuit file says of a model."""
    if model.transformer is None:  # run by hooks: such a model's MLPs are not known to be absent
        return Config(model.n_layers, model.n_heads)
    shape = model.transformer.config
    return Config(shape.n_layers, shape.n_heads, shape.d_mlp > 0, shape.d_model)


def from_record(record: Record, model: Config | None = None) -> CircuitFile:
    """The circuit of a run, to write.

    A head's score and membership become its node's. Scores and membership of edges are kept; edges
    that the method did not list get the score 0, or one below the lowest where that is not
    positive, so that they still rank last. A record of heads only has no scores of edges; tools
    that want edges are shown those between two nodes that are in (input, MLPs and logits always
    are).

    Scores rank as they are (``ranking="signed"``), except those of a method that gives signed
    scores beside their magnitudes: then the signed ones are written, and rank by magnitude.

    Args:
        record: of a run that answered.
        model: of its model; None where it can't be had. Then edges must show whether there are
            MLPs.

    Raises:
        InvalidSpec: the run has no answer, or nothing says whether its model has MLPs.
        InvalidCircuitFile: an edge that the model lacks.
    """
    if not record.discovery:
        raise InvalidSpec(f"the run has no answer to write (status {record.status})")
    outcome = Outcome(record.discovery, {}, {}, {})
    scores = outcome.scores
    listed = None if record.discovery.get("edges") is None else outcome.edges
    if model is None:
        if listed is None:
            raise InvalidSpec(
                f"the record scores heads only, and {record.model_name} cannot be loaded to see "
                "whether it has MLPs"
            )
        mlps = any(end.startswith("m") for edge in listed for end in edge)
        model = Config(scores.shape[0], scores.shape[1], mlps)
    if scores.shape != (model.n_layers, model.n_heads):
        raise InvalidSpec(
            f"scores of {scores.shape} heads do not fit {record.model_name} ({model})"
        )
    edge_scores = None if listed is None else _all_edges(listed, model)
    ranking: Ranking = "signed"
    signed = record.discovery.get("signed")
    magnitudes = signed is not None and np.array_equal(np.abs(signed), scores)
    if magnitudes and (edge_scores is None or (edge_scores >= 0).all()):
        scores, ranking = np.asarray(signed, dtype=float), "absolute"
    effects = record.discovery.get("signed_edges")
    if edge_scores is not None and effects is not None and (edge_scores >= 0).all():
        given = _all_edges({Edge.parse(text): e for text, e in effects.items()}, model, 0.0)
        if np.array_equal(np.abs(given), edge_scores) and (
            ranking == "absolute" or scores.min() >= 0
        ):
            edge_scores, ranking = given, "absolute"
    node_scores = np.full(model.n_nodes, np.nan)
    node_scores[model.head_places] = scores
    nodes_in = np.ones(model.n_nodes, dtype=bool)
    nodes_in[model.head_places] = outcome.selected
    chosen = outcome.selected_edges
    edges_in = None if chosen is None else _all_edges(dict.fromkeys(chosen, 1.0), model, 0.0) > 0
    return CircuitFile(
        model,
        edge_scores=edge_scores,
        edges_in=edges_in,
        node_scores=node_scores,
        nodes_in=nodes_in,
        ranking=ranking,
    )


def _all_edges(
    listed: Mapping[Edge, float], config: Config, rest: float | None = None
) -> np.ndarray:
    """``[n_edges]``; ``rest`` for what is not listed, None ranks it last."""
    places = {edge: i for i, edge in enumerate(config.graph.edges)}
    lowest = min(listed.values(), default=1.0)
    if rest is None:
        rest = 0.0 if lowest > 0 else lowest - 1
    scores = np.full(config.n_edges, rest)
    for edge, score in listed.items():
        if edge not in places:
            raise InvalidCircuitFile(f"the record scores {edge}, which {config} heads do not have")
        scores[places[edge]] = score
    return scores


@dataclass(frozen=True)
class Answer:
    """A circuit file as an answer to a task, like a method's.

    Args:
        config: of the model.
        discovery: its scores of heads, the heads in the circuit, scores of edges. Edges that
            rank lowest are not listed: such an edge ranks below all that are.
        edges_in: ``[n_edges]`` bool, the edges in the circuit, or None.
    """

    config: Config
    discovery: Discovery
    edges_in: np.ndarray | None


def answer(circuit: CircuitFile, top: int | None = None) -> Answer:
    """What a circuit says of heads and edges, by the stated projection.

    A head's score is its node's; where heads have none, the highest rank of any edge into its
    query, key or value or out of it (by ``ranking="absolute"`` the largest absolute score);
    where edges have none either, 1 if it is in and 0 if not. A head is in if any of its edges
    is; where no edge is named as in or out, if its node is.

    Args:
        circuit: in the graph of the model.
        top: take the ``top`` best edges as those in the circuit (of a file of nodes: heads);
            equal ones in the order of the model's edges.

    Raises:
        InvalidCircuitFile: some heads have a score and others have none; ``top`` is out of range.
    """
    config = circuit.config
    edge_rank, edges_in, nodes_in = circuit.edge_rank, circuit.edges_in, circuit.nodes_in
    scores, signed = _head_scores(circuit)
    if top is not None:
        if edge_rank is not None:
            edges_in = _best(edge_rank, top, "edges")
        else:
            edges_in = None
            nodes_in = np.ones(config.n_nodes, dtype=bool)
            nodes_in[config.head_places] = _best(scores.ravel(), top, "heads").reshape(scores.shape)
    if edges_in is not None:
        selected = _most_of_edges(edges_in.astype(float), config) > 0
    elif nodes_in is not None:
        selected = nodes_in[config.head_places]
    else:
        selected = np.zeros(scores.shape, dtype=bool)
    listed = effects = None
    if edge_rank is not None:
        edges, raw = config.graph.edges, circuit.edge_scores
        told = np.flatnonzero(edge_rank > edge_rank.min())
        listed = {edges[i]: float(edge_rank[i]) for i in told}
        if raw is not None and (raw[told] < 0).any() and circuit.ranking == "absolute":
            effects = {edges[i]: float(raw[i]) for i in told}
    size = {} if edges_in is None else {"edges_in": int(edges_in.sum())}
    chosen = None
    if edges_in is not None:
        chosen = frozenset(config.graph.edges[i] for i in np.flatnonzero(edges_in))
    discovery = Discovery(
        scores,
        heads_of(selected),
        listed,
        info=size,
        signed=signed,
        signed_edges=effects,
        selected_edges=chosen,
    )
    return Answer(config, discovery, edges_in)


def _head_scores(circuit: CircuitFile) -> tuple[np.ndarray, np.ndarray | None]:
    """Scores of heads, and the signed ones where an absolute value was taken."""
    config, rank, raw = circuit.config, circuit.node_rank, circuit.node_scores
    if raw is not None:
        scored = ~np.isnan(raw[config.head_places])
        if scored.all() and rank is not None:
            grid, signed = rank[config.head_places], raw[config.head_places]
            return grid, signed if (grid != signed).any() else None
        if scored.any():
            layer, head = np.argwhere(~scored)[0]
            raise InvalidCircuitFile(f"head {layer}.{head} has no score, while others have one")
    if circuit.edge_rank is not None:
        return _most_of_edges(circuit.edge_rank, config), None
    if circuit.nodes_in is not None:
        return circuit.nodes_in[config.head_places].astype(float), None
    raise InvalidCircuitFile("it says nothing of heads or edges")


def _most_of_edges(values: np.ndarray, config: Config) -> np.ndarray:
    """The largest value of any edge of each head, ``[n_layers, n_heads]``."""
    place = {name: i for i, name in enumerate(config.graph.senders)}
    ends = [place.get(node_of(name), -1) for name in config.graph.receivers]
    receiver, sender = config.edge_ends
    most = np.full(config.n_nodes + 1, -np.inf)  # the last one stands for the logits
    np.maximum.at(most, sender, values)
    np.maximum.at(most, np.array(ends)[receiver], values)
    return np.asarray(most[config.head_places])


def _best(rank: np.ndarray, top: int, what: str) -> np.ndarray:
    if not 1 <= top <= rank.size:
        raise InvalidCircuitFile(f"top must be 1 to {rank.size:,} {what}, not {top}")
    inside = np.zeros(rank.size, dtype=bool)
    inside[np.argsort(-rank, kind="stable")[:top]] = True
    return inside


def read_for(
    path: Path, model: Model, ranking: Ranking | None = None, entry: str = ""
) -> CircuitFile:
    """The circuit in a file, in the graph of a model.

    ``ranking`` overrides what the file says of it. Raises :class:`InvalidCircuitFile`.
    """
    config = config_of(model)
    circuit = read(path, replace(config, d_model=None), entry)
    try:
        circuit = fitted(circuit, config, model.name)
    except InvalidCircuitFile as error:
        raise InvalidCircuitFile(f"{path}: {error}") from error
    return circuit if ranking is None else replace(circuit, ranking=ranking)


def external_record(
    found: Answer,
    file: Path,
    *,
    task: str,
    model: Model,
    method: str,
    truth: Mapping[str, Any],
    choices: Mapping[str, Any],
) -> Record:
    """The record of a circuit that was found elsewhere; its costs are unknown and stay empty.

    It is marked by ``spec.external``: the file's name and SHA-256, and every choice that can
    change a number (``choices``, by option of the verb; empty ones are left out). Tables show
    such records in a section of their own.
    """
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    choices = {key: value for key, value in choices.items() if value not in (None, "")}
    external = {"file": file.name, "sha256": digest, **choices}
    words = ["circuitbench", "import", file.name, "--task", task, "--model", model.name]
    words += ["--method-name", method]
    for key, value in choices.items():
        words += [f"--{key}", str(value)]
    info = info_of(method, task, model.name)
    info["method"] |= {"title": method, "family": FAMILY, "external": True}
    return Record(
        spec={"task": task, "model": model.name, "method": method, "seed": 0, "external": external},
        status="done",
        info=info,
        discovery=plain_discovery(found.discovery),
        truth=dict(truth),
        model={
            "n_layers": model.n_layers,
            "n_heads": model.n_heads,
            "provenance": dict(model.provenance),
        },
        versions=versions(),
        command=shlex.join(words),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
