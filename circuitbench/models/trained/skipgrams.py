"""A small language for models that need ordinary text: each word depends on the two before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.errors import InvalidSpec


@dataclass(frozen=True)
class SkipGrams:
    """A log-linear language of order two over ``n_words`` words.

    ``log p(next | current, previous) = near[current, next] + far[previous, next] + const``.
    A transformer can speak it exactly: ``near`` is a path from embedding to unembedding, ``far``
    takes one head that looks one token back. The first word is uniform; the second sees no
    ``previous``.

    Args:
        near, far: ``[n_words, n_words]``, logits.
    """

    near: np.ndarray
    far: np.ndarray

    @classmethod
    def draw(
        cls, n_words: int, rng: np.random.Generator, near: float = 1.5, far: float = 1.5
    ) -> SkipGrams:
        """Draw a language; ``near`` and ``far`` are the standard deviations of its logits."""
        if n_words < 2:
            raise InvalidSpec(f"a language needs at least 2 words, not {n_words}")
        shape = (n_words, n_words)
        return cls(rng.normal(0.0, near, shape), rng.normal(0.0, far, shape))

    def sample(self, n: int, length: int, rng: np.random.Generator) -> Tensor:
        """``n`` texts of ``length`` words, ``[n, length]`` long, words counted from 0."""
        words = np.empty((n, length), dtype=np.int64)
        words[:, 0] = rng.integers(len(self.near), size=n)
        for t in range(1, length):
            logits = self.near[words[:, t - 1]]
            if t > 1:
                logits = logits + self.far[words[:, t - 2]]
            # The Gumbel-max trick: one vectorised draw from n categorical distributions.
            words[:, t] = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
        return torch.from_numpy(words)

    def text(self, n: int, length: int, first: int, rng: np.random.Generator) -> Tensor:
        """``n`` spans of ``length`` tokens: BOS (0), then words numbered from ``first``."""
        words = self.sample(n, length - 1, rng) + first
        return torch.cat([torch.zeros((n, 1), dtype=torch.long), words], dim=1)
