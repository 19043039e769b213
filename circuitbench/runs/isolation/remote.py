"""The oracle that a method holds in a process of its own: it asks the real one, elsewhere.

Same face, same answers, same errors. What is not on the other side of a question (model, task,
truth, engine, prompts) is not in this process at all.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from circuitbench.core.edges import graph_of
from circuitbench.oracle import Batch, Damages, EdgeOracle, Meter, Oracle
from circuitbench.oracle.account import Account
from circuitbench.oracle.derivatives import Derivatives
from circuitbench.oracle.paths import CLEAN, Path

# What may be asked. A test holds these against the public methods of both oracles.
HEAD_QUESTIONS = frozenset({"differentiate", "draw", "gradient", "lookup", "query"})
EDGE_QUESTIONS = frozenset({"attribution", "differentiate", "gradient", "proximity", "query"})
EDGE_VALUES = frozenset({"offsets_shape", "spans"})
BATCH_QUESTIONS = frozenset({"accuracy", "control_loss", "metric"})

# What a method is told for nothing, with every oracle.
TOLD = ("task_name", "ablation", "weight", "batch_size", "pool", "n_layers", "n_heads", "precision")
COUNTERS = tuple(vars(Meter()))


class Line(Protocol):
    """Carries a question to the other side and brings the answer."""

    def ask(self, of: str, name: str, /, *args: Any, **options: Any) -> Any:
        """Ask ``name`` of a part (``heads``, ``edges``, ``batch``, ``together``)."""
        ...

    def let_go(self, batch: int) -> None:
        """Say that nobody holds a batch any more."""
        ...


class Engine:
    """Stands for an engine: two oracles that have the same one can be asked together."""


class RemoteMeter(Meter):
    """A meter to read: the counting is done elsewhere, and what is written here is overwritten."""

    def __init__(self, number: int, line: Line) -> None:
        super().__init__()
        self._number, self._line = number, line

    def at_least(self, counts: Mapping[str, float]) -> None:
        """Ask for :meth:`Meter.at_least` on the other side."""
        self._line.ask("meter", "at_least", self._number, dict(counts))


class RemoteBatch(Batch):
    """A handle of a batch that is elsewhere."""

    def __init__(self, number: int, seed: int, size: int, line: Line) -> None:
        self.number, self.seed, self._size, self._line = number, seed, size, line
        weakref.finalize(self, line.let_go, number).atexit = False

    def __repr__(self) -> str:
        return f"Batch(seed={self.seed})"

    def __len__(self) -> int:
        return self._size

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a batch's {name!r} is not shown to methods")

    @cached_property
    def metric(self) -> float:
        """The intact model's task metric, mean over the prompts (logit units)."""
        return float(self._line.ask("batch", "metric", self))

    @cached_property
    def control_loss(self) -> float:
        """The intact model's control loss (nats/token)."""
        return float(self._line.ask("batch", "control_loss", self))

    @cached_property
    def accuracy(self) -> float:
        """Share of the read positions where the intact model's top choice is a right answer."""
        return float(self._line.ask("batch", "accuracy", self))


class RemoteOracle(Oracle):
    """The face of an :class:`Oracle` that is elsewhere.

    Args:
        number: which of the other side's oracles.
        told: what a method is told for nothing (:data:`TOLD`, and the budget).
        meter: mirrors the other side's.
        engine: an :class:`Engine`, shared by the oracles that share one there.
        batch: the current batch.
        line: carries questions.
    """

    def __init__(
        self,
        number: int,
        told: Mapping[str, Any],
        meter: Meter,
        engine: Any,
        batch: Batch,
        line: Line,
    ) -> None:
        for name in TOLD:
            setattr(self, name, told[name])
        self.number, self._line = number, line
        self.engine = engine
        self._account = Account(meter, told["budget"], engine, self.n_layers * self.n_heads)
        self.batch = batch

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"an oracle's {name!r} is not shown to methods")

    @cached_property
    def edges(self) -> EdgeOracle:
        """See :attr:`Oracle.edges`."""
        return RemoteEdges(self, bool(self._line.ask("edges", "mlps", self)))

    def draw(self, seed: int) -> Batch:
        """See :meth:`Oracle.draw`."""
        batch: Batch = self._line.ask("heads", "draw", self, seed)
        return batch

    def query(self, masks: Tensor, **options: Any) -> Damages:
        """See :meth:`Oracle.query`."""
        damages: Damages = self._ask("query", masks, options)
        return damages

    def lookup(self, masks: Tensor, **options: Any) -> Damages | None:
        """See :meth:`Oracle.lookup`."""
        damages: Damages | None = self._ask("lookup", masks, options)
        return damages

    def gradient(self, masks: Tensor, **options: Any) -> Tensor:
        """See :meth:`Oracle.gradient`."""
        gradient: Tensor = self._ask("gradient", masks, options)
        return gradient

    def differentiate(self, masks: Tensor, **options: Any) -> Derivatives:
        """See :meth:`Oracle.differentiate`."""
        found: Derivatives = self._ask("differentiate", masks, options)
        return found

    @classmethod
    def _together(
        cls, requests: Sequence[tuple[Oracle, Tensor, Batch]], control: bool
    ) -> list[Damages]:
        first = requests[0][0]
        assert isinstance(first, RemoteOracle)
        oracles, masks, batches = (list(column) for column in zip(*requests, strict=True))
        kept = torch.stack([torch.as_tensor(mask) for mask in masks])
        # One array each way, not one per request: learners ask this thousands of times.
        task, loss = first._line.ask("together", "query", oracles, kept, batches, control=control)
        return [
            Damages(task[i : i + 1], None if loss is None else loss[i : i + 1], oracle.weight)
            for i, oracle in enumerate(oracles)
        ]

    def _ask(self, name: str, masks: Tensor, options: dict[str, Any]) -> Any:
        if options.get("batch") is None:
            options["batch"] = self.batch
        return self._line.ask("heads", name, self, masks, **options)


class RemoteEdges(EdgeOracle):
    """The face of an :class:`EdgeOracle` that is elsewhere."""

    def __init__(self, oracle: RemoteOracle, mlps: bool) -> None:
        self._oracle: RemoteOracle = oracle
        self.graph = graph_of(*oracle.shape, mlps)

    def query(self, masks: Tensor, **options: Any) -> Damages:
        """See :meth:`EdgeOracle.query`."""
        damages: Damages = self._ask("query", options, masks)
        return damages

    def gradient(self, masks: Tensor, **options: Any) -> Tensor:
        """See :meth:`EdgeOracle.gradient`."""
        gradient: Tensor = self._ask("gradient", options, masks)
        return gradient

    def differentiate(self, masks: Tensor, **options: Any) -> Derivatives:
        """See :meth:`EdgeOracle.differentiate`."""
        found: Derivatives = self._ask("differentiate", options, masks)
        return found

    def proximity(self, **options: Any) -> Tensor:
        """See :meth:`EdgeOracle.proximity`."""
        shares: Tensor = self._ask("proximity", options)
        return shares

    def attribution(self, path: Path = CLEAN, **options: Any) -> Tensor:
        """See :meth:`EdgeOracle.attribution`."""
        attributions: Tensor = self._ask("attribution", options, path)
        return attributions

    @property
    def offsets_shape(self) -> tuple[int, int]:
        """See :attr:`EdgeOracle.offsets_shape`."""
        n_senders, d_model = self._oracle._line.ask("edges", "offsets_shape", self._oracle)
        return int(n_senders), int(d_model)

    @property
    def spans(self) -> tuple[str, ...]:
        """See :attr:`EdgeOracle.spans`."""
        return tuple(self._oracle._line.ask("edges", "spans", self._oracle))

    @classmethod
    def _together(
        cls, requests: Sequence[tuple[EdgeOracle, Tensor, Batch]], ablation: str | None, kl: bool
    ) -> list[Damages]:
        oracles = [edges._oracle for edges, _, _ in requests if isinstance(edges, RemoteEdges)]
        masks = [torch.as_tensor(mask) for _, mask, _ in requests]
        batches = [batch for _, _, batch in requests]
        task, divergences = oracles[0]._line.ask(
            "together", "edges", oracles, masks, batches, ablation=ablation, kl=kl
        )
        return [
            Damages(
                task[i : i + 1],
                None,
                oracle.weight,
                kl=None if divergences is None else divergences[i : i + 1],
            )
            for i, oracle in enumerate(oracles)
        ]

    def _ask(self, name: str, options: dict[str, Any], *args: Any) -> Any:
        if options.get("batch") is None:
            options["batch"] = self._oracle.batch
        return self._oracle._line.ask("edges", name, self._oracle, *args, **options)
