"""What small models are trained to answer, in any way they like: no circuit is prescribed.

A puzzle draws prompts and counterfactuals and knows the answers. Two are the questions of
:mod:`~circuitbench.models.trained.algorithms` without their algorithm; the others are chains of
two steps and brackets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from circuitbench.models.trained.algorithms import (
    BOS,
    Algorithm,
    InductionAlgorithm,
    IOIAlgorithm,
    Pairs,
)


class Puzzle(Protocol):
    """Prompts of fixed length with an answer at some positions.

    The vocabulary is that of :class:`~circuitbench.models.trained.algorithms.Algorithm`: BOS,
    ``n_symbols`` symbols, the token ``none`` (no answer here), then words of ordinary text.
    """

    @property
    def n_symbols(self) -> int:
        """How many symbols there are."""
        ...

    @property
    def length(self) -> int:
        """Tokens of a prompt."""
        ...

    def draw(self, n: int, rng: np.random.Generator) -> Pairs:
        """``n`` prompts, their counterfactuals, and where answers are read."""
        ...

    def practice(self, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """What the model is trained on: ``n`` prompts and the positions that have an answer."""
        ...

    def answers(self, tokens: Tensor) -> Tensor:
        """The answer at each position ``[batch, pos]`` long, from ``tokens [batch, pos]``."""
        ...


@dataclass(frozen=True)
class QuestionOf:
    """What an algorithm answers, without the algorithm."""

    algorithm: Algorithm

    @property
    def n_symbols(self) -> int:
        """See :class:`Puzzle`."""
        return self.algorithm.n_symbols

    @property
    def length(self) -> int:
        """See :class:`Puzzle`."""
        return self.algorithm.length

    def draw(self, n: int, rng: np.random.Generator) -> Pairs:
        """See :class:`Puzzle`."""
        return self.algorithm.draw(n, rng)

    def practice(self, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """See :class:`Puzzle`."""
        pairs = self.draw(n, rng)
        return pairs.tokens, pairs.positions

    def answers(self, tokens: Tensor) -> Tensor:
        """See :class:`Puzzle`."""
        return self.algorithm.values(tokens)[list(self.algorithm.nodes)[-1]]


@dataclass(frozen=True)
class Chains:
    """Pairs ``x y`` in any order, then queries: where does the chain that starts here end?

    Two chains of two steps, ``a b`` and ``b c``. The queries are their first and middle symbols
    in any order; the task reads a first symbol, from which it takes two steps. In the
    counterfactual the chains have changed ends and the pairs another order.
    """

    n_symbols: int = 12
    length: int = 13

    def draw(self, n: int, rng: np.random.Generator) -> Pairs:
        """See :class:`Puzzle`."""
        tokens, other, queries = self._written(n, rng)
        return Pairs(tokens, other, 9 + (queries % 2).argsort(dim=1, stable=True)[:, :2])

    def practice(self, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """See :class:`Puzzle`; queries of one step too, without which two are not learned."""
        return self._written(n, rng)[0], torch.arange(9, 13).expand(n, -1)

    def answers(self, tokens: Tensor) -> Tensor:
        """See :class:`Puzzle`."""
        keys, values = tokens[:, 1:9:2], tokens[:, 2:9:2]
        end = tokens
        for _ in range(2):
            hit = end[:, :, None] == keys[:, None, :]
            found = values.gather(1, hit.long().argmax(-1))
            end = torch.where(hit.any(-1), found, end)
        return end

    def _written(self, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Prompts, counterfactuals, and which of ``a b a2 b2`` each query is ``[n, 4]``."""
        symbols = rng.permuted(np.tile(np.arange(1, self.n_symbols + 1), (n, 1)), axis=1)
        a, b, c, a2, b2, c2 = symbols[:, :6].T
        keys = np.stack([a, b, a2, b2], axis=1)
        queries = rng.permuted(np.tile(np.arange(4), (n, 1)), axis=1)
        crossed = rng.random(n) < 0.5

        def write(crossed: np.ndarray) -> Tensor:
            values = np.stack([np.where(crossed, b2, b), c, np.where(crossed, b, b2), c2], axis=1)
            order = rng.permuted(np.tile(np.arange(4), (n, 1)), axis=1)
            pairs = np.stack([np.take_along_axis(x, order, 1) for x in (keys, values)], axis=2)
            asked = np.take_along_axis(keys, queries, 1)
            return torch.from_numpy(
                np.concatenate([np.full((n, 1), BOS), pairs.reshape(n, 8), asked], axis=1)
            )

        return write(crossed), write(~crossed), torch.from_numpy(queries)


@dataclass(frozen=True)
class Brackets:
    """Brackets of three kinds, opened and closed in order: which closing one is due?

    Symbols 1 to 3 open, 4 to 6 close them. The answer at a position is the bracket that closes
    the innermost one still open, or ``none``. The counterfactual is another such sequence. The task
    reads where a bracket was closed just now: after one that opens, the answer needs no head.
    """

    kinds: int = 3
    length: int = 11
    deepest: int = 3

    @property
    def n_symbols(self) -> int:
        """See :class:`Puzzle`."""
        return 2 * self.kinds

    def draw(self, n: int, rng: np.random.Generator) -> Pairs:
        """See :class:`Puzzle`."""
        tokens, _ = self.practice(2 * n, rng)
        closed = (tokens[:n] > self.kinds).long()
        fewest = (self.length - self.deepest) // 2  # at most ``deepest`` brackets stay open
        positions = closed.argsort(dim=1, descending=True, stable=True)[:, :fewest]
        return Pairs(tokens[:n], tokens[n:], positions)

    def practice(self, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """See :class:`Puzzle`."""
        return self._sequences(n, rng), torch.arange(1, self.length).expand(n, -1)

    def answers(self, tokens: Tensor) -> Tensor:
        """See :class:`Puzzle`."""
        stack, depth = self._stacks(tokens.numpy())
        top = np.take_along_axis(stack, np.maximum(depth - 1, 0)[..., None], -1)[..., 0]
        return torch.from_numpy(np.where(depth > 0, top + self.kinds, self.n_symbols + 1))

    def _sequences(self, n: int, rng: np.random.Generator) -> Tensor:
        """``[n, length]``; a bracket is opened or the innermost one closed, evenly."""
        tokens = np.full((n, self.length), BOS)
        stack, depth = np.zeros((n, self.deepest + 1), dtype=np.int64), np.zeros(n, dtype=np.int64)
        rows = np.arange(n)
        for place in range(1, self.length):
            opens = (depth == 0) | ((depth < self.deepest) & (rng.random(n) < 0.5))
            kind = rng.integers(1, self.kinds + 1, size=n)
            tokens[:, place] = np.where(opens, kind, stack[rows, depth - 1] + self.kinds)
            stack[rows[opens], depth[opens]] = kind[opens]
            depth += np.where(opens, 1, -1)
        return torch.from_numpy(tokens)

    def _stacks(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """After each position the open brackets ``[n, pos, deepest + 1]``, and how many."""
        n, length = tokens.shape
        stacks = np.zeros((n, length, self.deepest + 1), dtype=np.int64)
        depths = np.zeros((n, length), dtype=np.int64)
        stack, depth = stacks[:, 0].copy(), depths[:, 0].copy()
        for place in range(1, length):
            opens = tokens[:, place] <= self.kinds
            stack[opens, depth[opens]] = tokens[opens, place]
            depth += np.where(opens, 1, -1)
            stacks[:, place], depths[:, place] = stack, depth
        return stacks, depths


PUZZLES: dict[str, Puzzle] = {
    "trained-induction-18": QuestionOf(InductionAlgorithm()),
    "trained-two-hop": Chains(),
    "trained-ioi": QuestionOf(IOIAlgorithm()),
    "trained-brackets": Brackets(),
}
"""By name of model and task."""
