"""ACDC over heads and over edges: greedy removal from the last layer to the first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from circuitbench import (
    AblationName,
    Damages,
    Discovery,
    Info,
    InvalidSpec,
    Oracle,
    TracePoint,
    heads_of,
)
from circuitbench_baselines.edge_ranking import edge_discovery, heads_by_edges


@Info(
    title="ACDC over heads",
    family="Mask search",
    paper="Conmy et al. 2023",
    link="https://arxiv.org/abs/2304.14997",
    needs=("counterfactuals",),
)
@dataclass(frozen=True)
class ACDC:
    """Removes a head for good if the model then changes by less than a threshold.

    Conmy et al. 2023 (arXiv 2304.14997, algorithm 1), over heads instead of edges: heads are
    visited from the last layer to the first, in random order within a layer; what was removed
    stays removed while the next is tested. A head's score is the change its removal made when
    it was its turn, so kept heads rank above removed ones. If the budget ends early, heads not
    yet visited stay in and score as much as the threshold.

    Args:
        objective: ``kl`` is the divergence of the next-token distribution from the intact
            model's (nats); ``metric`` the absolute change of the task metric as a fraction of
            its clean value.
        threshold: the change below which a head goes; in the objective's unit.
        ablation: what replaces a removed head; the paper's choice is ``resample``.
    """

    objective: Literal["kl", "metric"] = "kl"
    threshold: float = 0.05
    ablation: AblationName = "resample"

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """One query per head."""
        keep = torch.ones(1, *oracle.shape, dtype=torch.bool)
        scores = np.full(oracle.shape, self.threshold)
        trace: list[TracePoint] = []
        current = 0.0
        order = [
            (layer, int(head))
            for layer in reversed(range(oracle.n_layers))
            for head in rng.permutation(oracle.n_heads)
        ]
        order = order[: oracle.remaining]
        for spent, (layer, head) in enumerate(order, start=1):
            trial = keep.clone()
            trial[0, layer, head] = False
            damages = oracle.query(
                trial, ablation=self.ablation, control=False, kl=self.objective == "kl"
            )
            value = self._distance(oracle, damages)
            change = value - current if self.objective == "kl" else abs(value - current)
            scores[layer, head] = change
            if change < self.threshold:
                keep, current = trial, value
            if spent % oracle.n_heads == 0 or spent == len(order):
                trace.append(TracePoint(spent, scores.copy()))
        return Discovery(scores, heads_of(keep[0].numpy()), trace=trace)

    def _distance(self, oracle: Oracle, damages: Damages) -> float:
        if self.objective == "kl":
            if damages.kl is None:  # the oracle answers what it was asked
                raise RuntimeError("the oracle returned no KL divergence")
            return float(damages.kl[0])
        return float(damages.task[0]) / max(abs(oracle.clean_metric), 1e-12)


@Info(
    title="ACDC",
    family="Mask search",
    paper="Conmy et al. 2023",
    link="https://arxiv.org/abs/2304.14997",
    granularity="edges",
    needs=("counterfactuals", "edges"),
)
@dataclass(frozen=True)
class ACDCEdges:
    """Removes an edge for good if the model then changes by less than a threshold.

    Conmy et al. 2023 (arXiv 2304.14997, algorithm 1): receivers are visited in reverse
    topological order (logits; each layer's MLP before its heads, heads from the last to the
    first, query, key, value), and for each the edges into it, the latest sender first, as in the
    authors' code. What was removed stays removed. An edge's score is the change its removal made
    when it was its turn, so kept edges rank above removed ones.

    Two shortcuts give the same circuit. Where nothing that is kept hears a head or an MLP any
    more, its inputs change nothing (by exactly 0): they are removed unasked. And several edges
    into one receiver are asked about at once, as if each would go; once one stays, what was asked
    beyond it is thrown away, though paid for (``info["thrown_away"]``), and asked again.

    Departs from the paper where asked to: ``prefilter`` starts from the edges that edge
    attribution patching (Syed et al. 2023, arXiv 2310.10348) ranks highest instead of all.
    ``curve`` runs more thresholds, each from the start; an edge then scores the change it made at
    the largest threshold that keeps it, but less than the next one. A head is worth as much as
    the strongest edge that leaves it.

    If the budget ends early, edges that were not visited stay in and score as much as the
    threshold; further thresholds that it does not cover are left out.

    Args:
        by: ``kl`` is the divergence of the next-token distribution from the intact model's
            (nats); ``metric`` the absolute change of the task metric as a fraction of its clean
            value.
        threshold: the change below which an edge goes, in units of ``by``; gives the committed
            edges.
        curve: more thresholds, for the ranking.
        prefilter: edges to start from; None is all.
        ahead: the most edges asked about at once.
        ablation: what a receiver hears in place of a removed edge's sender.
        listed: edges reported, the best; the rest ranks below them, tied.
    """

    by: Literal["kl", "metric"] = "kl"
    threshold: float = 0.01
    curve: tuple[float, ...] = ()
    prefilter: int | None = None
    ahead: int = 16
    ablation: AblationName = "resample"
    listed: int = 1_000

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """At most one query per edge and threshold, and those thrown away.

        Raises:
            InvalidSpec: the model is run by hooks, which know no edges; a threshold that is not
                positive; nothing to start from, to ask or to list.
        """
        thresholds = (self.threshold, *sorted(set(self.curve) - {self.threshold}))
        if min(thresholds) <= 0:
            raise InvalidSpec(f"thresholds must be positive, not {min(thresholds)}")
        for name in ("ahead", "prefilter", "listed"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidSpec(f"{name} must be 1 or more, not {value}")
        before = oracle.meter.queries
        start = self._start(oracle)
        runs: dict[float, _Removal] = {}
        for threshold in thresholds:
            run = _Removal(self, oracle, threshold, start.copy(), before)
            if run.go() or not runs:
                runs[threshold] = run
        main, kept_at = runs[self.threshold], sorted(runs)
        scores = runs[kept_at[0]].scores.copy()
        for threshold, above in zip(kept_at, [*kept_at[1:], np.inf], strict=True):
            keep = runs[threshold].keep
            scores[keep] = np.clip(runs[threshold].scores[keep], threshold, np.nextafter(above, 0))
        return edge_discovery(
            oracle,
            scores,
            main.keep,
            listed=self.listed,
            info={
                "edges_kept": {f"{t:g}": int(runs[t].keep.sum()) for t in kept_at},
                "edges_started_from": int(start.sum()),
                "prefilter": None if self.prefilter is None else "edge attribution patching",
                "thrown_away": sum(run.thrown_away for run in runs.values()),
                "complete": main.complete,
            },
            trace=main.trace,
        )

    def _start(self, oracle: Oracle) -> np.ndarray:
        """The edges to start from, ``[n_edges]`` bool."""
        n = len(oracle.edges.edges)
        start = np.ones(n, bool)
        if self.prefilter is not None and self.prefilter < n:
            estimate = oracle.edges.gradient(torch.ones(1, n), ablation=self.ablation)[0].abs()
            start[np.argsort(-estimate.numpy(), kind="stable")[self.prefilter :]] = False
        return start

    def distances(self, oracle: Oracle, masks: np.ndarray) -> np.ndarray:
        """How far models under edge masks ``[n, n_edges]`` are from the intact one, ``[n]``."""
        damages = oracle.edges.query(
            torch.from_numpy(masks), ablation=self.ablation, kl=self.by == "kl"
        )
        if self.by == "metric":
            return damages.task.double().numpy() / max(abs(oracle.clean_metric), 1e-12)
        if damages.kl is None:  # the oracle answers what it was asked
            raise RuntimeError("the oracle returned no KL divergence")
        return damages.kl.double().numpy()


@dataclass
class _Removal:
    """One pass over the receivers at one threshold."""

    method: ACDCEdges
    oracle: Oracle
    threshold: float
    keep: np.ndarray
    before: int  # queries spent when the method began
    scores: np.ndarray = field(init=False)
    current: float = 0.0
    thrown_away: int = 0
    complete: bool = False
    trace: list[TracePoint] = field(default_factory=list)

    def go(self) -> bool:
        """Visit all receivers, or as many as the budget allows; whether it was all."""
        edges, n_heads = self.oracle.edges.edges, self.oracle.n_heads
        self.scores = np.where(self.keep, self.threshold, 0.0)
        if not self.keep.all():
            if self.oracle.remaining == 0:
                return False
            self.current = float(self.method.distances(self.oracle, self.keep[None])[0])
        into: dict[str, list[int]] = {}
        out_of: dict[str, list[int]] = {}
        for i, edge in enumerate(edges):
            into.setdefault(edge.receiver, []).append(i)
            out_of.setdefault(edge.sender, []).append(i)
        for done, receiver in enumerate(reversed(_visited(list(into))), start=1):
            candidates = [i for i in reversed(into[receiver]) if self.keep[i]]
            node = receiver.rpartition(".")[0] if "." in receiver else receiver
            if node != "logits" and not self.keep[out_of[node]].any():
                self.keep[candidates] = False
                self.scores[candidates] = 0.0
            elif not self._remove(candidates):
                self._note()
                return False
            if done % (3 * n_heads) == 0 or receiver == "0.0.v":
                self._note()
        self.complete = True
        return True

    def _note(self) -> None:
        """Trace what is known by now, unless nothing was asked since the last time."""
        spent = self.oracle.meter.queries - self.before
        if spent > (self.trace[-1].queries if self.trace else 0):
            self.trace.append(TracePoint(spent, heads_by_edges(self.oracle, self.scores)))

    def _remove(self, candidates: list[int]) -> bool:
        """Try a receiver's edges one after another; whether the budget sufficed."""
        at_once, place = 1, 0
        while place < len(candidates):
            left = self.oracle.remaining
            some = candidates[place : place + at_once][:left]
            if not some:
                return False
            masks = np.repeat(self.keep[None], len(some), 0)
            for row, edge in enumerate(some):
                masks[row:, edge] = False
            for row, distance in enumerate(self.method.distances(self.oracle, masks)):
                change = distance - self.current
                change = change if self.method.by == "kl" else abs(change)
                self.scores[some[row]] = change
                place += 1
                if change >= self.threshold:
                    self.thrown_away += len(some) - row - 1
                    at_once = 1
                    break
                self.keep[some[row]] = False
                self.current = float(distance)
            else:
                at_once = min(2 * at_once, self.method.ahead)
        return True


def _visited(receivers: list[str]) -> list[str]:
    """Receivers in the reverse of the order they are visited in: a head's value, key, query."""
    turned = {"q": "v", "k": "k", "v": "q"}
    return [r[:-1] + turned[r[-1]] if "." in r else r for r in receivers]
