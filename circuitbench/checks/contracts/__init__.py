"""The contracts of plug-ins: run them on yours before you publish it.

``check_method``, ``check_task``, ``check_model`` and ``check_metric`` raise
:class:`InvalidPlugin` at the first promise that is broken and return nothing otherwise. A plug-in
need not have an :class:`~circuitbench.core.info.Info`; :class:`UndescribedPlugin` warns of one
that has none, and one that is wrong is refused. Ours pass the same checks in the test suite.
``circuitbench check NAME`` shows all promises at once.
"""

from __future__ import annotations

from collections.abc import Callable

from circuitbench.checks.contracts.contract import Contract, Finding, Promise, UndescribedPlugin
from circuitbench.checks.contracts.methods import METHOD, MethodUnderTest
from circuitbench.checks.contracts.metrics import METRIC, MetricUnderTest
from circuitbench.checks.contracts.models import MODEL, ModelUnderTest
from circuitbench.checks.contracts.tasks import TASK, TaskUnderTest
from circuitbench.checks.contracts.toys import ToyTask, toy_model
from circuitbench.evaluation.metric import Metric
from circuitbench.models import Model, ModelFactory
from circuitbench.plugins.method import Method
from circuitbench.tasks.base import Task

__all__ = [
    "METHOD",
    "METRIC",
    "MODEL",
    "TASK",
    "Contract",
    "Finding",
    "MethodUnderTest",
    "MetricUnderTest",
    "ModelUnderTest",
    "Promise",
    "TaskUnderTest",
    "ToyTask",
    "UndescribedPlugin",
    "check_method",
    "check_metric",
    "check_model",
    "check_task",
    "toy_model",
]


def check_method(make: Callable[[], Method], budget: int = 7) -> None:
    """Check that what ``make`` returns keeps the contract of :class:`Method`.

    The method is run on a toy model several times, so give one that learns few steps. The
    promises are those of :mod:`circuitbench.checks.contracts.methods`.

    Args:
        make: a class whose fields all have defaults, or a function without arguments.
        budget: queries of the budgeted run.

    Raises:
        InvalidPlugin: naming the broken promise.
    """
    METHOD.insist(MethodUnderTest(make, budget))


def check_task(task: Task, model: Model, n: int = 16) -> None:
    """Check that ``task`` keeps the contract of :class:`Task` on ``model``.

    The promises are those of :mod:`circuitbench.checks.contracts.tasks`; ``n`` prompts are drawn.

    Raises:
        InvalidPlugin: naming the broken promise.
    """
    TASK.insist(TaskUnderTest(task, model, n))


def check_model(factory: ModelFactory) -> None:
    """Check that ``factory`` keeps the contract of :class:`ModelFactory`, without a variant.

    The promises are those of :mod:`circuitbench.checks.contracts.models`.

    Raises:
        InvalidPlugin: naming the broken promise.
        ModelUnavailable: the weights are not on this machine.
    """
    MODEL.insist(ModelUnderTest(factory))


def check_metric(metric: Metric) -> None:
    """Check that ``metric`` keeps the contract of :class:`Metric`, on made-up runs.

    The promises are those of :mod:`circuitbench.checks.contracts.metrics`.

    Raises:
        InvalidPlugin: naming the broken promise.
    """
    METRIC.insist(MetricUnderTest(metric))
