"""Which jobs of a circuit a method found: recall per role, and recall of role groups.

A role group counts as found when at least ``Role.needed`` of its heads are: one copy where any
copy does the job, all of them where they share it. Plain recall punishes a method for leaving
out a redundant copy; this does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from circuitbench.core.circuit import Role, head_grid
from circuitbench.evaluation.against_truth.ranking import ranking_metrics


@dataclass(frozen=True)
class TopSet:
    """The items surely in a set, and those tied for its last ``places`` places.

    ``sure`` and ``tied`` are bool arrays of one shape; ``tied`` is None where no tie crosses
    the cut.
    """

    sure: np.ndarray
    tied: np.ndarray | None = None
    places: int = 0


def top_set(scores: np.ndarray, k: int) -> TopSet:
    """The ``k`` best scored items (``0 <= k <= scores.size``)."""
    if k == 0:
        return TopSet(np.zeros(scores.shape, dtype=bool))
    last = np.sort(scores, axis=None)[-k]
    sure, tied = scores > last, scores == last
    places = k - int(sure.sum())
    return TopSet(scores >= last) if places == tied.sum() else TopSet(sure, tied, places)


def found_distribution(members: np.ndarray, top: TopSet) -> np.ndarray:
    """P(exactly i of the members are in the set), ``[n_members + 1]``, ties broken at random."""
    beyond = np.arange(int(members.sum()) + 1) - int((members & top.sure).sum())
    if top.tied is None:
        return np.asarray(beyond == 0, dtype=float)
    ties, maybe = int(top.tied.sum()), int((members & top.tied).sum())
    # Hypergeometric, in whole numbers: exact, and scipy.stats would take a second to import.
    ways = [
        comb(maybe, k) * comb(ties - maybe, top.places - k) if 0 <= k <= top.places else 0
        for k in beyond.tolist()
    ]
    return np.array([way / comb(ties, top.places) for way in ways])


def _presence(members: np.ndarray, needed: int, top: TopSet) -> dict[str, float]:
    """How much of one role is in a set: values of :func:`role_metrics`."""
    p = found_distribution(members, top)
    counts = np.arange(len(p))
    return {
        "recall": float((p * counts).sum() / members.sum()),
        "found": float(min(1.0, p[needed:].sum())),
        "needed_found": float((p * np.minimum(counts, needed)).sum()),
    }


def _summary(entries: list[dict[str, Any]], needed: int) -> dict[str, float]:
    return {
        "group_recall": float(np.mean([entry["found"] for entry in entries])),
        "needed_recall": sum(entry["needed_found"] for entry in entries) / needed,
    }


def presence_in_top_r(scores: np.ndarray, roles: Mapping[str, Role]) -> dict[str, dict[str, float]]:
    """Per role that has heads, how much of it is in the top R, R the number of true heads.

    Values as under ``top_r`` of :func:`role_metrics`.
    """
    grids = _grids(roles, scores.shape)
    size = int(np.any(list(grids.values()), axis=0).sum()) if grids else 0
    top = top_set(scores, size)
    return {name: _presence(grid, roles[name].needed, top) for name, grid in grids.items()}


def _grids(roles: Mapping[str, Role], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    n_layers, n_heads = shape
    return {
        name: head_grid(role.heads, n_layers, n_heads) for name, role in roles.items() if role.heads
    }


def role_metrics(
    scores: np.ndarray, selected: np.ndarray, roles: Mapping[str, Role]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Per-role values, and the redundancy-aware summary over roles.

    Args:
        scores: ``[n_layers, n_heads]``, finite.
        selected: ``[n_layers, n_heads]`` bool, the committed set.
        roles: the truth's roles; one without heads is left out.

    Returns:
        ``{role: {...}}`` with ``ranking``, the role's heads against the heads of no role (see
        :func:`ranking_metrics`), and, for the committed set (``selected``) and for the top R
        (``top_r``, R = size of the truth):
        ``recall`` (share of the role's heads), ``found`` (1 if at least ``needed`` are in, a
        probability where a tie crosses the cut), ``needed_found`` (``min(heads in, needed)``),
        each with ``chance`` for a random set of that size. Then the summary (None without
        roles): ``group_recall``, the mean of ``found``, and ``needed_recall``, the sum of
        ``needed_found`` over the sum of ``needed``.
    """
    roles = {name: role for name, role in roles.items() if role.heads}
    grids = _grids(roles, scores.shape)
    everyone = np.any(list(grids.values()), axis=0) if grids else np.zeros(scores.shape, dtype=bool)
    size = int(everyone.sum())
    equal = np.zeros(scores.shape)
    sets = {
        "selected": (TopSet(selected), top_set(equal, int(selected.sum()))),
        "top_r": (top_set(scores, size), top_set(equal, size)),
    }
    per_role: dict[str, Any] = {}
    for name, role in roles.items():
        members = grids[name]
        apart = members | ~everyone
        per_role[name] = {
            "n_heads": len(role.heads),
            "needed": role.needed,
            "sign": role.sign,
            "ranking": ranking_metrics(scores[apart], members[apart]),
        }
        for which, (answer, random) in sets.items():
            per_role[name][which] = {
                **_presence(members, role.needed, answer),
                "chance": _presence(members, role.needed, random),
            }
    if not per_role:
        return {}, None
    needed = sum(role.needed for role in roles.values())
    groups: dict[str, Any] = {"n_roles": len(roles)}
    for which in sets:
        answers = [entry[which] for entry in per_role.values()]
        chances = [answer["chance"] for answer in answers]
        groups[which] = {**_summary(answers, needed), "chance": _summary(chances, needed)}
    return per_role, groups
