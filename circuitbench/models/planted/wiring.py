"""How a planted head or MLP is written: its maps on features, and what they are written with.

A head is a sum of query-key terms and a sum of value-output terms. With features ``x`` of the
query position and ``y`` of a key position, its score is ``sum (x Q) . (y K)`` and it writes
``sum (y V) O`` averaged over its attention. Every head that has nothing to do rests on BOS,
whose value is zero: its *sink* score is the threshold it has to overcome.

An MLP is a set of neurons ``relu(x R + b) W``: with one step per value of a block, a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from circuitbench.models.planted.fading import Division
from circuitbench.models.planted.features import FeatureSpace
from circuitbench.models.planted.language import Language

T = TypeVar("T")
Mode = Literal["and", "or"]
Term = tuple[np.ndarray, np.ndarray]


class Copies(NamedTuple):
    """How many heads play a role. ``and``: they share the work; ``or``: any of them suffices."""

    n: int
    mode: Mode = "and"


@dataclass(frozen=True)
class HeadMaps:
    """One head on features: ``qk`` pairs of ``[size, k]``, ``ov`` of ``[size, k], [k, size]``.

    ``sleep`` are more pairs of ``qk``, those that put a stand-in to sleep.
    """

    qk: tuple[Term, ...]
    ov: tuple[Term, ...]
    sleep: tuple[Term, ...] = ()

    @property
    def scores(self) -> tuple[Term, ...]:
        """All terms of its attention scores."""
        return self.qk + self.sleep

    def __call__(self, stream: np.ndarray) -> np.ndarray:
        """What it writes, ``[n, pos, size]``, on a stream of features of that shape."""
        scores = sum((stream @ q) @ (stream @ k).swapaxes(1, 2) for q, k in self.qk)
        later = np.triu(np.ones(stream.shape[1:2] * 2, dtype=bool), 1)
        scores = np.where(later, -np.inf, scores)
        pattern = np.exp(scores - scores.max(-1, keepdims=True))
        pattern /= pattern.sum(-1, keepdims=True)
        return np.asarray(sum(pattern @ (stream @ value) @ output for value, output in self.ov))

    @property
    def width(self) -> int:
        """The head dimension these maps need."""
        return int(
            max(sum(q.shape[1] for q, _ in self.scores), sum(v.shape[1] for v, _ in self.ov))
        )


@dataclass(frozen=True)
class MLPMaps:
    """One MLP on features: ``relu(x @ read + bias) @ write``, n neurons.

    ``read [size, n]``, ``bias [n]``, ``write [n, size]``.
    """

    read: np.ndarray
    bias: np.ndarray
    write: np.ndarray

    def __call__(self, stream: np.ndarray) -> np.ndarray:
        """What it writes on a stream of features ``[..., size]``, of the same shape."""
        return np.asarray(np.maximum(stream @ self.read + self.bias, 0.0) @ self.write)


@dataclass(frozen=True)
class Wiring:
    """Everything a role needs to know to write its maps (strengths as in ``PlantedConfig``)."""

    roles: Mapping[str, Copies]
    space: FeatureSpace
    language: Language
    sharpness: float
    gain: float
    inhibition: float
    negative: float
    repair: float
    out_scale: float
    shared_tasks: bool
    shared_language: bool
    softness: float | None = None
    paths: tuple[float, ...] = (1.0,)
    divisions: Mapping[str, Division] = field(default_factory=dict)
    repairs: Mapping[str, float] = field(default_factory=dict)
    hurts: Mapping[str, float] = field(default_factory=dict)
    mlps: Mapping[str, int] = field(default_factory=dict)

    def copies(self, role: str) -> Copies:
        """Copies of a role; one where the model has none (its readers then stay silent)."""
        return self.roles.get(role, Copies(1))

    def share(self, role: str, copy: int) -> float:
        """What a copy writes: all of it (``or``), or its part (``and``)."""
        if role in self.divisions:
            return float(self.divisions[role].strength[copy])
        count, mode = self.copies(role)
        return 1.0 if mode == "or" else 1.0 / count

    def total(self, role: str) -> float:
        """What all copies write together."""
        if role in self.divisions:
            return float(self.divisions[role].strength.sum())
        return self.share(role, 0) * self.copies(role).n

    def served(self, role: str, copy: int, group: str) -> np.ndarray:
        """Selector ``[size, tokens]`` of the token of a group, weighted as a copy serves it."""
        selector = self.space.read(f"tok_{group}")
        if role in self.divisions:
            selector = np.asarray(selector * self.divisions[role].serves[copy])
        return selector

    def seen(self, role: str, copy: int, group: str) -> np.ndarray:
        """Selector ``[size, 1]`` of a group's flag, weighted as a copy serves the token."""
        if role in self.divisions:
            return np.asarray(self.served(role, copy, group).sum(1, keepdims=True))
        return self.space.read(group)

    def threshold(self, *roles: str) -> float:
        """The level between "written in full" and "one needed copy is missing".

        Half of what is needed where circuits fade.
        """
        if self.softness is not None:
            return 0.5
        return max(1.0 - 0.5 / self.parts(role) for role in roles)

    def scale(self, *roles: str) -> float:
        """Attention sharpness that keeps the same margin however many copies share the work.

        Lower, and the same for any number of copies, where circuits fade.
        """
        if self.softness is not None:
            return self.sharpness * self.softness
        return self.sharpness * max(self.parts(role) for role in roles)

    def parts(self, role: str) -> int:
        """Into how many parts a role's work is divided, all of them needed."""
        count, mode = self.copies(role)
        return 1 if mode == "or" else count

    def on_path(self, path: int) -> Wiring:
        """The wiring of one of several parallel circuits, whose roles have the plain names."""
        end = f"_{path}"

        def own(everything: Mapping[str, T]) -> dict[str, T]:
            return {k.removesuffix(end): v for k, v in everything.items() if k.endswith(end)}

        return replace(
            self,
            roles=own(self.roles),
            space=self.space.on_path(path),
            gain=self.gain * self.paths[path - 1] / self.paths[0],
            divisions=own(self.divisions),
            repairs=own(self.repairs),
            hurts=own(self.hurts),
        )

    def alone(self, role: str, part: Division) -> Wiring:
        """The wiring in which a role is a single head that does ``part`` of its work."""
        return replace(
            self,
            roles={**self.roles, role: Copies(1)},
            divisions={**self.divisions, role: part},
        )

    def steps(self, block: str, table: np.ndarray, parts: int = 1) -> MLPMaps:
        """Neurons that write row ``i`` of ``table [width, size]`` where feature ``i`` is on.

        Two neurons make a step: 0 up to 3/4 of a part below 1, and 1 from 1/4 of it on, where a
        part is ``1 / parts``. So noise does not pass, nothing is written while one of ``parts``
        writers of the block is missing, and twice the feature writes no more than once.
        """
        read, part = self.space.read(block), 1.0 / parts
        low, slope = 1.0 - 0.75 * part, 2.0 / part
        bias = np.full(read.shape[1], -low * slope)
        return MLPMaps(
            np.hstack([read, read]) * slope,
            np.concatenate([bias, bias - 1.0]),
            np.vstack([table, -table]),
        )

    def at_offset(self, offset: int, strength: float) -> Term:
        """Score ``strength`` on the key ``offset`` positions back (side lobes elsewhere)."""
        pos = self.space.read("pos")
        return strength * pos @ self.space.shift(offset), pos

    def sink(self, level: float, **gates: float) -> Term:
        """Score on BOS: ``level``, changed by the query's flags (``param=-8.0``: less there)."""
        query = level * self.space.read("one")
        for flag, change in gates.items():
            query = query + change * self.space.read(flag)
        return query, self.space.read("bos")

    def logits(self, group: str, strength: float = 1.0) -> np.ndarray:
        """Injector into the logits of a token group, in logit units."""
        return strength * self.out_scale * self.space.write(f"out_{group}")

    def copied(self, role: str, copy: int) -> Term:
        """A copy writes the name it attends to into the logits."""
        strength = self.share(role, copy) * self.gain
        return self.served(role, copy, "name"), self.logits("name", strength)

    def kept(self, role: str, copy: int, group: str) -> Term:
        """A copy keeps the token it attends to for a later head."""
        written = self.share(role, copy) * self.space.write(f"hop_{group}")
        return self.served(role, copy, group), written

    def previous(self, task: str) -> tuple[str, str]:
        """The role that serves ``task`` as previous-token head, and the block it writes."""
        if self.shared_tasks or task == "induction":
            return "previous_token", "prev"
        if task == "two-hop":
            return "chain_previous_token", "chain_prev"
        return "argument_previous_token", "argument_prev"
