"""The edges' part of the health gate: does the circuit run along the edges the truth names?

The true edges alone must keep the metric while every other edge is ablated. Each of them must
matter in *some* context: alone, with edges between the same roles gone, or with those between two
other roles gone, under one of the ablations the truth claims its edges for. Other edges must
matter in none: alone, in a damaged circuit, and many together.

Effects are in units of the gap: the metric of the intact model minus that with every edge ablated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import product

import numpy as np
import torch

from circuitbench.checks.health_card import Check
from circuitbench.core.circuit import Circuit, Edge
from circuitbench.models.limits import Limits
from circuitbench.oracle import Oracle

MASKS = 1 << 26
"""Entries of masks that are asked about at once."""

Cut = frozenset[Edge]
Kind = tuple[str, str, str]  # roles of sender and receiver, and which input: q, k, v or none


def edge_checks(
    oracle: Oracle, truth: Circuit, limits: Limits, sets: int, rng: np.random.Generator
) -> tuple[Check, ...]:
    """The checks of a truth's edges; none where it claims no ablation for them.

    Args:
        oracle: of the task on its model; a few prompts are enough.
        truth: what is tested.
        limits: see :class:`Limits`.
        sets: random sets of other edges; four times as many are tried one by one.
        rng: draws these.

    Raises :class:`InvalidSpec` for an edge the model does not have.
    """
    if truth.edges is None or not truth.edge_ablations:
        return ()
    bench = _Bench(oracle, truth)
    return (
        *_sufficient(bench, limits),
        _true_ones_matter(bench, limits),
        *_others_do_not(bench, limits, sets, rng),
    )


class _Bench:
    """An oracle and the edges of a truth, asked about sets of ablated edges."""

    def __init__(self, oracle: Oracle, truth: Circuit) -> None:
        assert truth.edges is not None
        self.oracle, self.kinds = oracle, truth.edge_ablations
        self.true = sorted(truth.edges)
        self.others = [edge for edge in oracle.edges.edges if edge not in truth.edges]
        self._role = {str(h): name for name, role in truth.roles.items() for h in role.heads}
        self._at_once = max(1, MASKS // len(oracle.edges.edges))
        self._known: dict[tuple[Cut, str], float] = {}
        everything = frozenset(oracle.edges.edges)
        self.gap = {
            kind: float(
                oracle.edges.query(oracle.edges.without(everything)[None], ablation=kind).task
            )
            for kind in self.kinds
        }

    def effects(self, cuts: Iterable[Cut]) -> np.ndarray:
        """Metric lost by ablating each set, ``[sets, kinds of ablation]``, in units of the gap."""
        wanted = list(cuts)
        for kind in self.kinds:
            new = [c for c in dict.fromkeys(wanted) if (c, kind) not in self._known]
            for start in range(0, len(new), self._at_once):
                some = new[start : start + self._at_once]
                masks = torch.stack([self.oracle.edges.without(cut) for cut in some])
                lost = self.oracle.edges.query(masks, ablation=kind).task.tolist()
                gap = self.gap[kind] or float("nan")
                self._known |= {(c, kind): x / gap for c, x in zip(some, lost, strict=True)}
        rows = [[self._known[cut, kind] for kind in self.kinds] for cut in wanted]
        return np.array(rows).reshape(-1, len(self.kinds))

    def marginals(self, pairs: Sequence[tuple[Edge, Cut]]) -> np.ndarray:
        """Greatest change ``[pairs]`` by ablating an edge too, its context being ablated."""
        before = self.effects(context for _, context in pairs)
        after = self.effects(context | {edge} for edge, context in pairs)
        return np.asarray(np.abs(after - before).max(1))

    def kind(self, edge: Edge) -> Kind:
        """Between which roles an edge runs."""
        node, letter = _receiver(edge)
        return self._role.get(edge.sender, edge.sender), self._role.get(node, node), letter

    @cached_property
    def groups(self) -> dict[Kind, list[Edge]]:
        """The true edges by the roles they run between."""
        groups: dict[Kind, list[Edge]] = {}
        for edge in self.true:
            groups.setdefault(self.kind(edge), []).append(edge)
        return groups

    def beside(self, edge: Edge) -> Iterator[Cut]:
        """Contexts in which more and more of the copies at both ends of an edge are gone.

        A sender is gone for this receiver, or for all like it (then copies that vote are outvoted
        everywhere). A receiver is gone by not hearing any of the senders, or by not being heard.
        """
        group = set(self.groups.get(self.kind(edge), ())) - {edge}
        senders = sorted({e.sender for e in group} - {edge.sender})
        receivers = sorted({e.receiver for e in group} - {edge.receiver})
        for n, m in product(range(len(senders), -1, -1), range(len(receivers), -1, -1)):
            gone, copies = set(senders[:n]), set(receivers[:m])
            mine = {e for e in group if e.sender in gone and e.receiver == edge.receiver}
            deaf = {e for e in group if e.receiver in copies}
            mute = {e for e in self.true if f"{e.sender}.{self.kind(edge)[2]}" in copies}
            alike = {e for e in group if e.sender in gone}
            yield from map(frozenset, (mine | deaf, mine | mute, alike | deaf, alike | mute))

    def contexts(self, edge: Edge) -> Iterator[Cut]:
        """All contexts an edge is tried in, each once, the likeliest first."""
        mine = self.kind(edge)
        rest = frozenset(self.groups.get(mine, ())) - {edge}
        elsewhere = [group for kind, group in self.groups.items() if kind != mine]
        yield from dict.fromkeys(
            [
                frozenset(),
                *self.beside(edge),
                *(rest | set(group) for group in elsewhere),
                *(frozenset(group) for group in elsewhere),
                *(frozenset(group[:1]) for group in elsewhere),
                *(rest | set(group[:1]) for group in elsewhere),
            ]
        )


def _sufficient(bench: _Bench, limits: Limits) -> Iterator[Check]:
    """The true edges keep the metric under every ablation while all others are ablated."""
    (lost,) = bench.effects([frozenset(bench.others)])
    for kind, effect in zip(bench.kinds, lost, strict=True):
        yield Check(
            f"faithfulness of the true edges alone - 1 ({kind})",
            abs(float(effect)),
            "<=",
            limits.edge_sufficiency,
            f"{1 - effect:.3f}; {len(bench.true)} of {len(bench.oracle.edges.edges)} edges",
        )


def _true_ones_matter(bench: _Bench, limits: Limits) -> Check:
    """Each true edge is tried in one context after the other until it matters enough."""
    best = dict.fromkeys(bench.true, 0.0)
    waiting = {edge: bench.contexts(edge) for edge in bench.true}
    while waiting:
        pairs = []
        for edge in list(waiting):
            context = next(waiting[edge], None)
            if context is None:
                del waiting[edge]
            else:
                pairs.append((edge, context))
        for (edge, _), effect in zip(pairs, bench.marginals(pairs), strict=True):
            best[edge] = max(best[edge], float(effect))
            if best[edge] >= limits.edge_matters:
                del waiting[edge]
    weakest = min(best, key=best.__getitem__)
    return Check(
        "weakest true edge in some context",
        best[weakest],
        ">=",
        limits.edge_matters,
        f"{weakest}, {' to '.join(filter(None, bench.kind(weakest)))}",
    )


def _others_do_not(
    bench: _Bench, limits: Limits, sets: int, rng: np.random.Generator
) -> Iterator[Check]:
    """Other edges, half of them inside the circuit, matter neither one by one nor together."""
    ends = {end for edge in bench.true for end in (edge.sender, _receiver(edge)[0])}
    inside = [e for e in bench.others if e.sender in ends and _receiver(e)[0] in ends]
    tried = [*_some(inside, 2 * sets, rng), *_some(bench.others, 2 * sets, rng)]
    alone = bench.effects(frozenset({edge}) for edge in tried)
    broken = [(edge, frozenset(_share(bench.true, 0.15, rng))) for edge in tried]
    # an edge missing from a group of true ones may show only where those are gone
    copies = [edge for edge in inside if bench.kind(edge) in bench.groups]
    broken += [(edge, context) for edge in copies for context in bench.beside(edge)]
    damaged = bench.marginals(broken)
    together = bench.effects(frozenset(_share(bench.others, 0.5, rng)) for _ in range(sets))
    for name, effects, limit, detail in (
        ("strongest other edge, alone", alone, limits.tolerance, f"{len(tried)} tried"),
        (
            "strongest other edge, in a damaged circuit",
            damaged,
            limits.tolerance,
            f"{len(broken)} tried",
        ),
        ("random half of the other edges, together", together, limits.together, f"{sets} sets"),
    ):
        if len(effects):
            yield Check(name, float(np.abs(effects).max()), "<=", limit, detail)


def _receiver(edge: Edge) -> tuple[str, str]:
    """The node that hears an edge, and which of a head's inputs (``""`` for other nodes)."""
    head, dot, letter = edge.receiver.rpartition(".")
    return (head, letter) if dot else (edge.receiver, "")


def _some(edges: Sequence[Edge], n: int, rng: np.random.Generator) -> list[Edge]:
    """``n`` of the edges, or all."""
    return [edges[i] for i in rng.choice(len(edges), min(n, len(edges)), replace=False)]


def _share(edges: Sequence[Edge], p: float, rng: np.random.Generator) -> list[Edge]:
    """Each edge with probability ``p``."""
    return [edge for edge, x in zip(edges, rng.random(len(edges)), strict=True) if x < p]
