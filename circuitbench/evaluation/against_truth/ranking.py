"""How well scores rank the true items, whatever the items are (heads, edges).

Every value is exact under ties: it is the expectation over breaking each tie at random
(McSherry & Najork 2008, "Computing Information Retrieval Performance Measures Efficiently in
the Presence of Tied Scores"), so no method gains from the order in which items are stored. What
chance gives is the same formula on one single tie of all items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from circuitbench.core.errors import InvalidSpec, RunFailed

CUTS = (1, 2, 5, 10, 20, 50, 100)
EXACT_LIMIT = 200_000_000  # additions spent at most on one exact rank-sum distribution


@dataclass(frozen=True)
class TiedRanking:
    """Groups of equally scored items, best first.

    Args:
        sizes: ``[groups]`` items in each group.
        hits: ``[groups]`` true items in each group.
    """

    sizes: np.ndarray
    hits: np.ndarray

    @property
    def n_items(self) -> int:
        """All items."""
        return int(self.sizes.sum())

    @property
    def n_relevant(self) -> int:
        """The true items."""
        return int(self.hits.sum())

    def uninformed(self) -> TiedRanking:
        """The same items under equal scores: what a random ranking gives in expectation."""
        return uninformed(self.n_items, self.n_relevant)


def uninformed(n_items: int, n_relevant: int) -> TiedRanking:
    """Items under equal scores: what a random ranking gives in expectation."""
    return TiedRanking(np.array([n_items]), np.array([n_relevant]))


def tied_ranking(scores: np.ndarray, relevant: np.ndarray) -> TiedRanking:
    """Group items by score, highest first.

    Args:
        scores: any shape; higher = more surely true.
        relevant: bool, same shape.

    Raises:
        RunFailed: a score is not finite.
        InvalidSpec: the shapes differ, or there are no items.
    """
    scores, relevant = np.asarray(scores, dtype=float), np.asarray(relevant, dtype=bool)
    if scores.shape != relevant.shape or scores.size == 0:
        raise InvalidSpec(f"scores {scores.shape} and truth {relevant.shape} must match")
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores)).sum())
        raise RunFailed(f"{bad} of {scores.size} scores are not finite numbers")
    _, group = np.unique(-scores.ravel(), return_inverse=True)
    return TiedRanking(
        np.bincount(group), np.bincount(group[relevant.ravel()], minlength=group.max() + 1)
    )


def auroc(ranking: TiedRanking) -> float:
    """Area under the ROC curve: P(true item above a false one), ties counting one half.

    Equal to the Mann-Whitney U statistic over its maximum. In [0, 1], chance 0.5.
    """
    misses = ranking.sizes - ranking.hits
    below = misses.sum() - np.cumsum(misses)
    return float((ranking.hits * (below + misses / 2)).sum() / (ranking.hits.sum() * misses.sum()))


def pessimistic_auroc(ranking: TiedRanking) -> float:
    """ACDC's area under the ROC curve: a staircase below it (code of Conmy et al. 2023).

    Between two thresholds it takes the recall of the stricter one, so a tie counts nothing where
    :func:`auroc`, as scikit-learn, counts one half: one tie of everything scores 0, not 0.5. In
    [0, 1], equal to :func:`auroc` without ties between true and false items.
    """
    misses = ranking.sizes - ranking.hits
    below = misses.sum() - np.cumsum(misses)
    return float((ranking.hits * below).sum() / (ranking.hits.sum() * misses.sum()))


def average_precision(ranking: TiedRanking) -> float:
    """Mean over true items of the precision at their rank; ties by expectation.

    A tied group of ``n`` items, ``p`` of them true, below ``N`` items with ``P`` true ones adds
    ``sum_j p/n * (P + 1 + (j - 1)(p - 1)/(n - 1)) / (N + j)`` for ``j = 1..n`` (McSherry &
    Najork 2008, section 2.3). In (0, 1].
    """
    before = np.cumsum(ranking.sizes) - ranking.sizes
    found = np.cumsum(ranking.hits) - ranking.hits
    total = 0.0
    for group in np.flatnonzero(ranking.hits):
        n, p = int(ranking.sizes[group]), int(ranking.hits[group])
        start, above = int(before[group]), int(found[group])
        if n == 1:
            total += (above + 1) / (start + 1)
            continue
        j = np.arange(1, n + 1)
        others = (j - 1) * (p - 1) / (n - 1)
        total += float((p / n * (above + 1 + others) / (start + j)).sum())
    return total / ranking.n_relevant


def hits_at(ranking: TiedRanking, k: int) -> float:
    """Expected number of true items among the top ``k``."""
    before = np.cumsum(ranking.sizes) - ranking.sizes
    taken = np.clip(k - before, 0, ranking.sizes)
    return float((taken * ranking.hits / ranking.sizes).sum())


def recall_at(ranking: TiedRanking, k: int) -> float:
    """Share of the true items among the top ``k``. In [0, 1], chance ``k / n_items``."""
    return hits_at(ranking, k) / ranking.n_relevant


def r_precision(ranking: TiedRanking) -> float:
    """Precision (= recall) among the top R, R the number of true items. Chance ``R / n_items``."""
    return recall_at(ranking, ranking.n_relevant)


def ndcg(ranking: TiedRanking) -> float:
    """Normalised discounted cumulative gain over the whole ranking, binary gains.

    ``sum over true items of 1 / log2(1 + rank)``, over the same for a perfect ranking
    (Järvelin & Kekäläinen 2002). In (0, 1].
    """
    discount = 1 / np.log2(np.arange(2, ranking.n_items + 2))
    group = np.repeat(np.arange(len(ranking.sizes)), ranking.sizes)
    gain = (ranking.hits / ranking.sizes)[group]
    return float((gain * discount).sum() / discount[: ranking.n_relevant].sum())


def hits_p_value(ranking: TiedRanking, k: int) -> float:
    """P(a random set of true items gives at least this many expected hits in the top ``k``).

    Exact. Without a tie across the cut it is the hypergeometric tail; with one, the true items
    sure to be in the top and those in the tie are multivariate hypergeometric.
    """
    from scipy.stats import hypergeom  # a second to import; tables do without p-values

    ends = np.cumsum(ranking.sizes)
    cut = int(np.searchsorted(ends, k))
    tied = int(ranking.sizes[cut])
    sure = int(ends[cut]) - tied
    items, relevant, share = ranking.n_items, ranking.n_relevant, (k - sure) / tied
    observed = hits_at(ranking, k)
    inside = np.arange(max(0, relevant - (items - sure)), min(sure, relevant) + 1)
    p_inside = hypergeom.pmf(inside, items, relevant, sure)
    # in the tie at least this many, given how many are surely inside; 1e-9 against rounding
    least = np.ceil((observed - inside) / share - 1e-9)
    p_tie = hypergeom.sf(least - 1, items - sure, relevant - inside, tied)
    return float(min(1.0, (p_inside * p_tie).sum()))


def auroc_p_value(ranking: TiedRanking) -> tuple[float, str]:
    """P(a random set of true items has at least this AUROC), and how it was computed.

    ``"exact"``: the permutation distribution of the rank sum with mid-ranks, by dynamic
    programming. ``"normal"`` where that would be too long: the tie-corrected normal
    approximation (Mann & Whitney 1947; Lehmann 1975) with continuity correction.
    """
    sizes, hits = ranking.sizes[::-1], ranking.hits[::-1]  # worst first: high rank sum = good
    doubled = 2 * np.cumsum(sizes) - sizes + 1  # twice the mid-rank, an integer
    items, chosen = ranking.n_items, ranking.n_relevant
    shifted = doubled - doubled[0]
    unit = int(np.gcd.reduce(shifted)) or 1
    ranks = np.repeat(shifted // unit, sizes)
    observed = int((shifted // unit * hits).sum())
    if 2 * chosen > items:  # count the smaller set: the false items, whose rank sum is low
        chosen, observed = items - chosen, int(ranks.sum()) - observed
        ranks, observed = ranks.max() - ranks, int(ranks.max()) * chosen - observed
    top = int(np.sort(ranks)[items - chosen :].sum())
    if items * chosen * (top + 1) <= EXACT_LIMIT:
        # Items are drawn one after the other; counting the ways instead would leave float's range.
        chance = np.zeros((chosen + 1, top + 1))
        chance[0, 0] = 1
        for drawn, rank in enumerate(ranks):
            take = (chosen - np.arange(chosen)[:, None]) / (items - drawn)
            taken = chance[:-1, : top + 1 - rank] * take
            chance[:-1] *= 1 - take
            chance[1:, rank:] += taken
        return float(min(1.0, chance[chosen, observed:].sum())), "exact"
    others = items - chosen
    ties = float((sizes**3 - sizes).sum()) / (items * (items - 1))
    spread = np.sqrt(chosen * others / 12 * (items + 1 - ties)) * 2 / unit
    mean = chosen * float(ranks.mean())
    from scipy.stats import norm

    return float(norm.sf((observed - mean - 0.5) / spread)), "normal"


def _values(ranking: TiedRanking) -> dict[str, Any]:
    relevant, items = ranking.n_relevant, ranking.n_items
    cuts = [k for k in CUTS if k <= items]
    return {
        "auroc": auroc(ranking) if 0 < relevant < items else None,
        "average_precision": average_precision(ranking) if relevant else None,
        "r_precision": r_precision(ranking) if relevant else None,
        "ndcg": ndcg(ranking) if relevant else None,
        "recall_at": {str(k): recall_at(ranking, k) if relevant else None for k in cuts},
    }


def ranking_metrics(scores: np.ndarray, relevant: np.ndarray) -> dict[str, Any]:
    """All ranking metrics, what chance gives for each, and exact one-sided p-values.

    Args:
        scores: any shape, finite; higher = more surely true.
        relevant: bool, same shape.

    Returns:
        JSON-able. A value that does not exist is None and ``undefined`` says why.
    """
    ranking = tied_ranking(scores, relevant)
    result: dict[str, Any] = {
        "n_items": ranking.n_items,
        "n_relevant": ranking.n_relevant,
        **_values(ranking),
        "chance": _values(ranking.uninformed()),
        "p_value": None,
        "undefined": {},
    }
    if ranking.n_relevant == 0:
        result["undefined"] = {"all": "the truth holds none of the items"}
    elif ranking.n_relevant == ranking.n_items:
        result["undefined"] = {"auroc": "the truth holds every item"}
    else:
        p_auroc, how = auroc_p_value(ranking)
        p_hits = hits_p_value(ranking, ranking.n_relevant)
        result["p_value"] = {"auroc": p_auroc, "auroc_by": how, "r_precision": p_hits}
    return result
