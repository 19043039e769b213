"""The parts a compiled transformer is made of, in the plain basis: one head, one MLP step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from circuitbench.core.errors import InvalidSpec
from circuitbench.models.compiled.rasp import Aggregate, Map, Program, Sequence, Width

SHARPNESS = 30.0
"""Score difference between a selected key and BOS, twice over: leaks are below e^-15 a key."""


@dataclass(frozen=True)
class HeadMatrices:
    """One head: ``W_Q``/``W_K [d, k]``, ``b_Q [k]``, ``W_V [d, v]``, ``W_O [v, d]``; ``k`` and
    ``v`` differ from head to head.
    """

    W_Q: np.ndarray
    W_K: np.ndarray
    b_Q: np.ndarray
    W_V: np.ndarray
    W_O: np.ndarray


@dataclass(frozen=True)
class Neurons:
    """Part of an MLP: ``W_in [d, n]``, ``b_in [n]``, ``W_out [n, d]``."""

    W_in: np.ndarray
    b_in: np.ndarray
    W_out: np.ndarray

    @classmethod
    def join(cls, parts: Iterable[Neurons], d: int) -> Neurons:
        """All neurons side by side; none at all if there are no parts."""
        every = [cls(np.zeros((d, 0)), np.zeros(0), np.zeros((0, d))), *parts]
        return cls(
            np.concatenate([part.W_in for part in every], axis=1),
            np.concatenate([part.b_in for part in every]),
            np.concatenate([part.W_out for part in every]),
        )


class Layout:
    """Which directions of the residual stream belong to what.

    BOS has one, every value of every sequence has one, and the share of BOS in each count has one.
    Every word has two: as the current word and as the one before. Heads that do nothing write to
    ``spare``, which nothing reads.
    """

    def __init__(self, program: Program, n_words: int, d_model: int | None) -> None:
        self.width = 0
        self.bos = self._add(1)
        sequences = (program.tokens, program.positions, *(step.out for step in program.steps))
        self._places = {id(x): self._add(len(x.values)) for x in sequences}
        self._shares = {id(x): self._add(1) for x in program.steps if isinstance(x, Width)}
        self.word, self.word_before = self._add(n_words), self._add(n_words)
        needed = self.width + 2
        width = self.width + 8 if d_model is None else d_model
        if width < needed:
            raise InvalidSpec(
                f"d_model {width} is too small: the program needs {needed} (one direction for "
                "each value of each sequence, and 2 for the padding)"
            )
        self.n_spare = width - self.width
        self.spare = self._add(self.n_spare)

    def _add(self, size: int) -> slice:
        self.width += size
        return slice(self.width - size, self.width)

    def of(self, sequence: Sequence) -> slice:
        """The directions of a sequence's values, in their order."""
        return self._places[id(sequence)]

    def share(self, step: Width) -> slice:
        """Where the head of a count writes BOS's share."""
        return self._shares[id(step)]


def program_head(step: Aggregate | Width, layout: Layout) -> HeadMatrices:
    """Attend as ``step.select`` says, or rest on BOS; copy the value, or BOS's mark."""
    d, select = layout.width, step.select
    scores = np.array(select.scores())
    keys = layout.of(select.key)
    # The last of the head's dimensions is BOS against the rest.
    if select.query is None:
        W_Q, W_K, b_Q = np.zeros((d, 2)), np.zeros((d, 2)), np.array([1.0, 1.0])
        W_K[keys, 0] = scores[0]
    else:
        # Dimensions stand for the values of the smaller side.
        inner = min(scores.shape)
        W_Q, W_K, b_Q = np.zeros((d, inner + 1)), np.zeros((d, inner + 1)), np.zeros(inner + 1)
        queries = layout.of(select.query)
        small = scores.shape[0] == inner
        W_Q[queries, :inner] = np.eye(inner) if small else scores
        W_K[keys, :inner] = scores.T if small else np.eye(inner)
        b_Q[-1] = 1.0
    # A count shares between BOS and the selected keys; a copy rests there only in need.
    W_K[layout.bos, -1] = 1.0 if isinstance(step, Width) else 0.5
    if isinstance(step, Width):
        W_V, W_O = np.zeros((d, 1)), np.zeros((1, d))
        W_V[layout.bos, 0] = 1.0
        W_O[0, layout.share(step)] = 1.0
    else:
        size = len(step.value.values)
        W_V, W_O = np.zeros((d, size)), np.zeros((size, d))
        W_V[layout.of(step.value), :] = np.eye(size)
        W_O[:, layout.of(step.out)] = np.eye(size)
        if step.default is not None:
            W_V[layout.bos, step.value.values.index(step.default)] = 1.0
    return HeadMatrices(W_Q * SHARPNESS, W_K, b_Q * SHARPNESS, W_V, W_O)


def language_head(program: Program, layout: Layout) -> HeadMatrices:
    """Copy the word one place back to where the language's long range is read."""
    d, length = layout.width, program.length
    n_words = layout.word.stop - layout.word.start
    places = layout.of(program.positions)
    W_Q, W_K = np.zeros((d, length + 1)), np.zeros((d, length + 1))
    W_Q[places, :length] = np.eye(length, k=-1)
    W_K[places, :length] = np.eye(length)
    W_K[layout.bos, -1] = 0.5
    b_Q = np.zeros(length + 1)
    b_Q[-1] = 1.0
    W_V, W_O = np.zeros((d, n_words)), np.zeros((n_words, d))
    W_V[layout.word, :] = np.eye(n_words)
    W_O[:, layout.word_before] = np.eye(n_words)
    return HeadMatrices(W_Q * SHARPNESS, W_K, b_Q * SHARPNESS, W_V, W_O)


def look_alike(step: Aggregate | Width, layout: Layout, rng: np.random.Generator) -> HeadMatrices:
    """A program head's queries, keys and values, written where nothing reads."""
    real = program_head(step, layout)
    W_O = np.zeros_like(real.W_O)
    W_O[:, layout.spare] = rng.normal(0, 0.3, (len(W_O), layout.n_spare))
    return HeadMatrices(real.W_Q, real.W_K, real.b_Q, real.W_V, W_O)


def noise_head(layout: Layout, rng: np.random.Generator, inner: int = 4) -> HeadMatrices:
    """Random attention and values, written where nothing reads."""

    def reads() -> np.ndarray:
        # Not from the spare directions: noise fed on noise would grow from layer to layer.
        matrix = rng.normal(0.0, 1.0, (layout.width, inner))
        matrix[layout.spare] = 0.0
        return matrix

    W_O = np.zeros((inner, layout.width))
    W_O[:, layout.spare] = rng.normal(0.0, 0.3, (inner, layout.n_spare))
    return HeadMatrices(reads(), reads(), np.zeros(inner), reads(), W_O)


def idle_neurons(n: int, layout: Layout, rng: np.random.Generator) -> Neurons:
    """``n`` random neurons that write where nothing reads."""
    W_in, W_out = rng.normal(0, 0.3, (layout.width, n)), np.zeros((n, layout.width))
    W_in[layout.spare] = 0.0
    W_out[:, layout.spare] = rng.normal(0, 0.3, (n, layout.n_spare)) / max(n, 1) ** 0.5
    return Neurons(W_in, np.zeros(n), W_out)


def lookup(step: Map, layout: Layout) -> Neurons:
    """A neuron for each row of the table: 1 where all inputs agree with it, else 0."""
    d, n = layout.width, len(step.table)
    W_in, W_out = np.zeros((d, n)), np.zeros((n, d))
    out = layout.of(step.out).start
    for row, (values, result) in enumerate(step.table.items()):
        for sequence, value in zip(step.inputs, values, strict=True):
            W_in[layout.of(sequence).start + sequence.values.index(value), row] += 2.0
        W_out[row, out + step.out.values.index(result)] = 1.0
    return Neurons(W_in, np.full(n, 1.0 - 2.0 * len(step.inputs)), W_out)


def staircase(step: Width, layout: Layout) -> Neurons:
    """Read BOS's share ``1 / (1 + count)`` as one of ``most + 1`` numbers.

    Step ``j`` is a ramp, two neurons, that is 1 where the share is that of ``j`` or fewer,
    and as steep as the gap there asks for. It is held at 0 where the query is undefined, and
    at BOS.
    """
    d, most = layout.width, len(step.out.values) - 1
    share = 1.0 / (1.0 + np.arange(most + 2))
    out = layout.of(step.out).start
    W_in, W_out = np.zeros((d, 2 * most + 2)), np.zeros((2 * most + 2, d))
    b_in = np.zeros(2 * most + 2)
    for j in range(most + 1):
        steep = 2.0 / (share[j] - share[j + 1])
        edge = (share[j] + share[j + 1]) / 2
        for neuron, offset, sign in ((2 * j, 0.5, 1.0), (2 * j + 1, -0.5, -1.0)):
            W_in[layout.share(step), neuron] = steep
            W_in[layout.bos, neuron] = -steep
            b_in[neuron] = offset - steep * edge
            if step.select.query is not None:
                W_in[layout.of(step.select.query), neuron] = steep
                b_in[neuron] -= steep
            W_out[neuron, out + j] += sign
            if j < most:
                W_out[neuron, out + j + 1] -= sign
    return Neurons(W_in, b_in, W_out)
