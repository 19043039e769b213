"""What a method is: something that asks the oracle and says which heads carry the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from circuitbench.circuit import Edge, Head

if TYPE_CHECKING:
    from circuitbench.oracle import AblationOracle


@dataclass(frozen=True)
class TracePoint:
    """The best ranking a method could have given after ``queries`` queries."""

    queries: int
    scores: np.ndarray  # [n_layers, n_heads]


@dataclass(frozen=True)
class Discovery:
    """A method's answer; complete without knowing the size of the true circuit.

    Args:
        scores: ``[n_layers, n_heads]``, finite; higher = more surely in the circuit.
        selected: the heads the method commits to.
        edges: optional score per edge.
        trace: optional ranking after q queries, q increasing.
        info: optional JSON-able extras (learning curves, chosen thresholds).
    """

    scores: np.ndarray
    selected: frozenset[Head]
    edges: Mapping[Edge, float] | None = None
    trace: Sequence[TracePoint] = ()
    info: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Method(Protocol):
    """The contract of the entry-point group ``circuitbench.methods``.

    A method is a dataclass whose fields are its hyperparameters, all with defaults. The entry
    point's name is the method's name. See :func:`circuitbench.check.check_method`.
    """

    def discover(self, oracle: AblationOracle, rng: np.random.Generator) -> Discovery:
        """Ask ``oracle``, draw only from ``rng``, return a :class:`Discovery`."""
        ...


@runtime_checkable
class TrainableMethod(Method, Protocol):
    """A method that learns over tasks first; what training costs is metered apart."""

    def train(self, oracles: Sequence[AblationOracle], rng: np.random.Generator) -> None:
        """Learn on the training oracles (other prompts than those of ``discover``)."""
        ...
