"""Learns what edges and nodes are worth: from the circuits of other models, or from a teacher.

A supervised warm start. Of models that are not ranked the true circuits may be told; on the model
that is ranked they are not, and the network then imitates a method that asks the oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from circuitbench import Circuit, Discovery, Head, method_class
from circuitbench_agents.environments.edge_candidates import Candidates
from circuitbench_agents.learning.graph_network import GraphScorer
from circuitbench_agents.learning.settings import require_above_0, require_at_least_1

if TYPE_CHECKING:
    from circuitbench import Oracle


@dataclass(frozen=True)
class ScorerSettings:
    """How what edges and nodes are worth is learnt.

    Args:
        epochs: passes over the lessons.
        minibatch: graphs per step.
        learning_rate: of AdamW, in one cycle up and down.
        weight_decay: of AdamW.
        noise: added to every feature while it learns (sd).
        teacher: on the model that is ranked, the methods whose edges and heads are taken for the
            circuit.
    """

    epochs: int = 40
    minibatch: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    noise: float = 0.02
    teacher: tuple[str, str] = ("eap-ig-inputs", "cut-search")

    def __post_init__(self) -> None:
        require_at_least_1(self, "epochs", "minibatch")
        require_above_0(self, "learning_rate")


@dataclass(frozen=True)
class Lesson:
    """Candidates, and which of their edges ``[k]`` and nodes ``[n_nodes]`` are in the circuit."""

    found: Candidates
    edges: np.ndarray
    nodes: np.ndarray


def lesson_of(found: Candidates, circuit: Circuit) -> Lesson:
    """What a known circuit says; edges are those it names, or all between its nodes."""
    edges = found.oracle.edges.edges
    named = circuit.edges
    chosen = [edges[i] for i in found.edges]
    heads = {str(head) for head in circuit.heads}
    inside = heads | {name for name in found.oracle.edges.graph.senders if "." not in name}
    if named is None:
        kept = [e.sender in inside and _node(e.receiver) in inside | {"logits"} for e in chosen]
    else:
        kept = [edge in named for edge in chosen]
    nodes = [name in heads for name in found.oracle.edges.graph.senders]
    return Lesson(found, np.array(kept), np.array(nodes))


def taught_by(
    names: tuple[str, str], oracle: Oracle, found: Candidates, rng: np.random.Generator
) -> Lesson:
    """What a method over edges and a method over heads commit to; their queries are asked here."""
    by_edge, by_head = (method_class(name)().discover(oracle, rng) for name in names)
    edges = oracle.edges.edges
    chosen: frozenset[object] = frozenset(by_edge.selected_edges or ())
    nodes = _heads(by_head) | _heads(by_edge)
    return Lesson(
        found,
        np.array([edges[i] in chosen for i in found.edges]),
        np.array([name in nodes for name in oracle.edges.graph.senders]),
    )


def fit(
    network: GraphScorer,
    lessons: Sequence[Lesson],
    settings: ScorerSettings,
    rng: np.random.Generator,
) -> GraphScorer:
    """Train a scorer by cross-entropy; draws from ``rng`` alone."""
    draws = torch.Generator().manual_seed(int(rng.integers(2**31)))
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    seen = seen_of([lesson.found for lesson in lessons])
    wanted = _padded([x.edges for x in lessons]), _padded([x.nodes for x in lessons])
    there = (seen["ends"][..., 0] >= 0).float(), seen["nodes"][..., -1]
    batches = -(-len(lessons) // settings.minibatch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.epochs * batches
    )
    network.train()
    for _ in range(settings.epochs):
        for rows in torch.from_numpy(rng.permutation(len(lessons))).split(settings.minibatch):
            some = {name: value[rows] for name, value in seen.items()}
            for name in ("edges", "nodes"):
                noise = torch.randn(some[name].shape, generator=draws)
                noise[..., -1] = 0.0  # who is there
                some[name] = some[name] + settings.noise * noise
            loss = torch.zeros(())
            for logits, want, real in zip(network(some), wanted, there, strict=True):
                losses = nn.functional.binary_cross_entropy_with_logits(
                    logits, want[rows], reduction="none"
                )
                loss = loss + (losses * real[rows]).sum() / real[rows].sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    network.eval()
    return network


@dataclass(frozen=True)
class LearntJudge:
    """Says what candidates are worth, by a trained scorer."""

    network: GraphScorer

    def __call__(self, found: Sequence[Candidates]) -> list[Candidates]:
        """The same candidates with chances in place of their attributions' sizes."""
        with torch.no_grad():
            chances = [logits.sigmoid().double().numpy() for logits in self.network(seen_of(found))]
        return [
            replace(one, worth=edges[: len(one)], node_worth=nodes[: one.n_nodes])
            for one, edges, nodes in zip(found, *chances, strict=True)
        ]


def seen_of(found: Sequence[Candidates]) -> dict[str, Tensor]:
    """What a scorer sees of candidates, as an observation; features of padding are zero."""
    n = max(one.n_nodes for one in found)
    nodes = [np.append(one.node_features, np.ones((one.n_nodes, 1)), axis=1) for one in found]
    ends = [np.where(one.ends == one.n_nodes, n, one.ends) for one in found]
    return {
        "edges": _padded([one.features for one in found]),
        "nodes": _padded(nodes),
        "ends": _padded(ends, -1.0),
        "globals": torch.ones(len(found), 1),
    }


def _padded(parts: Sequence[np.ndarray], value: float = 0.0) -> Tensor:
    """Arrays ``[n_i, ...]`` as one ``[len(parts), n, ...]``, float32."""
    n = max(len(part) for part in parts)
    whole = np.full((len(parts), n, *parts[0].shape[1:]), value, np.float32)
    for row, part in zip(whole, parts, strict=True):
        row[: len(part)] = part
    return torch.from_numpy(whole)


def _heads(found: Discovery) -> set[str]:
    return {str(Head(*head)) for head in found.selected}


def _node(receiver: str) -> str:
    return receiver.rpartition(".")[0] if receiver[-1] in "qkv" else receiver
