"""What the rest of the project knows of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from circuitbench.core.errors import InvalidSpec
from circuitbench.models.limits import DEFAULT_LIMITS, Limits
from circuitbench.models.storage import write
from circuitbench.models.transformer import Transformer


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Args:
        name: as asked for, e.g. ``planted`` or ``planted@3``.
        n_layers, n_heads: the grid of attention heads.
        transformer: plain weights, or None where the architecture is not one the engine knows;
            then ``hooked`` must be given and every forward pass goes through hooks.
        hooked: an already loaded transformer_lens model, or None (see
            :func:`circuitbench.models.pretrained.to_transformer_lens` to make one).
        hooked_because: why there are no plain weights, for the warning that says so.
        construction: what a task needs to draw prompts for this model and to state its truth
            (the planted model's vocabulary and roles, a tokenizer, a compiled program).
        provenance: JSON-able facts that go into every record (seed, revision, processing).
        dials: JSON-able settings it was built with, shown on a task's health card.
        limits: what its tasks keep to in the health gate.
        uniform_loss: loss of a uniform guess at a word of control text, in nats; None where every
            token of the vocabulary may come next.
    """

    name: str
    n_layers: int
    n_heads: int
    transformer: Transformer | None
    hooked: Any = None
    hooked_because: str = ""
    construction: Any = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    dials: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = DEFAULT_LIMITS
    uniform_loss: float | None = None

    def save(self, folder: Path | str) -> None:
        """Write weights, config and tokenizer into a folder, to be loaded as ``folder:PATH``.

        Raises :class:`InvalidSpec` for a folder that is not empty or cannot be written, and for
        a model that has no plain weights.
        """
        if self.transformer is None:
            raise InvalidSpec(f"{self.name} has no plain weights to save: {self.hooked_because}")
        write(self.transformer, Path(folder), self.provenance)
        save = getattr(self.construction, "save", None)
        if callable(save):
            save(Path(folder))


class ModelFactory(Protocol):
    """The contract of the entry-point group ``circuitbench.models``.

    The entry point's name is the model's; what follows ``@`` in a request is ``variant``
    (for embedded models the seed they are built from, ``""`` meaning 0).
    """

    def __call__(self, variant: str = "") -> Model:
        """Build or load the model on the CPU; raise :class:`ModelUnavailable` if it can't be."""
        ...
