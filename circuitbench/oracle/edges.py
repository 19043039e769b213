"""The same questions about edges: what if this receiver did not hear that sender?

A receiver (a head's query, key or value input, an MLP, the logits) reads the residual stream,
which is the sum of what all earlier senders (embedding, heads, MLPs) wrote. An ablated edge
replaces one sender's contribution to one receiver, everywhere else it stays (path patching:
Wang et al. 2022; the unit of ACDC, Conmy et al. 2023). The derivative by an edge's soft mask is
edge attribution patching (Syed et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from circuitbench.core.circuit import Edge
from circuitbench.core.edges import graph_of
from circuitbench.core.errors import InvalidSpec, nearest
from circuitbench.oracle.ablations import ABLATIONS, Ablation, Half, ablation_named
from circuitbench.oracle.account import Account
from circuitbench.oracle.batch import Batch
from circuitbench.oracle.damages import Damages
from circuitbench.oracle.derivatives import (
    GRADIENT_COST,
    Derivatives,
    checked_of,
    derivatives_cost,
)
from circuitbench.oracle.edge_attribution import Attribution
from circuitbench.oracle.edge_run import EdgeRun
from circuitbench.oracle.engine.fast import FastEngine
from circuitbench.oracle.paths import CLEAN, Path, Straight
from circuitbench.oracle.rules import EXACT, Rule, rule_named
from circuitbench.tasks.base import REST

EdgeOf = Literal["task", "kl"]


class EdgeOracle:
    """Answers edge masks ``[n_masks, n_edges]`` (True = kept), metered and budgeted like heads.

    Use it as ``oracle.edges``. Edges are in the order of :attr:`edges`. A head's output is
    ``z @ W_O`` without ``b_O``; an MLP's includes its bias; the embedding's includes positions.

    Args:
        engine: has the model's weights.
        account: of the oracle whose budget and meter these questions are on.
        current: gives the batch that is asked about by default.
        ablation: name of the default kind.
        weight: of the control damage in the reward.
    """

    def __init__(
        self,
        engine: FastEngine,
        account: Account,
        current: Callable[[], Batch],
        *,
        ablation: str,
        weight: float,
    ) -> None:
        self._engine, self._account, self._current = engine, account, current
        self._default, self._weight = ablation, weight
        config = engine.forward.config
        self.graph = graph_of(config.n_layers, config.n_heads, config.d_mlp > 0)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """All edges, in the order of the masks' columns."""
        return self.graph.edges

    @cached_property
    def _place(self) -> dict[Edge, int]:
        return {edge: i for i, edge in enumerate(self.edges)}

    def without(self, edges: Iterable[Edge]) -> Tensor:
        """The mask ``[n_edges]`` that ablates some edges and keeps the rest.

        Raises :class:`InvalidSpec` for an edge the model does not have.
        """
        mask = torch.ones(len(self.edges), dtype=torch.bool)
        for edge in edges:
            if edge not in self._place:
                raise InvalidSpec(f"the model has no edge {edge}; e.g. {self.edges[0]}")
            mask[self._place[edge]] = False
        return mask

    @torch.no_grad()
    def query(
        self,
        masks: Tensor,
        *,
        ablation: str | None = None,
        control: bool = False,
        kl: bool = False,
        per_prompt: bool = False,
        batch: Batch | None = None,
    ) -> Damages:
        """Damages of edge masks ``[n_masks, n_edges]``, one query each.

        Args:
            masks: bool, True = kept.
            ablation: what replaces a sender's contribution, instead of the oracle's own kind.
            control: whether to measure control damage too.
            kl: whether to measure the KL divergence too.
            per_prompt: whether to give the task damage of each prompt too.
            batch: instead of the oracle's default one.

        Raises:
            BudgetExceeded: if the budget does not cover all masks; nothing is spent then.
            InvalidSpec: for an ablation that cannot replace every sender.
        """
        kind, batch = self._ablation(ablation), batch or self._current()
        kept = self._checked(masks)
        if not ((kept == 0) | (kept == 1)).all():
            raise InvalidSpec("a query's edge masks must be bool (soft masks are for gradients)")
        self._account.charge(len(kept))
        for _ in kept:
            self._account.ask(batch, kind, control=control)
        values, loss, divergence = [], [], []
        with self._account.timed():
            run = self._run(batch, "task", kind)
            text = self._run(batch, "control", kind) if control else None
            clean = run.final(torch.ones(len(self.edges))) if kl and len(kept) else None
            for mask in kept:
                final = run.final(mask)
                values.append(run.value_tensor(final).double().cpu())
                if clean is not None:
                    divergence.append(float(run.divergence(clean, final).mean()))
                if text is not None:
                    loss.append(text.value(text.final(mask)))
            metric, control_loss = batch.metric, batch.control_loss if control else 0.0
            clean_rows = torch.from_numpy(batch.clean(batch, "task")) if per_prompt else None
        each = torch.stack(values) if values else torch.zeros(0, len(batch)).double()
        return Damages(
            task=metric - torch.tensor([float(row.mean()) for row in values]),
            control=torch.tensor(loss) - control_loss if control else None,
            weight=self._weight,
            kl=torch.tensor(divergence) if kl else None,
            per_prompt_task=None if clean_rows is None else (clean_rows - each).float(),
        )

    def gradient(
        self,
        masks: Tensor,
        *,
        of: EdgeOf = "task",
        ablation: str | None = None,
        batch: Batch | None = None,
        rule: str | Rule = "exact",
    ) -> Tensor:
        """Derivative ``[n_masks, n_edges]`` by soft edge masks in [0, 1], 3 queries each.

        At all-ones masks that of the task metric is edge attribution patching, times minus one:
        the first-order estimate of what ablating the edge takes from the metric.

        Args:
            masks: ``[n_masks, n_edges]``.
            of: ``task`` (the metric, not its damage) or ``kl``, see :class:`Derivatives`.
            ablation, batch: as in :meth:`query`.
            rule: how the backward pass goes, see :mod:`circuitbench.oracle.rules`; its name,
                or itself.
        """
        found = self.differentiate(masks, of=(of,), ablation=ablation, batch=batch, rule=rule)
        return found.gradients[of]

    def differentiate(
        self,
        masks: Tensor,
        *,
        of: Sequence[EdgeOf] = ("task", "kl"),
        ablation: str | None = None,
        batch: Batch | None = None,
        rule: str | Rule = "exact",
    ) -> Derivatives:
        """Values at soft masks and their derivatives, from one forward pass for each mask.

        A mask costs 1 query and 2 more for everything in ``of``.

        Args:
            masks, of, ablation, batch, rule: as in :meth:`gradient`.

        Raises:
            BudgetExceeded: if the budget does not cover all masks; nothing is spent then.
            InvalidSpec: for something unknown in ``of``, or as :meth:`query` does.
        """
        names, backward = checked_of(of, get_args(EdgeOf)), rule_named(rule)
        kind, batch = self._ablation(ablation), batch or self._current()
        soft = self._checked(masks)
        self._account.charge(derivatives_cost(names) * len(soft))
        for _ in soft:
            self._account.ask(batch, kind, backwards=len(names), rule=backward)
        at = {name: torch.zeros(len(soft)) for name in names}
        slope = {name: torch.zeros_like(soft) for name in names}
        with self._account.timed():
            n = len(batch)
            run = self._run(batch, "task", kind, backward)
            step = run.rows_at_once(len(self.graph.senders))
            intact = None
            if "kl" in names:
                with torch.no_grad():
                    intact = run.final(torch.ones(len(self.edges)))
            for i, mask in enumerate(soft):
                for start in range(0, n, step):
                    rows = torch.arange(start, min(start + step, n))
                    gates = mask.clone().requires_grad_(True)
                    with torch.enable_grad():
                        final = run.final(gates, rows)
                        for name in names:
                            if name == "task":
                                value = run.value_tensor(final, rows).sum()
                            else:
                                assert intact is not None  # made above
                                value = run.divergence(intact[rows], final, rows).sum()
                            at[name][i] += value.detach().cpu() / n
                            (grad,) = torch.autograd.grad(value, gates, retain_graph=True)
                            slope[name][i] += grad / n
        return Derivatives(at, slope)

    @property
    def spans(self) -> tuple[str, ...]:
        """Names of the spans that the prompts name, the rest last; none where they name none."""
        prompts = self._current().source.prompts
        return () if prompts.spans is None else (*prompts.spans, REST)

    def attribution(
        self,
        path: Path = CLEAN,
        *,
        of: EdgeOf = "task",
        ablation: str | None = None,
        batch: Batch | None = None,
        rule: str | Rule = "exact",
        by_span: bool = False,
    ) -> Tensor:
        """Attributions of all edges at the points of a path, ``[n_points, n_edges]``.

        An edge's attribution is ``(z_clean - z_ablated) . d value / d input``: its sender's
        outputs on the prompts and at the other end, its receiver's input at that point, means
        over the prompts. At :data:`CLEAN` it equals :meth:`gradient` at all ones. A point costs 3
        queries; one of a :class:`GradPath` 6, since finding it takes a backward pass too.

        Args:
            path: where the derivatives are taken, see :mod:`circuitbench.oracle.paths`.
            of: ``task`` (the metric) or ``kl`` (whose derivative is 0 at the intact model).
            ablation: the other end, ``resample`` for the counterfactual of every prompt.
            batch: instead of the oracle's default one.
            rule: how the backward pass goes.
            by_span: tell positions apart: ``[n_points, n_edges, n_spans, n_spans]``, the span in
                which the sender writes and the one in which the receiver is, as :attr:`spans`
                names them. For keys and values that is where the query looks from (the crossing
                edges of Haklay et al. 2025, arXiv 2502.04577); other receivers hear in one place.

        Raises:
            BudgetExceeded: if the budget does not cover all points; nothing is spent then.
            InvalidSpec: for a sender the model does not have, an ablation that cannot replace
                every sender or is not ``resample`` where the path leads to the counterfactual,
                spans where the prompts name none, or an unknown rule.
        """
        (name,), backward = checked_of((of,), get_args(EdgeOf)), rule_named(rule)
        kind, batch = self._ablation(ablation), batch or self._current()
        if isinstance(path, Straight):
            for sender in path.senders:
                if sender not in self.graph.senders:
                    raise InvalidSpec(
                        f"the model has no sender {sender!r}; {nearest(sender, self.graph.senders)}"
                    )
        elif kind.name != "resample":
            raise InvalidSpec(f"this path leads to the counterfactual: resample, not {kind.name}")
        if by_span:
            self._account.used.add("spans")
            batch.source.prompts.members()  # raises where there are none
        self._account.charge(GRADIENT_COST * path.passes)
        for _ in range(path.passes):
            self._account.ask(batch, kind, backwards=1, rule=backward)
        with self._account.timed():
            run = self._run(batch, "task", kind, backward)
            found = Attribution(run, name, by_span).along(path)
        return found if by_span else found[..., 0, 0]

    def _run(self, batch: Batch, half: Half, ablation: Ablation, rule: Rule = EXACT) -> EdgeRun:
        return EdgeRun(self.graph, self._engine.forward, batch, half, ablation, rule)

    def _ablation(self, name: str | None) -> Ablation:
        ablation = ablation_named(self._default if name is None else name)
        if not ablation.edges:
            raise InvalidSpec(
                f"{ablation.name} ablation replaces heads only, not the embedding or MLPs, so it "
                f"knows no edges; valid: {', '.join(a.name for a in ABLATIONS.values() if a.edges)}"
            )
        return ablation

    def _checked(self, masks: Tensor) -> Tensor:
        masks = torch.as_tensor(masks)
        if masks.dim() != 2 or masks.shape[1] != len(self.edges):
            raise InvalidSpec(
                f"edge masks must be [n_masks, {len(self.edges)}], not {tuple(masks.shape)}"
            )
        soft = masks.detach().cpu().float()
        if not ((soft >= 0) & (soft <= 1)).all():
            raise InvalidSpec("edge masks must lie in [0, 1]")
        return soft
