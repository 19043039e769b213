"""Benchmarks how well a method finds the circuit inside a transformer.

This is the public face: everything a method, a task, a model or a script needs. A name is
imported when it is first used, so ``import circuitbench`` is cheap and brings no torch::

    import circuitbench

    found = circuitbench.run("acdc", task="ioi", seed=0)
    print(found.selected, found.metrics["average_precision"])

    task = circuitbench.load_task("ioi")
    model = circuitbench.load_model(task.default_model)
    oracle = circuitbench.Oracle(model, task, task_name="ioi", seed=0)
    method = circuitbench.load_method("acdc", threshold=0.1)
    discovery = method.discover(oracle, circuitbench.generator(0, "method"))
    scores = circuitbench.evaluate(discovery, task.truth(model))

See docs/python.md.
"""

import ast
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from circuitbench.core.version import __version__ as __version__

if TYPE_CHECKING:  # one list, for type checkers, for editors and for `_homes`
    from circuitbench.checks.contracts import check_method as check_method
    from circuitbench.checks.contracts import check_metric as check_metric
    from circuitbench.checks.contracts import check_model as check_model
    from circuitbench.checks.contracts import check_task as check_task
    from circuitbench.core.circuit import Circuit as Circuit
    from circuitbench.core.circuit import Direction as Direction
    from circuitbench.core.circuit import Edge as Edge
    from circuitbench.core.circuit import Head as Head
    from circuitbench.core.circuit import Role as Role
    from circuitbench.core.circuit import head_grid as head_grid
    from circuitbench.core.circuit import heads_of as heads_of
    from circuitbench.core.discovery import Discovery as Discovery
    from circuitbench.core.discovery import TracePoint as TracePoint
    from circuitbench.core.errors import BudgetExceeded as BudgetExceeded
    from circuitbench.core.errors import CircuitBenchError as CircuitBenchError
    from circuitbench.core.errors import CorruptRecord as CorruptRecord
    from circuitbench.core.errors import InvalidPlugin as InvalidPlugin
    from circuitbench.core.errors import InvalidSpec as InvalidSpec
    from circuitbench.core.errors import ModelUnavailable as ModelUnavailable
    from circuitbench.core.errors import RunFailed as RunFailed
    from circuitbench.core.errors import UnknownName as UnknownName
    from circuitbench.core.extras import MissingExtra as MissingExtra
    from circuitbench.core.extras import needs_extra as needs_extra
    from circuitbench.core.info import Info as Info
    from circuitbench.core.seeding import derive_seed as derive_seed
    from circuitbench.core.seeding import generator as generator
    from circuitbench.evaluation.against_truth.evaluate import evaluate as evaluate
    from circuitbench.evaluation.metrics import Metric as Metric
    from circuitbench.evaluation.metrics import metrics as metrics
    from circuitbench.evaluation.outcome import Outcome as Outcome
    from circuitbench.models.base import Model as Model
    from circuitbench.models.checkpoints.plain import from_weights as from_weights
    from circuitbench.models.limits import Limits as Limits
    from circuitbench.models.transformer import LayerWeights as LayerWeights
    from circuitbench.models.transformer import Transformer as Transformer
    from circuitbench.models.transformer import TransformerConfig as TransformerConfig
    from circuitbench.oracle.ablations import ABLATIONS as ABLATIONS
    from circuitbench.oracle.ablations import Ablation as Ablation
    from circuitbench.oracle.ablations import AblationName as AblationName
    from circuitbench.oracle.batch import Batch as Batch
    from circuitbench.oracle.damages import Damages as Damages
    from circuitbench.oracle.derivatives import GRADIENT_COST as GRADIENT_COST
    from circuitbench.oracle.derivatives import Derivatives as Derivatives
    from circuitbench.oracle.derivatives import derivatives_cost as derivatives_cost
    from circuitbench.oracle.edges import EdgeOracle as EdgeOracle
    from circuitbench.oracle.edges import query_edges_together as query_edges_together
    from circuitbench.oracle.heads import Oracle as Oracle
    from circuitbench.oracle.heads import query_together as query_together
    from circuitbench.oracle.meter import Meter as Meter
    from circuitbench.oracle.paths import GradPath as GradPath
    from circuitbench.oracle.paths import Straight as Straight
    from circuitbench.oracle.rules import RULES as RULES
    from circuitbench.oracle.rules import Rule as Rule
    from circuitbench.oracle.rules import RuleName as RuleName
    from circuitbench.oracle.rules import rule_named as rule_named
    from circuitbench.plugins.method import Curriculum as Curriculum
    from circuitbench.plugins.method import Learner as Learner
    from circuitbench.plugins.method import Method as Method
    from circuitbench.plugins.method import TrainableMethod as TrainableMethod
    from circuitbench.plugins.method import TrainingTools as TrainingTools
    from circuitbench.plugins.method import track_of as track_of
    from circuitbench.plugins.registry import describe as describe
    from circuitbench.plugins.registry import list_plugins as list_plugins
    from circuitbench.plugins.registry import load_model as load_model
    from circuitbench.plugins.registry import load_task as load_task
    from circuitbench.plugins.registry import method_class as method_class
    from circuitbench.results.comparison import SideBySide as SideBySide
    from circuitbench.results.record import Record as Record
    from circuitbench.results.result import Result as Result
    from circuitbench.results.store import read_folder as read_folder
    from circuitbench.results.store import read_record as read_record
    from circuitbench.runs.face import compare as compare
    from circuitbench.runs.face import run as run
    from circuitbench.runs.prepare import load_method as load_method
    from circuitbench.runs.spec import RunSpec as RunSpec
    from circuitbench.tasks.base import Prompts as Prompts
    from circuitbench.tasks.base import Task as Task
    from circuitbench.tasks.base import answer_against as answer_against
    from circuitbench.tasks.base import spans_at as spans_at


@cache
def _homes() -> dict[str, str]:
    """The module of every public name, as the block above states it."""
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    (block,) = (n for n in tree.body if isinstance(n, ast.If) and isinstance(n.test, ast.Name))
    imports = (node for node in block.body if isinstance(node, ast.ImportFrom))
    return {alias.name: str(node.module) for node in imports for alias in node.names}


if not TYPE_CHECKING:  # a type checker knows all names, and should refuse others

    def __getattr__(name: str) -> object:
        if name == "__all__":
            return ["__version__", *_homes()]
        if name not in _homes():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_homes()[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_homes()})
