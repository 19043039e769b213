"""Which edges a task's circuit consists of, read off the maps its heads were written as.

A planted head's maps say what its query, key and value read and what it writes, those of an MLP
what its neurons read and write. The circuit is run in the space of features, where nothing is
hidden, no other head is in the way and stand-ins are awake, and every edge is asked what it
carries: what the sender writes, as far as the receiver's map reads it.

An edge is true if what it carries *varies*: if, at a position from which the metric can hear the
receiver, it differs from its value on the counterfactual or from its mean over counterfactuals.
That is what resample and mean ablation put in its place. What is the same on every prompt (the
score of the sink, position codes, a flag of a token that always stands in the same place) matters
under zero ablation only, and is not in this truth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from circuitbench.core.circuit import Edge, Head
from circuitbench.models.planted.build import PlantedModel
from circuitbench.models.planted.roles import CATALOGUE, MLP_CATALOGUE
from circuitbench.models.planted.wiring import HeadMaps, MLPMaps

VARIES = 0.01
"""Least change that counts, relative to the largest of any sender to the same receiver."""

EDGE_ABLATIONS = ("mean", "resample")
"""The ablations under which what varies is what matters."""


def edges_of(
    planted: PlantedModel,
    roles: Sequence[str],
    tokens: np.ndarray,
    counterfactual: np.ndarray,
    positions: np.ndarray,
    answers: np.ndarray,
    mlps: Sequence[str] = (),
) -> frozenset[Edge]:
    """The edges of the circuit made of ``roles`` and ``mlps``, on these prompts.

    Args:
        planted: the model.
        roles: of the circuit; every head of each belongs to it.
        tokens, counterfactual: ``[n, pos]`` token ids.
        positions: ``[n, k]``; where the metric reads logits.
        answers: token ids whose logits it reads, of any shape.
        mlps: roles of MLPs in the circuit; every MLP of each belongs to it.
    """
    circuit = _Circuit(planted, roles, mlps, tokens, counterfactual)
    needed = np.zeros(tokens.shape, dtype=bool)
    np.put_along_axis(needed, positions, True, axis=1)
    readout = planted.space.unembed[:, np.unique(answers)]
    found = [Edge(sender, "logits") for sender in circuit.heard(readout, needed, "")]
    for node, maps in reversed(circuit.maps.items()):
        needed = circuit.needed[node]
        if not needed.any():
            continue
        if isinstance(maps, MLPMaps):
            found += [Edge(sender, node) for sender in circuit.heard(maps.read, needed, node)]
            continue
        # what stands at any position up to a needed one may be attended to
        before = np.flip(np.logical_or.accumulate(np.flip(needed, 1), 1), 1)
        for letter, where in (("q", needed), ("k", before), ("v", before)):
            senders = circuit.heard(_reads(maps, letter), where, node)
            found += [Edge(sender, f"{node}.{letter}") for sender in senders]
    return frozenset(found)


class _Circuit:
    """A circuit's heads and MLPs, run on features.

    Attributes:
        maps: head or MLP -> its maps, in order of computation.
        needed: sender -> ``[n, pos]``, where somebody hears what it writes.
    """

    def __init__(
        self,
        planted: PlantedModel,
        roles: Sequence[str],
        mlps: Sequence[str],
        tokens: np.ndarray,
        counterfactual: np.ndarray,
    ) -> None:
        wiring = planted.wiring
        maps: dict[str, HeadMaps | MLPMaps] = {
            str(head): CATALOGUE[role].build(wiring, copy)
            for role in roles
            for copy, head in enumerate(planted.heads[role])
        }
        for role in mlps:
            maps |= {f"m{layer}": MLP_CATALOGUE[role].build(wiring) for layer in planted.mlps[role]}
        self.maps = dict(sorted(maps.items(), key=lambda node: _place(node[0])))
        self.n = len(tokens)
        texts = np.concatenate([tokens, counterfactual])
        space = planted.space
        self.written = {"embed": space.embed[texts] + space.positions[: texts.shape[1]]}
        for node, run in self.maps.items():
            stream = np.asarray(sum(self.written[sender] for sender in self._before(node)))
            self.written[node] = run(stream)
        self.needed = {sender: np.zeros(tokens.shape, dtype=bool) for sender in self.written}

    def heard(self, reads: np.ndarray, where: np.ndarray, receiver: str) -> list[str]:
        """The senders from which a receiver hears what varies, at positions ``where [n, pos]``."""
        rows, columns = np.flatnonzero(reads.any(1)), np.flatnonzero(reads.any(0))
        if not rows.size:
            return []
        reads = reads[np.ix_(rows, columns)]  # a role reads a few features of some hundred
        change = {}
        for sender in self._before(receiver):
            carried = self.written[sender][..., rows] @ reads
            clean, other = carried[: self.n], carried[self.n :]
            change[sender] = np.maximum(
                np.abs(clean - other).max(-1), np.abs(clean - other.mean(0)).max(-1)
            )
        least = VARIES * max(float((x * where).max()) for x in change.values())
        senders = [sender for sender, x in change.items() if (x * where).max() > max(least, 1e-6)]
        for sender in senders:
            self.needed[sender] |= where & (change[sender] > least)
        return senders

    def _before(self, receiver: str) -> list[str]:
        """Senders below a head or MLP, or all of them below the logits (``""``)."""
        below = [n for n in self.maps if not receiver or _place(n)[:2] < _place(receiver)[:2]]
        return ["embed", *below]


def _place(node: str) -> tuple[int, bool, int]:
    """Order of computation: layers, in each the heads side by side, then the MLP."""
    if node.startswith("m"):
        return int(node[1:]), True, 0
    head = Head.parse(node)
    return head.layer, False, head.head


def _reads(maps: HeadMaps, letter: str) -> np.ndarray:
    """Everything a side of a head reads: its maps side by side, ``[size, d]``."""
    if letter == "v":
        return np.hstack([value @ output for value, output in maps.ov])
    return np.hstack([term["qk".index(letter)] for term in maps.scores])
