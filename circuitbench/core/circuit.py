"""What a circuit is: heads, edges, and the roles they play. Frozen values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from circuitbench.core.display import Displayed, Sheet, listed
from circuitbench.core.errors import InvalidSpec

Direction = Literal["noising", "denoising"]
TruthKind = Literal["constructed", "trained", "literature", "ambiguous"]

DIRECTIONS: tuple[Direction, ...] = ("noising", "denoising")


class Head(NamedTuple):
    """One attention head, written ``layer.head`` (both counted from 0)."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"{self.layer}.{self.head}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read ``"9.6"``; raises :class:`InvalidSpec` on anything else."""
        match = re.fullmatch(r"([0-9]{1,9})\.([0-9]{1,9})", text.strip())
        if match is None:
            raise InvalidSpec(f"not a head: {text!r}; expected layer.head, e.g. 9.6")
        return cls(int(match[1]), int(match[2]))


class Edge(NamedTuple):
    """A connection through the residual stream, from a sender's output to a receiver's input.

    Senders are ``embed``, a head ``"3.1"`` or an MLP ``"m3"``; receivers are a head's input
    ``"9.6.q"``, ``"9.6.k"`` or ``"9.6.v"``, an MLP ``"m3"`` or ``logits``.
    """

    sender: str
    receiver: str

    def __str__(self) -> str:
        return f"{self.sender}->{self.receiver}"

    @classmethod
    def parse(cls, text: str) -> Edge:
        """Read ``"0.1->2.3.k"``; raises :class:`InvalidSpec` on anything else."""
        sender, arrow, receiver = text.partition("->")
        if not (sender and arrow and receiver):
            raise InvalidSpec(f"an edge looks like '0.1->2.3.k', not {text!r}")
        return cls(sender, receiver)


@dataclass(frozen=True)
class Role:
    """The heads that do one job in a circuit.

    ``needed`` is how many of them must be found for the job to count as found: all of them
    where copies share the work, one where any copy suffices. ``sign`` is -1 for heads whose
    ablation *improves* the metric. ``shows`` says what ablating one head alone reveals.
    """

    heads: tuple[Head, ...]
    needed: int = 0
    sign: int = 1
    shows: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", tuple(sorted(Head(*h) for h in self.heads)))
        if not 0 <= self.needed <= len(self.heads):
            raise InvalidSpec(f"a role of {len(self.heads)} heads cannot need {self.needed}")
        if self.needed == 0:
            object.__setattr__(self, "needed", len(self.heads))


@dataclass(frozen=True)
class Circuit(Displayed):
    """A ground truth: who is in the circuit, why we believe it, and under which ablations.

    ``kind`` is ``constructed`` (weights written by hand), ``trained`` (established by
    exhaustive tests on a trained model), ``literature`` or ``ambiguous``. ``ablations`` names the
    kinds under which the truth was verified; none are claimed by default. ``edge_ablations`` says
    the same of ``edges``: which edges carry anything depends on what an ablation puts in its place.
    ``degrees`` says that heads contribute so unequally that a run measures how much
    (:mod:`circuitbench.evaluation.contributions`).

    Where several sets of heads do the job, ``family`` lists every set that is *sufficient* (keeps
    at least the share ``faithfulness`` of the metric under each of ``ablations``, everything else
    ablated) and *minimal* (no proper subset is sufficient). ``heads`` are then their union. Which
    of the sets the model uses cannot be told from the heads' effects; empty where one circuit is
    stated.

    Raises:
        InvalidSpec: a family whose union is not the roles' heads, or one of whose sets contains
            another.
    """

    roles: Mapping[str, Role]
    source: str
    kind: TruthKind
    ablations: tuple[str, ...] = ()
    version: str = "1"
    edges: frozenset[Edge] | None = None
    edge_ablations: tuple[str, ...] = ()
    mlps: tuple[int, ...] = ()
    blind_spots: tuple[str, ...] = field(default_factory=tuple)
    degrees: bool = False
    family: tuple[frozenset[Head], ...] = ()
    faithfulness: float = 0.0

    def __post_init__(self) -> None:
        sets = tuple(frozenset(Head(*h) for h in heads) for heads in self.family)
        object.__setattr__(self, "family", sets)
        if sets and frozenset().union(*sets) != self.heads:
            raise InvalidSpec("the heads of the roles must be those of the family's sets together")
        if any(one < other for one in sets for other in sets):
            raise InvalidSpec("a set of the family contains another, so it is not minimal")

    @property
    def core(self) -> frozenset[Head]:
        """The heads in every set of the family; all heads where there is no family."""
        return frozenset.intersection(*self.family) if self.family else self.heads

    @property
    def optional(self) -> frozenset[Head]:
        """The heads in some sets of the family and not in others."""
        return self.heads - self.core

    @property
    def heads(self) -> frozenset[Head]:
        """All heads of all roles."""
        return frozenset(h for role in self.roles.values() for h in role.heads)

    def sheet(self) -> Sheet:
        """Who is in the circuit, role by role."""
        rows = [
            (name, listed(role.heads), f"{role.needed} of {len(role.heads)}")
            for name, role in self.roles.items()
        ]
        more = [f"{len(self.edges)} edges"] if self.edges is not None else []
        if self.family:
            found = f"{len(self.family)} minimal sets of heads, each enough"
            more.append(f"{found} for {self.faithfulness:g} of the metric")
        more += [f"MLPs of layers {listed(self.mlps)}"] if self.mlps else []
        more += [f"verified under {', '.join(self.ablations)}"] if self.ablations else []
        note = "; ".join([self.source, *more])
        return Sheet(f"Circuit ({self.kind})", rows, ("role", "heads", "needed"), note=note)


def head_grid(heads: Iterable[tuple[int, int]], n_layers: int, n_heads: int) -> np.ndarray:
    """Boolean array ``[n_layers, n_heads]``, True at the given heads.

    Raises :class:`InvalidSpec` for a head outside the grid.
    """
    grid = np.zeros((n_layers, n_heads), dtype=bool)
    for layer, head in heads:
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise InvalidSpec(f"head {layer}.{head} is outside the model's {n_layers} x {n_heads}")
        grid[layer, head] = True
    return grid


def heads_of(grid: np.ndarray) -> frozenset[Head]:
    """The heads where a boolean ``[n_layers, n_heads]`` array is True."""
    return frozenset(Head(int(layer), int(head)) for layer, head in np.argwhere(grid))
