"""What a circuit does, whatever the truth says: faithfulness, MIB's areas, completeness.

A circuit is a bool array ``[n_layers, n_heads]``, True = kept; everything else is ablated
(embeddings and MLPs always stay). ``m(C)`` is the task metric of circuit C, averaged over
prompts; ``m(M)`` that of the whole model and ``m(0)`` that with every head ablated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitbench.core.errors import RunFailed

if TYPE_CHECKING:
    from circuitbench.oracle import Batch, Damages, Oracle

MIB_SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
RESOLUTION = 1e-4  # logits: the accuracy the oracle promises; smaller differences are none


class Probe:
    """Asks one oracle for the task metric of circuits, under one ablation, on given batches."""

    unit = "heads"  # what circuits consist of

    def __init__(self, oracle: Oracle, batches: Sequence[Batch], ablation: str) -> None:
        self._batches, self.ablation = tuple(batches), ablation
        self._query: Callable[..., Damages] = oracle.query
        self.shape: tuple[int, ...] = (oracle.n_layers, oracle.n_heads)
        self.clean = np.concatenate([_array(b.clean(b, "task")) for b in self._batches])

    def per_prompt(self, circuits: np.ndarray) -> np.ndarray:
        """Task metric of each circuit on each prompt, ``[n, prompts]`` (logit units).

        Args:
            circuits: ``[n, *shape]`` bool. Costs n queries per batch.

        Raises:
            RunFailed: a value is not finite.
        """
        masks = torch.from_numpy(np.ascontiguousarray(circuits))
        damages = [
            self._query(masks, ablation=self.ablation, control=False, per_prompt=True, batch=batch)
            for batch in self._batches
        ]
        damage = np.concatenate([_array(d.per_prompt_task) for d in damages], axis=1)
        if not np.isfinite(damage).all():
            raise RunFailed(f"the model's metric under {self.ablation} ablation is not finite")
        return np.asarray(self.clean - damage)

    def mean(self, circuits: np.ndarray) -> np.ndarray:
        """Task metric of each circuit, ``[n]``."""
        return np.asarray(self.per_prompt(circuits).mean(axis=1))

    def name(self, place: Sequence[int]) -> str:
        """What stands at a place of a circuit: ``"layer.head"``."""
        return ".".join(map(str, place))

    def by_name(self, places: np.ndarray, values: Sequence[Any]) -> dict[str, Any]:
        """``{name: value}`` in the model's order, from ``places [n, dimensions]``."""
        pairs = zip(map(tuple, places.tolist()), values, strict=True)
        return {self.name(place): value for place, value in sorted(pairs, key=lambda p: p[0])}

    def empty(self) -> float:
        """``m(0)``: everything ablated."""
        return float(self.mean(np.zeros((1, *self.shape), dtype=bool))[0])


def _array(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=float)


def faithfulness(circuit: float, empty: float, full: float) -> float | None:
    """``f(C) = (m(C) - m(0)) / (m(M) - m(0))`` (Mueller et al. 2025, arXiv 2504.13151).

    1 = behaves as the model, 0 = as with everything ablated; unbounded. None where the model
    and nothing do equally well.
    """
    return None if abs(full - empty) < RESOLUTION else (circuit - empty) / (full - empty)


def curve_areas(sizes: np.ndarray, faithful: np.ndarray) -> dict[str, float]:
    """Areas under ``f`` (CPR) and ``|1 - f|`` (CMD) over circuit size, never one alone.

    Trapezoids on a linear axis from the smallest size to 1 (Mueller et al. 2025, section 3; no
    anchor at size 0). CPR: higher is better, unbounded. CMD: in [0, inf), lower is better. ACDC's
    area (Conmy et al. 2023) is a pessimistic staircase and not comparable with either.

    Args:
        sizes: ``[points]`` fraction of components kept, increasing.
        faithful: ``[points]`` or ``[points, 2]``: f under the ranking for CPR and for CMD.
    """
    curves = np.broadcast_to(np.asarray(faithful, float).T, (2, len(sizes)))
    cpr, cmd = np.trapezoid([curves[0], np.abs(1 - curves[1])], sizes, axis=1)
    return {"cpr": float(cpr), "cmd": float(cmd)}


def top_circuits(scores: np.ndarray, counts: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """The best scored heads, ``[counts, *scores.shape]`` bool, nested; ties broken at random."""
    order = np.lexsort((rng.random(scores.size), -scores.ravel()))
    rank = np.empty(scores.size, dtype=int)
    rank[order] = np.arange(scores.size)
    return rank.reshape(scores.shape) < np.asarray(counts).reshape(-1, *[1] * scores.ndim)


def mib_areas(
    probe: Probe, signed: np.ndarray, absolute: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """CPR and CMD of a ranking of heads over MIB's sizes (Mueller et al. 2025).

    Size p keeps the ``floor(p * heads)`` best: by the ``signed`` ranking (helpful heads first)
    for CPR, by the ``absolute`` one (influential heads first) for CMD. Which is which must be
    part of a result's identity: MIB's own numbers cannot be reproduced without.

    Args:
        signed, absolute: ``[n_layers, n_heads]`` scores, finite.

    Returns:
        ``sizes``, ``heads`` kept, ``signed`` and ``absolute`` faithfulness at each, ``cpr`` and
        ``cmd``; the last four None (with ``undefined``) where faithfulness is.
    """
    n = signed.size
    counts = [int(p * n + 1e-9) for p in MIB_SIZES]
    unique = sorted({0, *counts})
    full = float(probe.clean.mean())
    values: dict[str, list[float | None]] = {}
    for name, scores in (("signed", signed), ("absolute", absolute)):
        if name == "absolute" and np.array_equal(signed, absolute):
            values[name] = values["signed"]
            continue
        metric = dict(zip(unique, probe.mean(top_circuits(scores, unique, rng)), strict=True))
        values[name] = [faithfulness(metric[k], metric[0], full) for k in counts]
    result: dict[str, Any] = {"sizes": list(MIB_SIZES), "heads": counts}
    if None in values["signed"]:
        why = "ablating every head does not change the metric"
        nothing = dict.fromkeys(("signed", "absolute", "cpr", "cmd"))
        return {**result, **nothing, "undefined": why}
    curves = np.array([values["signed"], values["absolute"]], dtype=float)
    lists = {name: curve.tolist() for name, curve in zip(values, curves, strict=True)}
    return {**result, **lists, **curve_areas(np.array(MIB_SIZES), curves.T)}


def random_subsets(circuit: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` uniform subsets of a circuit, ``[n, *circuit.shape]`` bool."""
    return np.asarray((rng.random((n, *circuit.shape)) < 0.5) & circuit)


def completeness(
    probe: Probe, circuit: np.ndarray, n_subsets: int, rng: np.random.Generator
) -> dict[str, Any]:
    """``|m(C \\ K) - m(M \\ K)|`` over random subsets K of C (Wang et al. 2022, section 4.2).

    A circuit that misses a redundant part breaks earlier than the model does. Lower is better.

    Returns:
        ``mean`` and ``max`` in logit units, ``relative_mean`` and ``relative_max`` as shares of
        ``|m(M) - m(0)|`` (None where that is 0), and ``n_subsets``.
    """
    subsets = random_subsets(circuit, n_subsets, rng)
    metric = probe.mean(np.concatenate([circuit & ~subsets, ~subsets]))
    gaps = np.abs(metric[:n_subsets] - metric[n_subsets:])
    scale = abs(float(probe.clean.mean()) - probe.empty())
    relative = gaps / scale if scale >= RESOLUTION else None
    return {
        "mean": float(gaps.mean()),
        "max": float(gaps.max()),
        "relative_mean": None if relative is None else float(relative.mean()),
        "relative_max": None if relative is None else float(relative.max()),
        "n_subsets": n_subsets,
    }


def minimality(
    probe: Probe,
    circuit: np.ndarray,
    n_subsets: int,
    rng: np.random.Generator,
    max_heads: int = 32,
) -> dict[str, Any]:
    """``max_K |m(C \\ (K + v)) - m(C \\ K)|`` for each head v of C (Wang et al. 2022, section 4.3).

    K runs over nothing, all of C but v, and random subsets of C without v. A head whose value
    stays near 0 is not needed, not even as a backup. Higher is better. The same of edges.

    Args:
        max_heads: above this size, a random sample of the circuit's heads (edges) is tested.

    Returns:
        ``heads`` (or ``edges``): value per tested one in logit units; ``min``, ``mean``, and as
        shares of ``|m(M) - m(0)|`` ``relative_min``, ``relative_mean`` (None where that is 0).
    """
    tested = rng.permutation(np.argwhere(circuit))[:max_heads]
    removed = np.concatenate(
        [
            np.zeros((1, *circuit.shape), bool),
            circuit[None],
            random_subsets(circuit, n_subsets, rng),
        ]
    )
    kept = circuit & ~removed
    # each head is in or out of every C \ K already; only its flipped partner is new
    partners = np.repeat(kept[None], len(tested), axis=0)
    for i, place in enumerate(tested):
        partners[(i, slice(None), *place)] ^= True
    metric = probe.mean(np.concatenate([kept, partners.reshape(-1, *circuit.shape)]))
    base, flipped = metric[: len(kept)], metric[len(kept) :].reshape(len(tested), len(kept))
    value = np.abs(flipped - base).max(axis=1)
    scale = abs(float(probe.clean.mean()) - float(metric[1]))  # kept[1] is the empty circuit
    usable = scale >= RESOLUTION
    return {
        probe.unit: probe.by_name(tested, value.tolist()),
        "min": float(value.min()),
        "mean": float(value.mean()),
        "relative_min": float(value.min() / scale) if usable else None,
        "relative_mean": float(value.mean() / scale) if usable else None,
        "n_subsets": len(removed),
    }
