"""What a metric promises."""

from __future__ import annotations

import json
import math
from functools import cached_property
from typing import Any, cast

from circuitbench.checks.contracts.contract import Contract
from circuitbench.core.errors import CircuitBenchError, InvalidPlugin
from circuitbench.evaluation.metric import Metric
from circuitbench.evaluation.outcome import EXAMPLE, Outcome
from circuitbench.results import truth_of

PARTS = ("discovery", "truth", "costs", "measurements")


class MetricUnderTest:
    """A metric, and made-up runs to compute it of."""

    def __init__(self, metric: object) -> None:
        self.given = metric

    @property
    def metric(self) -> Metric:
        """The metric, if it is one."""
        return cast("Metric", self.given)

    @cached_property
    def example(self) -> dict[str, Any]:
        """A run that has everything, as a record keeps it."""
        truth = truth_of(EXAMPLE.truth) | {"contributions": EXAMPLE.contributions}
        parts = (EXAMPLE.discovery, truth, EXAMPLE.costs, EXAMPLE.measurements)
        content = json.dumps(dict(zip(PARTS, parts, strict=True)))
        return cast("dict[str, Any]", json.loads(content))

    def run(self, **changes: Any) -> Outcome:
        """The example with other parts."""
        return Outcome(**(self.example | changes), batch_size=EXAMPLE.batch_size)

    def ranked(self, best_first: bool) -> Outcome:
        """The example with the true heads first and chosen, or last and left out."""
        truth = self.run().relevant
        found = truth if best_first else ~truth
        scores = (found * 1.0).tolist()
        names = [
            f"{layer}.{head}"
            for layer, row in enumerate(found)
            for head, is_in in enumerate(row)
            if is_in
        ]
        answer = {"scores": scores, "selected": names, "trace": [{"queries": 2, "scores": scores}]}
        return self.run(discovery=self.example["discovery"] | answer)


METRIC: Contract[MetricUnderTest] = Contract()


@METRIC.promise("metric", "Let the entry point name a circuitbench.Metric, not a function.")
def _(plugin: MetricUnderTest) -> None:
    """It is a Metric."""
    if not isinstance(plugin.given, Metric):
        raise InvalidPlugin(f"it is a {type(plugin.given).__name__}, not a circuitbench.Metric")


@METRIC.promise(
    "description", "Give it a title (a column's heading) and about (one sentence).", ("metric",)
)
def _(plugin: MetricUnderTest) -> None:
    """It has a title, and a sentence for tooltips and captions."""
    for name in ("title", "about"):
        if not str(getattr(plugin.metric, name)).strip():
            raise InvalidPlugin(f"its {name} is empty")


@METRIC.promise(
    "value",
    "Return a float or None; take what a run has from the outcome (docs/metrics.md).",
    needs=("metric",),
)
def _(plugin: MetricUnderTest) -> None:
    """It has a finite value for a run that has everything."""
    if plugin.metric.of(plugin.run()) is None:
        raise InvalidPlugin("it has no value for a run that has everything")


@METRIC.promise("chance", "Let chance return a finite number, or leave it out.", needs=("metric",))
def _(plugin: MetricUnderTest) -> None:
    """What it says of chance is a finite number or None."""
    chance = None if plugin.metric.chance is None else plugin.metric.chance(plugin.run())
    if chance is not None and not (isinstance(chance, int | float) and math.isfinite(chance)):
        raise InvalidPlugin(f"chance gives {chance!r}, not a finite number")


@METRIC.promise(
    "needs",
    "Name in needs what compute reads: 'truth', 'edges' or 'measurements'.",
    needs=("value",),
)
def _(plugin: MetricUnderTest) -> None:
    """It needs no more of a run than it says."""
    answer = plugin.example["discovery"]
    lacking = {
        "truth": {"truth": {}},
        "edges": {"discovery": answer | {"edges": None, "selected_edges": None}},
        "measurements": {"measurements": {}},
    }
    for need, changes in lacking.items():
        if need in plugin.metric.needs:
            continue
        try:
            plugin.metric.of(plugin.run(**changes))
        except (CircuitBenchError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise InvalidPlugin(
                f"on a run without {need} it raised {type(error).__name__}: {error}"
            ) from error


@METRIC.promise(
    "repeatable", "Compute from the outcome alone, and change nothing in it.", needs=("value",)
)
def _(plugin: MetricUnderTest) -> None:
    """The same run gives the same value, and stays as it was."""
    run = plugin.run()
    before = json.dumps([getattr(run, part) for part in PARTS if part != "truth"])
    first, second = plugin.metric.of(run), plugin.metric.of(run)
    if first != second:
        raise InvalidPlugin(f"the same run gave {first}, then {second}")
    if json.dumps([getattr(run, part) for part in PARTS if part != "truth"]) != before:
        raise InvalidPlugin("compute() changed the run it was handed")


@METRIC.promise(
    "direction",
    "Say better='higher' or 'lower' as it is; 'neither' for a number that ranks nothing.",
    needs=("value",),
)
def _(plugin: MetricUnderTest) -> None:
    """If it judges quality, the true heads in front are no worse than the true heads behind."""
    if plugin.metric.kind != "quality" or not plugin.metric.sign:
        return
    best, worst = (plugin.metric.of(plugin.ranked(first)) for first in (True, False))
    if best is not None and worst is not None and plugin.metric.sign * (best - worst) < 0:
        raise InvalidPlugin(
            f"it says {plugin.metric.better} is better, but finding exactly the true heads gives "
            f"{best:.3g} and exactly the others {worst:.3g}"
        )
