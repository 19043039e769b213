"""Prompts for the trained models: what their tasks ask and what their reports measure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from circuitbench.models.trained.algorithms import Algorithm, repeated_symbols
from circuitbench.models.trained.puzzles import Puzzle, QuestionOf


@dataclass(frozen=True)
class AnsweredPrompts:
    """Prompts with an answer at some positions, where the counterfactual has another.

    Args:
        tokens, counterfactual: ``[n, pos]`` long.
        positions: ``[n, k]`` long; where answers are read.
        right, wrong: ``[n, k]`` long; the prompt's answers and the counterfactual's.
    """

    tokens: Tensor
    counterfactual: Tensor
    positions: Tensor
    right: Tensor
    wrong: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def answers(self) -> Tensor:
        """Right and wrong answers ``[n, k, 2]``."""
        return torch.stack([self.right, self.wrong], dim=-1)

    def metric(self, logits: Tensor) -> Tensor:
        """Right minus wrong answer's logit ``[n]``, from logits ``[n, pos, d_vocab]``."""
        read = self._read(logits).gather(-1, self.answers)
        return (read[..., 0] - read[..., 1]).mean(-1)

    def correct(self, logits: Tensor, choices: Tensor) -> Tensor:
        """Whether the right answer beats all other ``choices``, ``[n, k]`` bool."""
        return choices[self._read(logits)[..., choices].argmax(-1)] == self.right

    def _read(self, logits: Tensor) -> Tensor:
        return logits[torch.arange(len(self))[:, None], self.positions]


def induction_prompts(
    n: int, rng: np.random.Generator, *, length: int = 24, symbols: int = 31, reads: int = 3
) -> AnsweredPrompts:
    """Stretches of 7 to 11 symbols said again; the counterfactual's stretch is in another order.

    ``reads`` of six positions of the repetition are read.
    """
    late = torch.arange(length - 7, length - 1)
    parts: list[AnsweredPrompts] = []
    while sum(map(len, parts)) < n:
        tokens, filler, period = repeated_symbols(n, length, symbols, rng, shortest=7)
        other = _reordered(tokens, filler.numpy(), period.numpy(), rng)
        every = AnsweredPrompts(
            tokens, other, late.expand(n, -1), tokens[:, late + 1], other[:, late + 1]
        )
        parts.append(_choose(every, -1, reads, rng))
    return _joined(parts, n)


def algorithm_prompts(
    algorithm: Algorithm, n: int, rng: np.random.Generator, reads: int
) -> AnsweredPrompts:
    """What :func:`puzzle_prompts` gives for the question of an algorithm."""
    return puzzle_prompts(QuestionOf(algorithm), n, rng, reads)


def puzzle_prompts(
    puzzle: Puzzle, n: int, rng: np.random.Generator, reads: int = 1
) -> AnsweredPrompts:
    """Prompts on which prompt and counterfactual have different answers at ``reads`` positions."""
    parts: list[AnsweredPrompts] = []
    while sum(map(len, parts)) < n:
        pairs = puzzle.draw(2 * n, rng)
        right, wrong = (
            puzzle.answers(x).gather(1, pairs.positions)
            for x in (pairs.tokens, pairs.counterfactual)
        )
        every = AnsweredPrompts(pairs.tokens, pairs.counterfactual, pairs.positions, right, wrong)
        parts.append(_choose(every, puzzle.n_symbols + 1, reads, rng))
    return _joined(parts, n)


def _choose(
    prompts: AnsweredPrompts, none: int, reads: int, rng: np.random.Generator
) -> AnsweredPrompts:
    """Choose ``reads`` random positions where both have an answer, not the token ``none``, and
    they differ; prompts that have too few are dropped.
    """
    right, wrong = prompts.right, prompts.wrong
    apart = (right != wrong) & (right != none) & (wrong != none)
    order = torch.from_numpy(rng.random(apart.shape)) - apart.double()
    chosen = order.argsort(dim=1)[:, :reads].sort(dim=1).values
    kept = apart.sum(1) >= reads
    picked = (x.gather(1, chosen) for x in (prompts.positions, right, wrong))
    return AnsweredPrompts(*(x[kept] for x in (prompts.tokens, prompts.counterfactual, *picked)))


def _joined(parts: list[AnsweredPrompts], n: int) -> AnsweredPrompts:
    """The first ``n`` prompts."""
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return AnsweredPrompts(*(torch.cat(column)[:n] for column in columns))


def _reordered(
    tokens: Tensor, filler: np.ndarray, period: np.ndarray, rng: np.random.Generator
) -> Tensor:
    """The same prompts with their stretch in another order, said again and again likewise."""
    place = np.arange(tokens.shape[1] - 1)
    start, width = filler[:, None], period[:, None]
    # Sort keys: the filler stays in front, the first saying is shuffled, the rest is not used.
    keys = np.where(place < start + width, 1 + rng.random((len(tokens), len(place))), 3.0)
    keys = np.where(place < start, place / len(place), keys)
    order = np.argsort(keys, axis=1, kind="stable")
    source = np.where(place < start, place, start + (place - start) % width)
    source = np.take_along_axis(order, source, axis=1)
    body = np.take_along_axis(tokens.numpy()[:, 1:], source, axis=1)
    return torch.cat([tokens[:, :1], torch.from_numpy(body)], dim=1)
