"""The best connected set of edges: an integer programme over scores of edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from circuitbench import AblationName, Discovery, Info, InvalidSpec, Oracle, Straight
from circuitbench_baselines.edge_paths import interpolated_inputs
from circuitbench_baselines.edge_ranking import edge_discovery


@Info(
    title="Integer programme over edges",
    family="Set selection",
    paper="Nikankin et al. 2025",
    link="https://arxiv.org/abs/2510.25786",
    granularity="edges",
    needs=("counterfactuals", "edges", "gradients"),
)
@dataclass(frozen=True)
class EdgeIntegerProgramme:
    """Commits to the connected edges whose scores sum to most (Nikankin et al. 2025).

    Scores are magnitudes of EAP-IG. An integer programme, as in the paper (arXiv 2510.25786),
    takes at most ``size`` edges so that every node they touch is reached from the embedding and
    reaches the logits (see :func:`best_connected`). The edges taken rank above all others, and
    both by score. The projection to heads is that of
    :func:`circuitbench_baselines.edge_ranking.edge_discovery`.

    The paper evaluates a list of sizes. To commit to one of them, sizes double from ``smallest``
    to ``largest`` and the smallest whose set, alone, is ``faithful`` wins; the most faithful one
    if none is that faithful, or if the budget ends. Faithfulness is the metric with only these
    edges kept, 0 where none is kept and 1 in the intact model.

    It departs from the paper in its solver (scipy's), and in leaving out of the programme what
    could hardly matter: it may take the ``candidates`` best edges, or as many as the size, and
    the best into and out of every node. The search stops after ``nodes`` branches, not after some
    time, so that the answer is the same on every machine; if nothing better was found by then,
    the greedy set is taken. ``info`` says which it was, and whether it is proved to be the best.

    Args:
        size: edges at most; 0 tries sizes as above.
        smallest, largest: sizes tried.
        faithful: faithfulness that is enough; 0.9 is 0.9 to 1.1.
        steps: points of the attribution, see :class:`EAPIGInputs`; 0 is edge attribution
            patching.
        candidates: edges the programme may take.
        nodes: branches of the search at most.
        ablation: what stands for the sender's output otherwise.
        listed: edges reported, the best; the rest ranks below them, tied.
    """

    size: int = 0
    smallest: int = 8
    largest: int = 512
    faithful: float = 0.9
    steps: int = 5
    candidates: int = 500
    nodes: int = 1_000
    ablation: AblationName = "resample"
    listed: int = 1_000

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """Three queries a point, one of the empty set, one of each size: at most 23 queries."""
        if min(self.size, self.steps) < 0 or min(self.candidates, self.nodes, self.smallest) < 1:
            raise InvalidSpec(
                "edge-integer-programme needs size and steps >= 0, candidates, nodes and smallest "
                f">= 1, not {self.size}, {self.steps}, {self.candidates}, {self.nodes}, "
                f"{self.smallest}"
            )
        path = interpolated_inputs(self.steps) if self.steps else Straight()
        attributed = oracle.edges.attribution(path, ablation=self.ablation)
        effects = attributed.double().mean(0).numpy()
        scores, ends = np.abs(effects), oracle.edges.graph.ends
        tried: list[dict[str, float]] = []
        if self.size:
            chosen = self._solve(ends, scores, self.size)
        else:
            chosen, tried = self._smallest_faithful(oracle, ends, scores)
        lift = np.where(chosen.taken, 2 * scores.max(initial=0.0), 0.0)
        return edge_discovery(
            oracle,
            scores + lift,
            chosen.taken,
            effects=np.sign(effects) * (scores + lift),
            listed=self.listed,
            info={
                "size": chosen.size,
                "taken": int(chosen.taken.sum()),
                "sum": float(scores[chosen.taken].sum()),
                "solver": chosen.solver,
                "proved_best": chosen.proved,
                "tried": tried,
            },
        )

    def _smallest_faithful(
        self, oracle: Oracle, ends: np.ndarray, scores: np.ndarray
    ) -> tuple[_Choice, list[dict[str, float]]]:
        best, tried, closest = self._solve(ends, scores, self.smallest), [], np.inf
        if oracle.remaining is not None and oracle.remaining < 2:
            return best, []
        clean = oracle.clean_metric
        total = self._damage(oracle, np.zeros(len(scores), dtype=bool))
        one, size = best, self.smallest
        while True:
            lost = self._damage(oracle, one.taken)
            faithfulness = 1 - lost / total if abs(total) > 1e-6 * max(abs(clean), 1.0) else 0.0
            tried.append({"size": size, "faithfulness": faithfulness})
            if abs(1 - faithfulness) < closest - 0.01:
                best, closest = one, abs(1 - faithfulness)
            size *= 2
            if closest <= 1 - self.faithful or size > self.largest or oracle.remaining == 0:
                return best, tried
            one = self._solve(ends, scores, size)

    def _damage(self, oracle: Oracle, kept: np.ndarray) -> float:
        mask = torch.from_numpy(kept)[None]
        return float(oracle.edges.query(mask, ablation=self.ablation).task[0])

    def _solve(self, ends: np.ndarray, scores: np.ndarray, size: int) -> _Choice:
        few = worth_a_look(ends, scores, max(self.candidates, size))
        taken = np.zeros(len(scores), dtype=bool)
        taken[few], proved = best_connected(ends[few], scores[few], size, nodes=self.nodes)
        greedy = greedy_connected(ends, scores, size)
        if scores[greedy].sum() > scores[taken].sum():
            return _Choice(size, greedy, "greedy", False)
        return _Choice(size, taken, "milp", proved)


@dataclass(frozen=True)
class _Choice:
    """A set ``taken [n_edges]`` of at most ``size`` edges, and who found it."""

    size: int
    taken: np.ndarray
    solver: str
    proved: bool


def best_connected(
    ends: np.ndarray, scores: np.ndarray, size: int, *, nodes: int = 1_000
) -> tuple[np.ndarray, bool]:
    """The connected set of at most ``size`` edges whose scores sum to most.

    A variable says of every edge whether it is taken, another one of every node whether it is
    in. A taken edge has both its nodes in; a node that is in has an edge coming in and one going
    out. The graph has no circles, so every node that is in hangs between embedding and logits.

    Args:
        ends: ``[n_edges, 2]``, as :attr:`Graph.ends`: sender 0 is the embedding, and the logits
            are the highest number; edges go from lower to higher numbers.
        scores: ``[n_edges]``.
        size: of the set, at most.
        nodes: branches of the search at most; the best set known by then is given.

    Returns:
        The set ``[n_edges]``, bool, and whether it is proved to be the best. It is empty where
        none was found.
    """
    n = len(scores)
    if not n or size < 1:
        return np.zeros(n, dtype=bool), True
    inner = np.setdiff1d(ends, [0, ends.max()])  # all nodes but the embedding and the logits
    place = {int(node): n + i for i, node in enumerate(inner)}
    rows: list[tuple[int, int, float]] = [(0, edge, 1.0) for edge in range(n)]
    lower, upper = [0.0], [float(size)]

    def no_more(few: list[int], many: list[int]) -> None:
        """The sum over the variables ``few`` is at most that over ``many``."""
        rows.extend((len(upper), column, 1.0) for column in few)
        rows.extend((len(upper), column, -1.0) for column in many)
        lower.append(-np.inf)
        upper.append(0.0)

    for edge, (sender, hears) in enumerate(ends):
        for node in (int(sender), int(hears)):
            if node in place:
                no_more([edge], [place[node]])
    for node, column in place.items():
        no_more([column], np.flatnonzero(ends[:, 1] == node).tolist())
        no_more([column], np.flatnonzero(ends[:, 0] == node).tolist())
    at, variable, value = zip(*rows, strict=True)
    matrix = coo_array((value, (at, variable)), shape=(len(upper), n + len(inner))).tocsr()
    found = milp(
        c=-np.concatenate([scores, np.zeros(len(inner))]),
        integrality=np.ones(n + len(inner)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(matrix, lower, upper),
        options={"node_limit": nodes, "mip_rel_gap": 0.0},
    )
    if found.x is None:
        return np.zeros(n, dtype=bool), False
    return np.asarray(found.x[:n] > 0.5), bool(found.status == 0)


def greedy_connected(ends: np.ndarray, scores: np.ndarray, size: int) -> np.ndarray:
    """A connected set of at most ``size`` edges ``[n_edges]``, grown from the logits.

    The best edge whose receiver is in comes next, and brings its sender in; what the embedding
    does not reach is dropped at the end. (MIB's greedy option grows in the same way.)

    Args:
        ends, scores, size: as in :func:`best_connected`.
    """
    taken = np.zeros(len(scores), dtype=bool)
    inside = np.zeros(int(ends.max()) + 1, dtype=bool)
    inside[-1] = True
    for _ in range(min(size, len(scores))):
        open_edges = inside[ends[:, 1]] & ~taken
        if not open_edges.any():
            break
        best = int(np.where(open_edges, scores, -np.inf).argmax())
        taken[best] = inside[ends[best, 0]] = True
    return np.asarray(taken & _reached(ends, taken))


def _reached(ends: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Of all edges, those whose sender the embedding reaches through taken ones."""
    reached = np.zeros(int(ends.max()) + 1, dtype=bool)
    reached[0] = True
    for edge in np.flatnonzero(taken)[np.argsort(ends[taken, 0], kind="stable")]:
        if reached[ends[edge, 0]]:
            reached[ends[edge, 1]] = True
    return np.asarray(reached[ends[:, 0]])


def worth_a_look(ends: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """Edges ``[n]`` a set may be made of: the ``count`` best, and each node's best in and out."""
    order = np.argsort(-scores, kind="stable")
    best_in = np.unique(ends[order, 1], return_index=True)[1]
    best_out = np.unique(ends[order, 0], return_index=True)[1]
    return np.unique(np.concatenate([order[:count], order[best_in], order[best_out]]))
