"""What a method is: something that asks the oracle and says which heads carry the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from circuitbench.core.discovery import Discovery
from circuitbench.oracle import Oracle


@runtime_checkable
class Method(Protocol):
    """The contract of the entry-point group ``circuitbench.methods``.

    A method is a dataclass whose fields are its hyperparameters, all with defaults. The entry
    point's name is the method's name. See :func:`circuitbench.checks.contracts.check_method`.
    """

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """Ask ``oracle``, draw only from ``rng``, return a :class:`Discovery`."""
        ...


@runtime_checkable
class TrainableMethod(Method, Protocol):
    """A method that learns over tasks first; what training costs is metered apart."""

    def train(self, oracles: Sequence[Oracle], rng: np.random.Generator) -> None:
        """Learn on the training oracles (other prompts than those of ``discover``)."""
        ...
