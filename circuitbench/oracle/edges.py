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

from circuitbench.core.circuit import DIRECTIONS, Direction, Edge
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
from circuitbench.oracle.edge_answers import EdgeAnswers
from circuitbench.oracle.edge_attribution import Attribution
from circuitbench.oracle.edge_run import EdgeRun
from circuitbench.oracle.engine.fast import FastEngine
from circuitbench.oracle.engine.limits import Memory
from circuitbench.oracle.masks import as_masks
from circuitbench.oracle.paths import CLEAN, Path, Straight
from circuitbench.oracle.rules import EXACT, Rule, rule_named
from circuitbench.tasks.base import REST

EdgeOf = Literal["task", "kl"]

_HELD = 2  # halves of batches whose runs are kept: the prompts, and the control text


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
        self._limit = Memory(config, engine.device).edge_bytes
        self._held: dict[tuple[Batch, Half, str, Direction], EdgeAnswers] = {}

    @property
    def edges(self) -> tuple[Edge, ...]:
        """All edges, in the order of the masks' columns."""
        return self.graph.edges

    @cached_property
    def _place(self) -> dict[Edge, int]:
        return {edge: i for i, edge in enumerate(self.edges)}

    @cached_property
    def _streams(self) -> Tensor:
        """``[receivers]``: which of the streams a receiver hears; a layer's heads share one."""
        own = [not name.endswith((".q", ".k", ".v")) for name in self.graph.receivers]
        first = [name.endswith(".0.q") for name in self.graph.receivers]
        return (torch.tensor(own) | torch.tensor(first)).cumsum(0) - 1

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

    def query(
        self,
        masks: Tensor,
        *,
        ablation: str | None = None,
        direction: Direction = "noising",
        control: bool = False,
        kl: bool = False,
        per_prompt: bool = False,
        batch: Batch | None = None,
    ) -> Damages:
        """Damages of edge masks ``[n_masks, n_edges]``, one query each.

        Masks that differ from the intact model, or from a mask asked before, in what a few
        receivers hear are answered by what that changes; asking such masks together is fastest.

        Args:
            masks: bool, True = kept.
            ablation: what replaces a sender's contribution, instead of the oracle's own kind.
            direction: in ``noising`` the prompts run and an ablated edge carries the replacement;
                in ``denoising`` the counterfactual prompts run and a kept edge carries what its
                sender writes on the prompts. The kind of ablation plays no part in the latter.
            control: whether to measure control damage too (noising only).
            kl: whether to measure the KL divergence too, in the same pass.
            per_prompt: whether to give the task damage of each prompt too.
            batch: instead of the oracle's default one.

        Raises:
            BudgetExceeded: if the budget does not cover all masks; nothing is spent then.
            InvalidSpec: for an ablation that cannot replace every sender.
        """
        kind = self._kind(ablation, direction)
        batch, control = batch or self._current(), control and direction == "noising"
        kept = self._checked(masks)
        if kept.dtype != torch.bool and not ((kept == 0) | (kept == 1)).all():
            raise InvalidSpec("a query's edge masks must be bool (soft masks are for gradients)")
        asked = kept.bool().numpy()
        self._account.charge(len(asked))
        for _ in asked:
            self._account.ask(batch, kind, direction, control=control)
        with self._account.timed():
            task = self._answers(batch, "task", kind, direction)
            values, divergence = task.values(asked, kl)
            change = torch.from_numpy(batch.clean(batch, "task")) - values
            loss = None
            if control:
                text, _ = self._answers(batch, "control", kind, direction).values(asked)
                loss = text.double().mean(1) - batch.control_loss
        return Damages(
            task=(batch.metric - values.double().mean(1)).float(),
            control=None if loss is None else loss.float(),
            weight=self._weight,
            kl=None if divergence is None else divergence.double().mean(1).float(),
            per_prompt_task=change if per_prompt else None,
        )

    def proximity(self, *, batch: Batch | None = None) -> Tensor:
        """Each edge's share of what its receiver hears in the intact model, ``[n_edges]``.

        Where a sender adds ``x`` to the stream ``y`` its edges are as close to it as
        ``max(0, ||y||_1 - ||y - x||_1)``, as a share of all edges into the same receiver; the
        mean over prompts and positions (Ferrando and Voita 2024, arXiv 2403.00824). Behind the
        last layer's attention only the metric's positions count. Asks for activations alone: one
        query, one forward pass. Queries, keys and values of a layer hear the same.

        Raises :class:`BudgetExceeded` if no query is left.
        """
        batch = batch or self._current()
        self._account.charge(1)
        self._account.ask(batch, ablation_named("zero"))
        with self._account.timed():
            shares = self._answers(batch, "task", ablation_named("zero"), "noising").proximities()
        stream = self._streams[torch.tensor(self.graph.pairs)[:, 0]]
        return shares[stream, torch.tensor(self.graph.pairs)[:, 1]]

    def gradient(
        self,
        masks: Tensor,
        *,
        of: EdgeOf = "task",
        ablation: str | None = None,
        direction: Direction = "noising",
        per_prompt: bool = False,
        batch: Batch | None = None,
        rule: str | Rule = "exact",
    ) -> Tensor:
        """Derivative ``[n_masks, n_edges]`` by soft edge masks in [0, 1], 3 queries each.

        At all-ones masks that of the task metric is edge attribution patching, times minus one:
        the first-order estimate of what ablating the edge takes from the metric. At all-zeros
        masks in ``denoising`` it is that of what restoring the edge brings back.

        Args:
            masks: ``[n_masks, n_edges]``.
            of: ``task`` (the metric, not its damage) or ``kl``, see :class:`Derivatives`.
            ablation, direction, batch: as in :meth:`query`.
            rule: how the backward pass goes, see :mod:`circuitbench.oracle.rules`; its name,
                or itself.
            per_prompt: whether to give ``[n_masks, batch, n_edges]``, each prompt's own instead
                of their mean; the question, and so its cost, is the same.
        """
        found = self.differentiate(
            masks,
            of=(of,),
            ablation=ablation,
            direction=direction,
            per_prompt=per_prompt,
            batch=batch,
            rule=rule,
        )
        return found.gradients[of]

    def differentiate(
        self,
        masks: Tensor,
        *,
        of: Sequence[EdgeOf] = ("task", "kl"),
        ablation: str | None = None,
        direction: Direction = "noising",
        per_prompt: bool = False,
        offsets: Tensor | None = None,
        batch: Batch | None = None,
        rule: str | Rule = "exact",
    ) -> Derivatives:
        """Values at soft masks and their derivatives, from one forward pass for each mask.

        A mask costs 1 query and 2 more for everything in ``of``.

        Args:
            masks, of, ablation, direction, batch, rule: as in :meth:`gradient`.
            per_prompt: whether values are ``[n_masks, batch]``, and derivatives as there.
            offsets: ``[n_senders, d_model]`` (:attr:`offsets_shape`), added everywhere to what
                stands for a sender's output; a method may learn them (optimal ablation: Li and
                Janson 2024, arXiv 2409.09951). Their derivatives come from the same backward
                pass, and cost nothing more. Noising only.

        Raises:
            BudgetExceeded: if the budget does not cover all masks; nothing is spent then.
            InvalidSpec: for something unknown in ``of``, or as :meth:`query` does.
        """
        names, backward = checked_of(of, get_args(EdgeOf)), rule_named(rule)
        kind, batch = self._kind(ablation, direction), batch or self._current()
        if offsets is not None and direction == "denoising":
            raise InvalidSpec("offsets move what is ablated; in denoising nothing is: use noising")
        soft = self._checked(masks).float()
        shift = None if offsets is None else self._checked_offsets(offsets)
        self._account.charge(derivatives_cost(names) * len(soft))
        for _ in soft:
            self._account.ask(batch, kind, direction, backwards=len(names), rule=backward)
        n = len(batch)
        at = {name: torch.zeros(len(soft), n) for name in names}
        slope = {
            name: soft.new_zeros(len(soft), n if per_prompt else 1, soft.shape[1]) for name in names
        }
        moved = (
            {}
            if shift is None
            else {name: shift.new_zeros(len(soft), *shift.shape) for name in names}
        )
        with self._account.timed():
            run = self._run(batch, "task", kind, backward, direction)
            step = 1 if per_prompt else run.rows_at_once(len(self.graph.senders))
            intact = None
            if "kl" in names:
                with torch.no_grad():
                    intact = run.final(torch.ones(len(self.edges)))
            for i, mask in enumerate(soft):
                for start in range(0, n, step):
                    rows = torch.arange(start, min(start + step, n))
                    gates = mask.clone().requires_grad_(True)
                    with torch.enable_grad():
                        final = run.final(gates, rows, shift)
                        for name in names:
                            if name == "task":
                                value = run.value_tensor(final, rows)
                            else:
                                assert intact is not None  # made above
                                value = run.divergence(intact[rows], final, rows)
                            at[name][i, rows] = value.detach().cpu()
                            by = [gates] if shift is None else [gates, shift]
                            grads = torch.autograd.grad(value.sum(), by, retain_graph=True)
                            slope[name][i, start if per_prompt else 0] += grads[0]
                            if shift is not None:
                                moved[name][i] += grads[1] / n
        if not per_prompt:
            at = {name: value.mean(1) for name, value in at.items()}
            slope = {name: grad[:, 0] / n for name, grad in slope.items()}
        return Derivatives(at, slope, moved)

    @property
    def offsets_shape(self) -> tuple[int, int]:
        """``(n_senders, d_model)``."""
        return len(self.graph.senders), self._engine.forward.config.d_model

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
        per_prompt: bool = False,
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
            per_prompt: give ``[n_points, batch, n_edges]`` (and spans), each prompt's own instead
                of their mean, at the same cost.

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
            found = Attribution(run, name, by_span).along(path, per_prompt)
        return found if by_span else found[..., 0, 0]

    def _run(
        self,
        batch: Batch,
        half: Half,
        ablation: Ablation,
        rule: Rule = EXACT,
        direction: Direction = "noising",
    ) -> EdgeRun:
        return EdgeRun(self.graph, self._engine.forward, batch, half, ablation, rule, direction)

    def _answers(
        self, batch: Batch, half: Half, ablation: Ablation, direction: Direction
    ) -> EdgeAnswers:
        """The last ones are kept: with them go what was run for them."""
        kind = "clean" if direction == "denoising" else ablation.name
        key = batch, half, kind, direction
        found = self._held.pop(key, None)
        if found is None:
            while len(self._held) >= _HELD:
                del self._held[next(iter(self._held))]
            engine = self._engine
            found = EdgeAnswers(
                self.graph,
                engine.forward,
                batch,
                half,
                ablation,
                direction,
                limit=self._limit,
                chunk_tokens=engine.runner.chunk_tokens,
            )
        self._held[key] = found
        return found

    def _named(self, name: str | None) -> Ablation:
        return ablation_named(self._default if name is None else name)

    def _kind(self, name: str | None, direction: Direction) -> Ablation:
        """The kind of ablation asked for; in denoising it plays no part, and any will do."""
        if direction not in DIRECTIONS:
            raise InvalidSpec(f"no direction {direction!r}; {nearest(str(direction), DIRECTIONS)}")
        return self._ablation(name) if direction == "noising" else self._named(name)

    def _ablation(self, name: str | None) -> Ablation:
        ablation = self._named(name)
        if not ablation.edges:
            raise InvalidSpec(
                f"{ablation.name} ablation replaces heads only, not the embedding or MLPs, so it "
                f"knows no edges; valid: {', '.join(a.name for a in ABLATIONS.values() if a.edges)}"
            )
        return ablation

    def _checked_offsets(self, offsets: Tensor) -> Tensor:
        offsets = torch.as_tensor(offsets).detach().cpu().float()
        if offsets.shape != self.offsets_shape or not offsets.isfinite().all():
            raise InvalidSpec(
                f"offsets must be finite and {list(self.offsets_shape)}, not {list(offsets.shape)}"
            )
        return offsets.requires_grad_(True)

    def _checked(self, masks: Tensor) -> Tensor:
        masks = as_masks(masks)
        if masks.dim() != 2 or masks.shape[1] != len(self.edges):
            raise InvalidSpec(
                f"edge masks must be [n_masks, {len(self.edges)}], not {tuple(masks.shape)}"
            )
        if masks.dtype == torch.bool:
            return masks.cpu()
        soft = masks.detach().cpu().float()
        if not ((soft >= 0) & (soft <= 1)).all():
            raise InvalidSpec("edge masks must lie in [0, 1]")
        return soft

    @classmethod
    def _together(
        cls, requests: Sequence[tuple[EdgeOracle, Tensor, Batch]], ablation: str | None, kl: bool
    ) -> list[Damages]:
        """See :func:`query_edges_together`; there is at least one request."""
        groups: dict[tuple[EdgeOracle, Batch], list[int]] = {}
        for i, (edges, _, batch) in enumerate(requests):
            groups.setdefault((edges, batch), []).append(i)
        for edges in {edges for edges, _ in groups}:
            edges._account.afford(sum(other is edges for other, _, _ in requests))
        answers: dict[int, Damages] = {}
        for (edges, batch), members in groups.items():
            masks = torch.stack([requests[i][1] for i in members])
            found = edges.query(masks, ablation=ablation, kl=kl, batch=batch)
            for row, i in enumerate(members):
                answers[i] = Damages(
                    found.task[row : row + 1],
                    None,
                    found.weight,
                    kl=None if found.kl is None else found.kl[row : row + 1],
                )
        return [answers[i] for i in range(len(requests))]


def query_edges_together(
    requests: Sequence[tuple[EdgeOracle, Tensor, Batch]],
    *,
    ablation: str | None = None,
    kl: bool = False,
) -> list[Damages]:
    """Answer edge masks on many batches, tasks and models in one call.

    Masks on the same batch are computed together.

    Args:
        requests: ``(oracle.edges, mask [n_edges], batch)``, each one query of its oracle.
        ablation, kl: as in :meth:`EdgeOracle.query`.

    Returns:
        One :class:`Damages` of one mask each, in order.

    Raises:
        BudgetExceeded: if any oracle's budget does not cover its share; nothing is spent then.
        InvalidSpec: as :meth:`EdgeOracle.query` does.
    """
    return requests[0][0]._together(requests, ablation, kl) if requests else []
