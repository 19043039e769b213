"""The one thing methods see: how much does switching these heads off hurt, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import DIRECTIONS, Direction
from circuitbench.core.errors import InvalidSpec, nearest
from circuitbench.core.seeding import derive_seed, generator
from circuitbench.models.base import Model
from circuitbench.oracle.ablations import Ablation, Half, ablation_named
from circuitbench.oracle.account import Account
from circuitbench.oracle.batch import Batch
from circuitbench.oracle.damages import Damages
from circuitbench.oracle.derivatives import Derivatives, Of, checked_of, derivatives_cost
from circuitbench.oracle.edges import EdgeOracle
from circuitbench.oracle.engine.base import Engine, Quantity, Question, Source
from circuitbench.oracle.engine.choice import engine_for
from circuitbench.oracle.engine.fast import FastEngine
from circuitbench.oracle.masks import as_masks
from circuitbench.oracle.memo import fill, unknown, values
from circuitbench.oracle.meter import Meter
from circuitbench.oracle.rules import EXACT, Rule, rule_named
from circuitbench.tasks.base import Task


class _Asked(NamedTuple):
    """One mask on one batch: its questions about the prompts and about the control spans."""

    batch: Batch
    task: Question
    control: Question | None


class Oracle:
    """Answers masks with damages, counts every question and enforces the budget.

    A mask is True where a head is kept. In a *noising* question the prompts run through the
    model, and an ablation takes the place of the masked-out heads' outputs z (see
    :mod:`circuitbench.oracle.ablations`). In a *denoising* question the counterfactual prompts
    run and the kept heads are given their clean output; it has no control damage.

    Args:
        model: what is studied.
        task: brings prompts and control text.
        task_name: seeds and labels the draws.
        seed: root of all draws; the same seed draws the same batches.
        ablation: name of the default kind of ablation.
        weight: of the control damage in the reward.
        batch_size: prompts, and control spans, per batch.
        budget: queries allowed; None is unlimited.
        device: where to compute.
        pool: if given, batches are rows of a fixed pool of this many prompts and control spans,
            and answers are remembered per prompt. Means over counterfactuals or control spans
            are then over the pool.
        precision: ``exact`` (float32), ``fast`` or ``approx``.
        meter: where to count; a new one by default.
        engine: computes the answers; by default the fastest that knows the architecture.
    """

    def __init__(
        self,
        model: Model,
        task: Task,
        *,
        task_name: str,
        seed: int,
        ablation: str = "zero",
        weight: float = 1.0,
        batch_size: int = 32,
        budget: int | None = None,
        device: str = "cpu",
        pool: int | None = None,
        precision: str = "exact",
        meter: Meter | None = None,
        engine: Engine | None = None,
    ) -> None:
        if budget is not None and budget < 0:
            raise InvalidSpec(f"a budget cannot be negative: {budget}")
        if batch_size < 1:
            raise InvalidSpec(f"a batch needs at least one prompt, not {batch_size}")
        if pool is not None and pool < batch_size:
            raise InvalidSpec(f"a pool of {pool} prompts cannot fill a batch of {batch_size}")
        # Private, since they lead to the truth, which no method may see.
        self._model, self._task = model, task
        self.task_name, self.seed = task_name, seed
        self.ablation = ablation_named(ablation).name
        self.weight, self.batch_size, self.pool = weight, batch_size, pool
        self.n_layers, self.n_heads = model.n_layers, model.n_heads
        self.precision = precision
        self.engine = engine_for(model, device, precision) if engine is None else engine
        self._account = Account(
            Meter() if meter is None else meter, budget, self.engine, self.n_layers * self.n_heads
        )
        self._pool: Source | None = None
        self.batch = self.draw(0)

    def __deepcopy__(self, memo: dict[int, object]) -> Oracle:
        """Itself: a copy would escape the meter (``gymnasium.make`` copies its arguments)."""
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_layers, n_heads)``."""
        return self.n_layers, self.n_heads

    @property
    def meter(self) -> Meter:
        """What has been asked and what it has cost."""
        return self._account.meter

    @property
    def budget(self) -> int | None:
        """Queries allowed; None if unlimited."""
        return self._account.budget

    @property
    def remaining(self) -> int | None:
        """Queries left; None if unlimited."""
        return self._account.remaining

    @property
    def clean_metric(self) -> float:
        """The intact model's metric on the current batch (logit units)."""
        return self.batch.metric

    @property
    def clean_control(self) -> float:
        """The intact model's control loss on the current batch (nats/token)."""
        return self.batch.control_loss

    @cached_property
    def edges(self) -> EdgeOracle:
        """The same questions about edges, on this oracle's budget and meter.

        Raises :class:`InvalidSpec` for a model whose edges the engine does not know, with the
        reason.
        """
        if not isinstance(self.engine, FastEngine):
            raise InvalidSpec(f"{self._model.name} is run by hooks, which know no edges")
        reason = self.engine.transformer.why_no_edges
        if reason:
            raise InvalidSpec(f"no edges are known of {self._model.name}: {reason}")
        self._account.used.add("edges")
        return EdgeOracle(
            self.engine,
            self._account,
            lambda: self.batch,
            ablation=self.ablation,
            weight=self.weight,
        )

    def head_masks(self) -> Tensor:
        """All single-head ablations ``[n_layers * n_heads, n_layers, n_heads]``, row-major."""
        n = self.n_layers * self.n_heads
        return ~torch.eye(n, dtype=torch.bool).view(n, *self.shape)

    def draw(self, seed: int) -> Batch:
        """A fresh batch, a pure function of the oracle's seed and this one.

        Its two clean forward passes are metered, its queries are none.
        """
        n = self.batch_size
        if self.pool is None:
            source = self._source(n, "batch", seed)
            rows = (np.arange(n), np.arange(n))
        else:
            if self._pool is None:
                self._pool = self._source(self.pool, "pool")
                self._pool.by_row = True
            source = self._pool
            rng = generator(self.seed, self.task_name, "pool batch", seed)
            rows = rng.choice(self.pool, n, replace=False), rng.choice(self.pool, n, replace=False)
        batch = Batch(seed, source, *rows, clean=self._clean, correct=self._correct)
        self._account.draw(batch)
        return batch

    def resample(self, seed: int) -> None:
        """Draw a batch and make it the default of all later questions."""
        self.batch = self.draw(seed)

    def query(
        self,
        masks: Tensor,
        *,
        ablation: str | None = None,
        direction: Direction = "noising",
        control: bool = True,
        per_prompt: bool = False,
        kl: bool = False,
        batch: Batch | Sequence[Batch] | None = None,
    ) -> Damages:
        """Damages of masks ``[n_masks, n_layers, n_heads]`` (bool, True = kept).

        Args:
            masks: each is one query of the budget.
            ablation: instead of the oracle's own.
            direction: ``noising`` or ``denoising``.
            control: whether to measure control damage (noising only).
            per_prompt: whether to give values per prompt too.
            kl: whether to measure the KL divergence too.
            batch: instead of the default one; or one batch per mask.

        Raises:
            BudgetExceeded: if the budget does not cover all masks; nothing is spent then.
        """
        asked = self._asked(masks, ablation, direction, batch, control)
        control = control and direction == "noising"
        self._account.charge(len(asked))
        for one in asked:
            self._count(one)
        with self._account.timed():
            self.meter.memo_hits += sum(_known(one, kl) for one in asked)
            _compute(self.engine, asked, kl)
        return self._damages(asked, control, per_prompt, kl)

    def lookup(
        self,
        masks: Tensor,
        *,
        ablation: str | None = None,
        direction: Direction = "noising",
        control: bool = True,
        per_prompt: bool = False,
        kl: bool = False,
        batch: Batch | Sequence[Batch] | None = None,
    ) -> Damages | None:
        """What :meth:`query` would say, if all of it has been asked before; free of charge."""
        asked = self._asked(masks, ablation, direction, batch, control)
        control = control and direction == "noising"
        if not all(_known(one, kl) for one in asked):
            return None
        return self._damages(asked, control, per_prompt, kl)

    def gradient(
        self,
        masks: Tensor,
        *,
        ablation: str | None = None,
        direction: Direction = "noising",
        batch: Batch | Sequence[Batch] | None = None,
        of: Of = "task",
        rule: str | Rule = "exact",
    ) -> Tensor:
        """Derivative ``[n_masks, n_layers, n_heads]`` by soft masks in [0, 1], 3 queries each.

        A head's output is ``m * z + (1 - m) * z_ablated`` (roles swapped in denoising).

        Args:
            masks: bool or float ``[n_masks, n_layers, n_heads]``.
            ablation: instead of the oracle's own.
            direction: ``noising`` or ``denoising``.
            batch: instead of the default one; or one batch per mask.
            of: what to differentiate, see :class:`Derivatives`.
            rule: how the backward pass goes, see :mod:`circuitbench.oracle.rules`; its name,
                or itself.

        Raises as :meth:`differentiate` does.
        """
        found = self.differentiate(
            masks, of=(of,), ablation=ablation, direction=direction, batch=batch, rule=rule
        )
        return found.gradients[of]

    def differentiate(
        self,
        masks: Tensor,
        *,
        of: Sequence[Of] = ("task", "kl"),
        ablation: str | None = None,
        direction: Direction = "noising",
        batch: Batch | Sequence[Batch] | None = None,
        rule: str | Rule = "exact",
    ) -> Derivatives:
        """Values at soft masks and their derivatives, from one forward pass for each mask.

        A mask costs 1 query and 2 more for everything in ``of``.

        Args:
            masks: bool or float ``[n_masks, n_layers, n_heads]``.
            of: what to differentiate, see :class:`Derivatives`.
            ablation, direction, batch, rule: as in :meth:`gradient`.

        Raises:
            BudgetExceeded: if the budget does not cover all masks; nothing is spent then.
            InvalidSpec: for something in ``of`` that is unknown, or that denoising does not have;
                for an unknown rule, or one that the engine or the control text cannot follow.
        """
        names, backward = checked_of(of), self._rule(rule)
        needed = {*names, *(("task", "control") if "reward" in names else ())}
        if "control" in needed and direction == "denoising":
            name = "reward" if "reward" in names else "control"
            raise InvalidSpec(f"denoising has no control text, so no gradient of {name!r}")
        if "control" in needed and backward.reference:
            raise InvalidSpec(
                f"rule {backward.name} needs counterfactuals, which control text does not have"
            )
        kind = self._ablation(ablation)
        soft = _float_masks(masks, self.shape)
        batches = self._batches(batch, len(soft))
        self._account.charge(derivatives_cost(names) * len(soft))
        task, control = bool(needed & {"task", "kl"}), "control" in needed
        backwards = len(names) + ("reward" in names)  # which is of both texts
        for b in batches:
            self._account.ask(
                b,
                kind,
                direction,
                task=task,
                control=control,
                backwards=backwards,
                rule=backward,
            )
        quantities: dict[str, Quantity] = {"task": "value", "kl": "kl"}
        of_prompts = {name: q for name, q in quantities.items() if name in needed}
        at = {name: np.zeros(len(soft), np.float32) for name in needed}
        slope = {name: np.zeros(soft.shape, np.float32) for name in needed}
        with self._account.timed():
            for i, (b, mask) in enumerate(zip(batches, soft, strict=True)):
                if of_prompts:
                    asked = b.question("task", mask, kind, direction)
                    found = self.engine.differentiate(asked, tuple(of_prompts.values()), backward)
                    for name, value, derivative in zip(of_prompts, *found, strict=True):
                        at[name][i], slope[name][i] = value, derivative
                if control:
                    asked = b.question("control", mask, kind, direction)
                    (at["control"][i],), (slope["control"][i],) = self.engine.differentiate(
                        asked, rule=backward
                    )
        if "reward" in names:
            clean = np.array([(b.metric, b.control_loss) for b in batches]).reshape(-1, 2)
            lost, gained = clean[:, 0] - at["task"], at["control"] - clean[:, 1]
            at["reward"] = lost - self.weight * gained
            slope["reward"] = -slope["task"] - self.weight * slope["control"]
        return Derivatives(
            {name: torch.from_numpy(at[name]) for name in names},
            {name: torch.from_numpy(slope[name]) for name in names},
        )

    @classmethod
    def _together(
        cls, requests: Sequence[tuple[Oracle, Tensor, Batch]], control: bool
    ) -> list[Damages]:
        """See :func:`query_together`; there is at least one request."""
        first = requests[0][0]
        if any(oracle.engine is not first.engine for oracle, _, _ in requests):
            raise InvalidSpec("oracles asked together must share model, device and precision")
        asked = [
            oracle._asked(mask[None], None, "noising", batch, control)[0]
            for oracle, mask, batch in requests
        ]
        for oracle in {id(o): o for o, _, _ in requests}.values():
            oracle._account.afford(sum(other is oracle for other, _, _ in requests))
        for (oracle, _, _), one in zip(requests, asked, strict=True):
            oracle._account.charge(1)
            oracle._count(one)
        with ExitStack() as stack:
            for oracle, _, _ in requests:
                stack.enter_context(oracle._account.timed(among=len(requests)))
            _compute(first.engine, asked, kl=False)
            return [
                oracle._damages([one], control, False, False)
                for (oracle, _, _), one in zip(requests, asked, strict=True)
            ]

    def _source(self, n: int, *axes: str | int) -> Source:
        seed = derive_seed(self.seed, self.task_name, *axes)
        prompts = self._task.prompts(self._model, n, generator(seed, "prompts"))
        control = self._task.control(self._model, n, generator(seed, "control"))
        return Source(prompts, control)

    def _ablation(self, name: str | None) -> Ablation:
        return ablation_named(self.ablation if name is None else name)

    def _rule(self, name: str | Rule) -> Rule:
        rule = rule_named(name)
        if rule is not EXACT and not isinstance(self.engine, FastEngine):
            raise InvalidSpec(
                f"{self._model.name} is run by hooks, which know the rule exact only, not "
                f"{rule.name}"
            )
        return rule

    def _asked(
        self,
        masks: Tensor,
        ablation: str | None,
        direction: Direction,
        batch: Batch | Sequence[Batch] | None,
        control: bool,
    ) -> list[_Asked]:
        kind = self._ablation(ablation)
        if direction not in DIRECTIONS:
            raise InvalidSpec(f"no direction {direction!r}; {nearest(str(direction), DIRECTIONS)}")
        bools = _bool_masks(masks, self.shape)
        control = control and direction == "noising"
        return [
            _Asked(
                b,
                b.question("task", mask, kind, direction),
                b.question("control", mask, kind, direction) if control else None,
            )
            for b, mask in zip(self._batches(batch, len(bools)), bools, strict=True)
        ]

    def _batches(self, batch: Batch | Sequence[Batch] | None, n: int) -> Sequence[Batch]:
        if batch is None or isinstance(batch, Batch):
            return [batch or self.batch] * n
        if len(batch) != n:
            raise InvalidSpec(f"{n} masks need {n} batches (or one), not {len(batch)}")
        return batch

    def _count(self, asked: _Asked) -> None:
        question = asked.task
        self._account.ask(
            asked.batch,
            question.ablation,
            question.direction,
            control=asked.control is not None,
        )

    def _damages(
        self, asked: Sequence[_Asked], control: bool, per_prompt: bool, kl: bool
    ) -> Damages:
        if not asked:
            none = torch.zeros(0)
            return Damages(none, none if control else None, self.weight)

        def change(half: Half, questions: Sequence[Question]) -> np.ndarray:
            clean = {id(one.batch): self._clean(one.batch, half) for one in asked}
            return np.asarray(values(questions) - np.stack([clean[id(one.batch)] for one in asked]))

        task = -change("task", [one.task for one in asked])
        text = [one.control for one in asked if one.control is not None]
        loss = change("control", text) if control else None
        return Damages(
            task=_mean(task),
            control=None if loss is None else _mean(loss),
            weight=self.weight,
            per_prompt_task=torch.from_numpy(task) if per_prompt else None,
            per_prompt_control=torch.from_numpy(loss) if per_prompt and loss is not None else None,
            kl=_mean(values([one.task for one in asked], kl=True)) if kl else None,
        )

    def _clean(self, batch: Batch, half: Half) -> np.ndarray:
        """The intact model's values ``[batch]``."""
        intact = batch.question(half, np.ones(self.shape, bool), ablation_named("zero"), "noising")
        if len(unknown(intact)):
            with self._account.timed():
                fill(self.engine, [intact])
        return np.asarray(values([intact])[0])

    def _correct(self, batch: Batch) -> float:
        rows = batch.prompt_rows if batch.source.by_row else None
        with self._account.timed():
            return self.engine.accuracy(batch.source, rows)


def _known(asked: _Asked, kl: bool) -> bool:
    """Whether the memo has every answer."""
    text = asked.control
    return not (
        len(unknown(asked.task))
        or (text is not None and len(unknown(text)))
        or (kl and len(unknown(asked.task, kl=True)))
    )


def _compute(engine: Engine, asked: Sequence[_Asked], kl: bool) -> None:
    """Make the memo know every answer."""
    fill(engine, [one.task for one in asked], kl)
    fill(engine, [one.control for one in asked if one.control is not None])


def query_together(
    requests: Sequence[tuple[Oracle, Tensor, Batch]], *, control: bool = True
) -> list[Damages]:
    """Answer many oracles of one model in one batched call.

    Args:
        requests: ``(oracle, mask [n_layers, n_heads], batch)``, each one query of its oracle.
        control: whether to measure control damage.

    Returns:
        One :class:`Damages` of one mask each, in order.

    Raises:
        BudgetExceeded: if any oracle's budget does not cover its share; nothing is spent then.
        InvalidSpec: if the oracles do not share an engine (another model, device or precision).
    """
    return requests[0][0]._together(requests, control) if requests else []


def _float_masks(masks: Tensor, shape: tuple[int, int]) -> np.ndarray:
    masks = as_masks(masks)
    if masks.dim() != 3 or tuple(masks.shape[1:]) != shape:
        raise InvalidSpec(
            f"masks must be [n_masks, {shape[0]}, {shape[1]}], not {tuple(masks.shape)}"
        )
    soft = masks.detach().cpu().to(torch.float32).numpy()
    if not ((soft >= 0) & (soft <= 1)).all():
        raise InvalidSpec("masks must lie in [0, 1]")
    return soft


def _bool_masks(masks: Tensor, shape: tuple[int, int]) -> np.ndarray:
    soft = _float_masks(masks, shape)
    if not ((soft == 0) | (soft == 1)).all():
        raise InvalidSpec("a query's masks must be bool (soft masks are for gradients)")
    return soft.astype(bool)


def _mean(per_prompt: np.ndarray) -> Tensor:
    """Over prompts, summed in double precision: ``[n, batch]`` to ``[n]``."""
    return torch.from_numpy(per_prompt.mean(1, dtype=np.float64).astype(np.float32))
