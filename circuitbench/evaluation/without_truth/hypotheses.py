"""The hypothesis tests of Shi et al. 2024 (arXiv 2410.13032) on arrays of scores.

``s`` is the task metric of one prompt. The ideal tests take "the circuit is fine" as the null
hypothesis, so a small p-value speaks *against* the circuit; the relaxed ones (sufficiency,
partial necessity) take "no better than random" as the null, so a small one speaks *for* it.
"""

from __future__ import annotations

from math import lgamma, log
from typing import Any

import numpy as np

from circuitbench.evaluation.statistics import holm


def binomial(n: int, p: float) -> np.ndarray:
    """P(K = k) for K ~ Binomial(n, p), ``[n + 1]``; p in (0, 1).

    ``scipy.stats.binom.pmf`` to 1e-12, without the second or two that importing it takes of
    every run.
    """
    k = np.arange(n + 1)
    ways = np.array([lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1) for i in range(n + 1)])
    return np.asarray(np.exp(ways + k * log(p) + (n - k) * log(1 - p)))


def equivalence(
    candidate: np.ndarray, model: np.ndarray, epsilon: float = 0.1, resolution: float = 0.0
) -> dict[str, Any]:
    """Is the circuit as likely to beat the model as to be beaten?

    H0: ``|P(s(C) > s(M)) - 1/2| < epsilon``. With ``t = |wins / n - 1/2|``, the p-value is
    ``P(|K / n - 1/2| >= t)`` for ``K ~ Binomial(n, 1/2 + epsilon)``, the worst case of H0 (the
    authors' code puts the mean score difference where the share of wins belongs). A prompt on
    which the two differ by at most ``resolution`` is half a win.

    Args:
        candidate, model: ``[prompts]``.
    """
    difference = np.asarray(candidate) - np.asarray(model)
    tied = np.abs(difference) <= resolution
    n = len(difference)
    share = float(((difference > 0) & ~tied).sum() + tied.sum() / 2) / n
    extreme = np.abs(np.arange(n + 1) / n - 0.5) >= abs(share - 0.5) - 1e-12
    p = 1.0 if extreme.all() else float(binomial(n, 0.5 + epsilon)[extreme].sum())
    return {"share": share, "ties": int(tied.sum()), "n": n, "p_value": p}


def hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Hilbert-Schmidt independence criterion, ``tr(K H L H) / (n - 1)^2`` (Gretton et al. 2007).

    Gaussian kernels ``exp(-d^2 / (2 sigma^2))``, sigma the median distance between two
    different points of each sample. 0 for independent samples, >= 0.

    Args:
        x, y: ``[n]``, n >= 2, neither constant.
    """
    return float((_centred_kernel(x) * _kernel(y)).sum() / (len(x) - 1) ** 2)


def _kernel(x: np.ndarray) -> np.ndarray:
    distance = np.abs(np.subtract.outer(x, x))
    sigma = np.median(distance[distance > 0])
    return np.asarray(np.exp(-(distance**2) / (2 * sigma**2)))


def _centred_kernel(x: np.ndarray) -> np.ndarray:
    kernel = _kernel(x)
    return np.asarray(kernel - kernel.mean(axis=0) - kernel.mean(axis=1)[:, None] + kernel.mean())


def independence(
    complement: np.ndarray,
    model: np.ndarray,
    rng: np.random.Generator,
    permutations: int = 1000,
    resolution: float = 0.0,
) -> dict[str, Any]:
    """Does the model without the circuit still tell anything about the model's score?

    H0: ``s(M without C)`` and ``s(M)`` are independent over prompts; :func:`hsic` against its
    values under random pairings, the observed pairing included: ``(1 + #{>=}) / (1 + B)``.

    Args:
        complement, model: ``[prompts]``.

    Returns:
        ``hsic``, ``p_value``, ``n``. A score that varies by no more than ``resolution`` is
        constant, hence independent of anything: 0 and 1, with a ``note``.
    """
    x, y = np.asarray(complement, float), np.asarray(model, float)
    if min(np.ptp(x), np.ptp(y)) <= resolution:
        note = "a score that is the same on every prompt is independent of anything"
        return {"hsic": 0.0, "p_value": 1.0, "n": len(x), "note": note}
    centred, kernel = _centred_kernel(x), _kernel(y)
    observed = (centred * kernel).sum()
    as_large = 1
    for _ in range(permutations):
        order = rng.permutation(len(y))
        as_large += (centred * kernel[np.ix_(order, order)]).sum() >= observed * (1 - 1e-12)
    return {
        "hsic": float(observed / (len(x) - 1) ** 2),
        "p_value": float(as_large / (1 + permutations)),
        "n": len(x),
    }


def minimality_p_values(
    effects: np.ndarray, random_effects: np.ndarray, quantile: float = 0.9
) -> np.ndarray:
    """Is each head of the circuit worth more than one added at random? ``[heads]``, Holm-adjusted.

    H0 of one head: its knockout effect exceeds that of a random head added to the circuit (the
    inflated circuit) with probability at least ``quantile``. Lower binomial tail of how many
    random effects it exceeds. Rejected = the head is unnecessary; one is enough for the circuit
    not to be minimal, hence the correction (absent in the authors' code).

    Args:
        effects: ``[heads]`` mean ``|s(C) - s(C without v)|``.
        random_effects: ``[n]`` mean ``|s(C with r) - s(C)|``.
    """
    wins = (np.asarray(effects)[:, None] > np.asarray(random_effects)).sum(axis=1)
    at_most = binomial(len(random_effects), quantile).cumsum()
    return holm(np.minimum(1, at_most[wins]))


def better_than_random(
    candidate: float, random: np.ndarray, quantile: float = 0.9
) -> dict[str, Any]:
    """Does the candidate exceed more than ``quantile`` of random circuits?

    H0: ``P(candidate > random) <= quantile``; upper binomial tail, a tie is no win. Sufficiency
    gives it ``-mean |s(M) - s(C)|``, partial necessity ``mean |s(M) - s(M without C)|``, each
    against random circuits of the same size.
    """
    wins, n = int((candidate > np.asarray(random)).sum()), len(random)
    p = float(binomial(n, quantile)[wins:].sum())
    return {"share": wins / n, "n_random": n, "quantile": quantile, "p_value": min(1.0, p)}
