"""The till of an oracle: what may still be asked, and what asking has cost so far."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from circuitbench.core.circuit import Direction
from circuitbench.core.errors import BudgetExceeded
from circuitbench.core.info import Need
from circuitbench.oracle.ablations import Ablation
from circuitbench.oracle.batch import Batch
from circuitbench.oracle.engine.base import Engine
from circuitbench.oracle.meter import Meter
from circuitbench.oracle.rules import EXACT, Rule


class Account:
    """Enforces a budget and writes down every question on a meter.

    Args:
        meter: where to count.
        budget: queries allowed; None is unlimited.
        engine: whose work is counted.
        n_heads: of the whole model.

    Attributes:
        used: what of the oracle has been asked for, in the words of ``Info.needs``.
    """

    def __init__(self, meter: Meter, budget: int | None, engine: Engine, n_heads: int) -> None:
        self.meter, self.budget, self.engine, self.n_heads = meter, budget, engine, n_heads
        self.used: set[Need] = set()

    @property
    def remaining(self) -> int | None:
        """Queries left; None if unlimited."""
        return None if self.budget is None else self.budget - self.meter.queries

    def afford(self, queries: int) -> None:
        """Raise :class:`BudgetExceeded` if so many queries are not left."""
        if self.remaining is not None and queries > self.remaining:
            raise BudgetExceeded(
                f"{queries} queries asked, {self.remaining} of the budget of {self.budget} left"
            )

    def charge(self, queries: int) -> None:
        """Spend queries; raises :class:`BudgetExceeded`, and then nothing is spent."""
        self.afford(queries)
        self.meter.queries += queries

    def draw(self, batch: Batch) -> None:
        """Count the two clean passes of a new batch."""
        self._pass(batch, task=1, control=1)

    def ask(
        self,
        batch: Batch,
        ablation: Ablation,
        direction: Direction = "noising",
        *,
        task: bool = True,
        control: bool = False,
        backwards: int = 0,
        rule: Rule = EXACT,
    ) -> None:
        """Count the passes of one mask by what was asked, whatever is computed for it.

        Args:
            batch: what it was asked on.
            ablation, direction: how.
            task, control: which text.
            backwards: how many backward passes follow; none where nothing is differentiated.
            rule: how they go.
        """
        if task and (direction == "denoising" or ablation.counterfactual or rule.reference):
            self.used.add("counterfactuals")
            self._pass(batch, task=0 if batch.counterfactual_counted else 1)
            batch.counterfactual_counted = True
        if direction == "noising":
            self._fit(batch, ablation)
        self._pass(batch, task=int(task), control=int(control))
        if rule is not EXACT:
            self.used.add("rules")
        if backwards:
            self.used.add("gradients")
            self.meter.gradients += 1
            self.meter.backwards += backwards

    @contextmanager
    def timed(self, among: int = 1) -> Iterator[None]:
        """Add time and work inside a ``with`` block, shared ``among`` many, to the meter."""
        start, flops = time.perf_counter(), self.engine.flops
        try:
            yield
        finally:
            self.meter.seconds += (time.perf_counter() - start) / among
            self.meter.flops += (self.engine.flops - flops) / among

    def _pass(self, batch: Batch, *, task: int = 0, control: int = 0) -> None:
        """Count forward passes of a batch's prompts and control spans."""
        source = batch.source
        self.meter.forwards += task + control
        asked = torch.from_numpy(batch.prompt_rows)
        self.meter.tokens += task * source.prompts.n_tokens(asked)
        self.meter.tokens += control * len(batch) * source.control.shape[1]

    def _fit(self, batch: Batch, ablation: Ablation) -> None:
        """Count what fitting takes, once for every batch or pool."""
        source = batch.source
        fit = ablation.fit(self.n_heads, len(source.prompts))
        if fit.forwards and ablation.name not in source.fits_counted:
            source.fits_counted.add(ablation.name)
            self.meter.forwards += fit.forwards
            self.meter.backwards += fit.backwards
            fitted_on = torch.arange(fit.prompts)
            self.meter.tokens += fit.forwards * source.prompts.n_tokens(fitted_on)
