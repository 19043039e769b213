"""Ensembles: several methods ask the same oracle, and their scores are combined."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from circuitbench import (
    BudgetExceeded,
    Discovery,
    Info,
    InvalidSpec,
    Method,
    Oracle,
    TrainableMethod,
    head_grid,
    heads_of,
    load_method,
)
from circuitbench_baselines.edge_ranking import edge_discovery

Combine = Literal["mean", "min", "max"]


@Info(
    title="Ensemble of head methods",
    family="Combination",
    paper="Mondorf et al. 2025",
    link="https://arxiv.org/abs/2510.06811",
    needs=("counterfactuals", "gradients"),
)
@dataclass(frozen=True)
class HeadEnsemble:
    """Mean, least or largest of what several methods score a head.

    The parallel ensemble of Mondorf et al. 2025 (arXiv 2510.06811), over heads. Each member has
    its defaults, asks the same oracle one after another, and pays on the same meter. Its scores
    are brought to [0, 1], the worst head 0 and the best 1, since methods score in units of their
    own. A head is committed to if the members' votes, combined in the same way, are above one
    half: more than half of them for the mean, all for ``min``, any for ``max``. What the budget
    does not cover is left out, and ``info`` says whom.

    Args:
        members: names of methods.
        combine: how.
    """

    members: tuple[str, ...] = ("attribution-patching", "integrated-gradients", "head-importance")
    combine: Combine = "mean"

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """What the members cost together.

        Raises:
            InvalidSpec: no member, or one that trains or is an ensemble itself.
            BudgetExceeded: the budget does not cover the first member.
        """
        answers, info = ask_members(self.members, oracle, rng)
        scores = combined([scaled(one.scores) for one in answers], self.combine)
        votes = [head_grid(one.selected, *oracle.shape).astype(float) for one in answers]
        return Discovery(scores, heads_of(combined(votes, self.combine) > 0.5), info=info)


@Info(
    title="Ensemble of edge methods",
    family="Combination",
    paper="Mondorf et al. 2025",
    link="https://arxiv.org/abs/2510.06811",
    granularity="edges",
    needs=("counterfactuals", "edges", "gradients"),
)
@dataclass(frozen=True)
class EdgeEnsemble:
    """:class:`HeadEnsemble` over edges (Mondorf et al. 2025, arXiv 2510.06811).

    An edge that a member does not list has its lowest score. The projection to heads is that of
    :func:`circuitbench_baselines.edge_ranking.edge_discovery`, from the combined scores.

    Args:
        members: names of methods that rank edges; asked for all edges where they list a few.
        combine: how.
        listed: edges reported, the best; the rest ranks below them, tied.
    """

    members: tuple[str, ...] = ("edge-attribution-patching", "edge-integer-programme")
    combine: Combine = "mean"
    listed: int = 1_000

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """What the members cost together.

        Raises:
            InvalidSpec: no member, one that ranks no edges, that trains, or that is an ensemble.
            BudgetExceeded: the budget does not cover the first member.
        """
        edges = oracle.edges.edges
        answers, info = ask_members(self.members, oracle, rng, listed=len(edges))
        scores, votes = [], []
        for name, one in zip(info["asked"], answers, strict=True):
            if one.edges is None:
                raise InvalidSpec(f"edge-ensemble needs methods that rank edges; {name} does not")
            lowest = min(one.edges.values(), default=0.0)
            scores.append(scaled(np.array([one.edges.get(edge, lowest) for edge in edges])))
            committed = one.selected_edges or frozenset()
            votes.append(np.array([edge in committed for edge in edges], dtype=float))
        selected = combined(votes, self.combine) > 0.5
        return edge_discovery(
            oracle, combined(scores, self.combine), selected, listed=self.listed, info=info
        )


def ask_members(
    members: Sequence[str], oracle: Oracle, rng: np.random.Generator, listed: int | None = None
) -> tuple[list[Discovery], dict[str, Any]]:
    """The discoveries of methods, each with a generator of its own, and who was asked at what cost.

    Args:
        members: names of methods; all are checked before any is asked.
        oracle: asked by one after another.
        rng: gives each member its generator.
        listed: edges a member is to list, where it has such a setting.
    """
    if not members:
        raise InvalidSpec("an ensemble needs at least one member")
    methods = [_member(name, listed) for name in members]
    answers: list[Discovery] = []
    queries: list[int] = []
    for method, own in zip(methods, rng.spawn(len(methods)), strict=True):
        before = oracle.meter.queries
        try:
            answers.append(method.discover(oracle, own))
        except BudgetExceeded:
            if not answers:
                raise
            break
        queries.append(oracle.meter.queries - before)
    asked = len(answers)
    return answers, {
        "asked": list(members[:asked]),
        "queries": queries,
        "left_out": list(members[asked:]),
    }


def _member(name: str, listed: int | None) -> Method:
    method = load_method(name)
    if isinstance(method, TrainableMethod):
        raise InvalidSpec(f"an ensemble asks methods that do not train; {name} does")
    if isinstance(method, HeadEnsemble | EdgeEnsemble):
        raise InvalidSpec(f"an ensemble cannot be a member of an ensemble: {name}")
    settings = {f.name for f in dataclasses.fields(method)}  # type: ignore[arg-type]  # all are
    return load_method(name, listed=listed) if listed and "listed" in settings else method


def scaled(scores: np.ndarray) -> np.ndarray:
    """Scores from 0, the lowest, to 1, the highest; all 0 where there is no difference."""
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else np.zeros_like(scores, dtype=float)


def combined(arrays: Sequence[np.ndarray], how: Combine) -> np.ndarray:
    """Mean, least or largest, entry by entry."""
    stacked = np.stack(arrays)
    if how == "mean":
        return np.asarray(stacked.mean(0))
    return np.asarray(stacked.min(0) if how == "min" else stacked.max(0))
