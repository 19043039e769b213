"""Monte-Carlo tree search on HeadKnockout: which heads do damage once others are off?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from circuitbench import Discovery, Info, InvalidSpec
from circuitbench_baselines.bandits import affordable
from circuitbench_baselines.episodes.evidence import Evidence

if TYPE_CHECKING:
    from circuitbench import Oracle


@dataclass
class Node:
    """A set of ablated heads: its contrastive reward, and what was found beyond it."""

    removed: frozenset[int]
    reward: float
    visits: int = 0
    best: float = 0.0  # best reward at or below, as a fraction of the clean metric
    closed: bool = False  # everything at and below it has been asked
    children: dict[int, Node] = field(default_factory=dict)


@Info(
    title="Monte-Carlo tree search",
    family="Mask search",
    paper="Kocsis and Szepesvári 2006",
    link="https://doi.org/10.1007/11871842_29",
)
@dataclass(frozen=True)
class MCTS:
    """UCT (Kocsis & Szepesvári 2006) with progressive widening (Coulom 2007) over ablated sets.

    A node is a set of ablated heads; a simulation walks down by upper confidence bounds on the
    best reward found below, adds one new head to the set it reaches and asks the oracle about
    it: one query. New heads are drawn without replacement over the whole tree before any is
    drawn again, so early queries cover many heads. A head's score is the largest fall it
    caused in any set it was added to, so a backup counts once its partners are off.

    Args:
        queries: simulations (fewer if the budget is smaller).
        exploration: weight of the confidence bound; rewards are fractions of the clean metric.
        widening: a node visited n times may have ``n ** widening`` children, at least 4.
        depth: largest set.
        threshold: commits to heads above this fraction of the clean metric.
    """

    queries: int = 288
    exploration: float = 0.3
    widening: float = 0.8
    depth: int = 12
    threshold: float = 0.02

    name: ClassVar[str] = "mcts"

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """At most ``queries`` queries, all on the oracle's current batch."""
        if not 0 < self.widening <= 1 or self.depth < 1 or self.exploration < 0:
            raise InvalidSpec(
                f"{self.name} needs 0 < widening <= 1, depth >= 1 and exploration >= 0"
            )
        n = oracle.n_layers * oracle.n_heads
        unit = abs(oracle.clean_metric) or 1.0
        root, deck = Node(frozenset(), 0.0), _Deck(n, rng)
        largest = np.full(n, -np.inf)
        evidence = Evidence(oracle.shape)
        for _ in range(affordable(oracle, self.queries)):
            if root.closed:
                break
            path = self._descend(root, n)
            parent = path[-1]
            head = deck.draw(set(parent.removed) | parent.children.keys())
            removed = parent.removed | {head}
            mask = torch.ones(n, dtype=torch.bool)
            mask[list(removed)] = False
            reward = float(oracle.query(mask.view(1, *oracle.shape)).reward[0])
            largest[head] = max(largest[head], reward - parent.reward)
            evidence.sums[head], evidence.counts[head] = largest[head], 1
            evidence.spent(1)
            path.append(Node(removed, reward, closed=len(removed) >= min(self.depth, n)))
            parent.children[head] = path[-1]
            for node in reversed(path):
                node.visits += 1
                node.best = max(node.best, reward / unit)
                full = len(node.children) == n - len(node.removed)
                node.closed |= full and all(child.closed for child in node.children.values())
        return evidence.discovery(self.threshold * unit, {"depth_reached": _depth(root)})

    def _descend(self, root: Node, n: int) -> list[Node]:
        """The path from the root to an open node that takes one more child."""
        path = [root]
        while True:
            node = path[-1]
            room = min(max(4.0, node.visits**self.widening), n - len(node.removed))
            open_children = [child for child in node.children.values() if not child.closed]
            if len(node.children) < room or not open_children:
                return path
            bonus = self.exploration * np.sqrt(np.log(node.visits))
            path.append(max(open_children, key=lambda c: c.best + bonus / np.sqrt(c.visits)))


class _Deck:
    """Heads in random order; all are dealt once before any is dealt again."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.n, self.rng = n, rng
        self.cards: list[int] = []

    def draw(self, barred: set[int]) -> int:
        """The next head that is not barred; there must be one."""
        if all(card in barred for card in self.cards):
            self.cards += [int(card) for card in self.rng.permutation(self.n)]
        return self.cards.pop(next(k for k, c in enumerate(self.cards) if c not in barred))


def _depth(node: Node) -> int:
    return max((_depth(child) for child in node.children.values()), default=len(node.removed))
