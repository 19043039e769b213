"""The one thing methods see: how much does switching these heads off hurt, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import ABLATIONS, DIRECTIONS, Ablation, Direction
from circuitbench.core.errors import BudgetExceeded, InvalidSpec, nearest
from circuitbench.core.seeding import derive_seed, generator
from circuitbench.models.base import Model
from circuitbench.oracle.batch import Batch, Part, Source
from circuitbench.oracle.damages import Damages
from circuitbench.oracle.edges import EdgeOracle
from circuitbench.oracle.engine.choice import engine_for
from circuitbench.oracle.engine.fast import Engine
from circuitbench.oracle.memo import Request, answer, fill, parts_of, unknown, values
from circuitbench.oracle.meter import Meter
from circuitbench.tasks.base import Task

GRADIENT_COST = 3  # queries: a forward pass, and a backward pass counted as two
Of = Literal["task", "control", "reward"]


class Oracle:
    """Answers masks with damages, counts every question and enforces the budget.

    A mask is True where a head is kept. In a *noising* question the prompts run through the
    model with the masked-out heads ablated: ``zero`` sets their output z to 0, ``mean`` to its
    mean over the counterfactual prompts (per position), ``resample`` to its value on the
    prompt's own counterfactual. On the control text ``mean`` is over the spans themselves and
    ``resample`` takes the next span's. In a *denoising* question the counterfactual prompts run
    and the kept heads are given their clean output; it has no control damage.

    Args:
        model: what is studied.
        task: brings prompts and control text.
        task_name: seeds and labels the draws.
        seed: root of all draws; the same seed draws the same batches.
        ablation: default kind of ablation.
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
        ablation: Ablation = "zero",
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
        self.ablation: Ablation = _known_ablation(ablation)
        self.weight, self.batch_size, self.budget, self.pool = weight, batch_size, budget, pool
        self.n_layers, self.n_heads = model.n_layers, model.n_heads
        self.meter = Meter() if meter is None else meter
        self.precision = precision
        self.engine = engine_for(model, device, precision) if engine is None else engine
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
    def remaining(self) -> int | None:
        """Queries left; None if unlimited."""
        return None if self.budget is None else self.budget - self.meter.queries

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

        Raises :class:`InvalidSpec` for a model whose architecture the engine does not know.
        """
        return EdgeOracle(self)

    @contextmanager
    def ask_edges(
        self,
        n_masks: int,
        batch: Batch,
        ablation: Ablation | None,
        control: bool,
        gradient: bool = False,
    ) -> Iterator[Ablation]:
        """Charge, count and time what :class:`EdgeOracle` does inside; gives the ablation."""
        ablation = self.ablation if ablation is None else _known_ablation(ablation)
        self._charge(n_masks * (GRADIENT_COST if gradient else 1))
        request = Request(batch, np.ones(self.shape, bool), ablation, "noising")
        self._count([request] * n_masks, control)
        if gradient:
            self.meter.gradients += n_masks
            self.meter.backwards += n_masks
        with _Timed(self):
            yield ablation

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
        self.meter.forwards += 2
        self.meter.tokens += n * (source.prompts.tokens.shape[1] + source.control.shape[1])
        return Batch(seed, source, *rows, clean=self._clean, correct=self._correct)

    def resample(self, seed: int) -> None:
        """Draw a batch and make it the default of all later questions."""
        self.batch = self.draw(seed)

    def query(
        self,
        masks: Tensor,
        *,
        ablation: Ablation | None = None,
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
        requests = self._requests(masks, ablation, direction, batch)
        control = control and direction == "noising"
        self._charge(len(requests))
        self._count(requests, control)
        with _Timed(self):
            self.meter.memo_hits += answer(self.engine, requests, control, kl)
        return self._damages(requests, control, per_prompt, kl)

    def lookup(
        self,
        masks: Tensor,
        *,
        ablation: Ablation | None = None,
        direction: Direction = "noising",
        control: bool = True,
        per_prompt: bool = False,
        kl: bool = False,
        batch: Batch | Sequence[Batch] | None = None,
    ) -> Damages | None:
        """What :meth:`query` would say, if all of it has been asked before; free of charge."""
        requests = self._requests(masks, ablation, direction, batch)
        control = control and direction == "noising"
        if any(len(unknown(r, part)) for r in requests for part in parts_of(control, kl)):
            return None
        return self._damages(requests, control, per_prompt, kl)

    def gradient(
        self,
        masks: Tensor,
        *,
        ablation: Ablation | None = None,
        direction: Direction = "noising",
        batch: Batch | Sequence[Batch] | None = None,
        of: Of = "task",
    ) -> Tensor:
        """Derivative ``[n_masks, n_layers, n_heads]`` by soft masks in [0, 1].

        A head's output is ``m * z + (1 - m) * z_ablated`` (roles swapped in denoising). Each
        mask costs 3 queries.

        Args:
            masks: bool or float ``[n_masks, n_layers, n_heads]``.
            ablation: instead of the oracle's own.
            direction: ``noising`` or ``denoising``.
            batch: instead of the default one; or one batch per mask.
            of: ``task`` differentiates the task *metric* (not its damage), ``control`` the
                control loss, ``reward`` the reward (so minus the metric's, minus the weighted
                loss's derivative).
        """
        if of not in ("task", "control", "reward"):
            raise InvalidSpec(
                f"no gradient of {of!r}; {nearest(of, ['task', 'control', 'reward'])}"
            )
        if of != "task" and direction == "denoising":
            raise InvalidSpec(f"denoising has no control text, so no gradient of {of!r}")
        ablation = self.ablation if ablation is None else _known_ablation(ablation)
        soft = _float_masks(masks, self.shape)
        batches = self._batches(batch, len(soft))
        requests = [Request(b, m, ablation, direction) for b, m in zip(batches, soft, strict=True)]
        self._charge(GRADIENT_COST * len(requests))
        halves = sum((of != "control", of != "task"))
        self._count(requests, of == "reward", task=of != "control")
        if of == "control":
            self.meter.forwards += len(requests)
            self.meter.tokens += sum(b.source.control.shape[1] * len(b) for b in batches)
        self.meter.gradients += len(requests)
        self.meter.backwards += halves * len(requests)
        out = np.zeros((len(requests), *self.shape), np.float32)
        with _Timed(self):
            for i, request in enumerate(requests):
                if of != "control":
                    sign = -1.0 if of == "reward" else 1.0
                    out[i] += sign * self.engine.gradient("task", request.ask("task"))
                if of != "task":
                    sign = -self.weight if of == "reward" else 1.0
                    out[i] += sign * self.engine.gradient("control", request.ask("control"))
        return torch.from_numpy(out)

    def _source(self, n: int, *axes: str | int) -> Source:
        seed = derive_seed(self.seed, self.task_name, *axes)
        prompts = self._task.prompts(self._model, n, generator(seed, "prompts"))
        control = self._task.control(self._model, n, generator(seed, "control"))
        return Source(prompts, control)

    def _requests(
        self,
        masks: Tensor,
        ablation: Ablation | None,
        direction: Direction,
        batch: Batch | Sequence[Batch] | None,
    ) -> list[Request]:
        ablation = self.ablation if ablation is None else _known_ablation(ablation)
        if direction not in DIRECTIONS:
            raise InvalidSpec(f"no direction {direction!r}; {nearest(str(direction), DIRECTIONS)}")
        bools = _bool_masks(masks, self.shape)
        batches = self._batches(batch, len(bools))
        return [Request(b, m, ablation, direction) for b, m in zip(batches, bools, strict=True)]

    def _batches(self, batch: Batch | Sequence[Batch] | None, n: int) -> Sequence[Batch]:
        if batch is None or isinstance(batch, Batch):
            return [batch or self.batch] * n
        if len(batch) != n:
            raise InvalidSpec(f"{n} masks need {n} batches (or one), not {len(batch)}")
        return batch

    def _afford(self, cost: int) -> None:
        if self.remaining is not None and cost > self.remaining:
            raise BudgetExceeded(
                f"{cost} queries asked, {self.remaining} of the budget of {self.budget} left"
            )

    def _charge(self, cost: int) -> None:
        self._afford(cost)
        self.meter.queries += cost

    def _count(self, requests: Sequence[Request], control: bool, task: bool = True) -> None:
        """Count forward passes by what was asked, whatever is computed for it."""
        for request in requests:
            source, n = request.batch.source, len(request.batch)
            pos = source.prompts.tokens.shape[1]
            passes = int(task) + self._counterfactual(request, task)
            self.meter.forwards += passes + int(control)
            self.meter.tokens += n * (passes * pos + control * source.control.shape[1])

    def _counterfactual(self, request: Request, task: bool) -> int:
        """1 where a batch's counterfactual pass is needed for the first time."""
        if not task or (request.direction == "noising" and request.ablation == "zero"):
            return 0
        first = not request.batch.counterfactual_counted
        request.batch.counterfactual_counted = True
        return int(first)

    def _damages(
        self, requests: Sequence[Request], control: bool, per_prompt: bool, kl: bool
    ) -> Damages:
        def change(part: Part) -> np.ndarray:
            clean = {id(r.batch): self._clean(r.batch, part) for r in requests}
            return np.asarray(
                values(requests, part) - np.stack([clean[id(r.batch)] for r in requests])
            )

        if not requests:
            none = torch.zeros(0)
            return Damages(none, none if control else None, self.weight)
        task = -change("task")
        loss = change("control") if control else None
        return Damages(
            task=_mean(task),
            control=None if loss is None else _mean(loss),
            weight=self.weight,
            per_prompt_task=torch.from_numpy(task) if per_prompt else None,
            per_prompt_control=torch.from_numpy(loss) if per_prompt and loss is not None else None,
            kl=_mean(values(requests, "kl")) if kl else None,
        )

    def _clean(self, batch: Batch, part: Part) -> np.ndarray:
        """The intact model's values ``[batch]``."""
        request = Request(batch, np.ones(self.shape, bool), "zero", "noising")
        if len(unknown(request, part)):
            with _Timed(self):
                fill(self.engine, [request], part)
        return np.asarray(values([request], part)[0])

    def _correct(self, batch: Batch) -> float:
        rows = batch.prompt_rows if batch.source.by_row else None
        with _Timed(self):
            return self.engine.accuracy(batch.source, rows)


class _Timed:
    """Adds the time and the work inside a ``with`` block to an oracle's meter."""

    def __init__(self, oracle: Oracle) -> None:
        self.meter, self.engine = oracle.meter, oracle.engine

    def __enter__(self) -> None:
        self.start, self.flops = time.perf_counter(), self.engine.flops

    def __exit__(self, *_: object) -> None:
        self.meter.seconds += time.perf_counter() - self.start
        self.meter.flops += self.engine.flops - self.flops


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
    if not requests:
        return []
    first = requests[0][0]
    if any(oracle.engine is not first.engine for oracle, _, _ in requests):
        raise InvalidSpec("oracles asked together must share model, device and precision")
    asked = [
        oracle._requests(mask[None], None, "noising", batch)[0] for oracle, mask, batch in requests
    ]
    for oracle in {id(o): o for o, _, _ in requests}.values():
        oracle._afford(sum(other is oracle for other, _, _ in requests))
    for (oracle, _, _), request in zip(requests, asked, strict=True):
        oracle._charge(1)
        oracle._count([request], control)
    start, flops = time.perf_counter(), first.engine.flops
    answer(first.engine, asked, control, False)
    damages = [
        oracle._damages([request], control, False, False)
        for (oracle, _, _), request in zip(requests, asked, strict=True)
    ]
    for oracle, _, _ in requests:
        oracle.meter.seconds += (time.perf_counter() - start) / len(requests)
        oracle.meter.flops += (first.engine.flops - flops) / len(requests)
    return damages


def _known_ablation(ablation: Ablation) -> Ablation:
    if ablation not in ABLATIONS:
        raise InvalidSpec(f"no ablation {ablation!r}; {nearest(str(ablation), ABLATIONS)}")
    return ablation


def _float_masks(masks: Tensor, shape: tuple[int, int]) -> np.ndarray:
    masks = torch.as_tensor(masks)
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
