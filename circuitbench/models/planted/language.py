"""The background language of the planted models: a vocabulary, and text with known statistics.

Ordinary text is sampled from ``p(next) ~ exp(unigram + bigram(current) + skip-bigram(previous))``.
Words have rich statistics; names and numbers are interchangeable to the language, so that no
general head carries a name or a number and every task answer is one of those. Text is bursty:
a pair of names that has occurred comes back, which makes induction useful outside its task.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SPECIALS = ("bos", "end", "cmp", "skip", "param")
BOS, END, CMP, SKIP, PARAM = range(len(SPECIALS))
"""Sink; the slot for an IOI answer; for a greater number; for a second hop; for an argument."""

NEVER = -12.0  # logit of special tokens: text never predicts them


@dataclass(frozen=True)
class Language:
    """Vocabulary and statistics; all arrays are read-only by convention.

    Args:
        names, nums, words: token ids of the three groups of ordinary tokens.
        codes: ``[n_words, d_word]`` unit vectors, one per word.
        unigram: ``[d_word]``; bigram, skip_bigram: ``[d_word, d_word]``; the log-odds of word
            ``w`` are ``codes[w] @ (unigram + codes[current] @ bigram + codes[previous] @
            skip_bigram)``.
        name_logit: the log-odds of every single name (a number has 0).
        burstiness: how often a name that was followed by a name is followed by it again.
    """

    names: np.ndarray
    nums: np.ndarray
    words: np.ndarray
    codes: np.ndarray
    unigram: np.ndarray
    bigram: np.ndarray
    skip_bigram: np.ndarray
    name_logit: float
    burstiness: float

    @property
    def size(self) -> int:
        """Number of tokens, specials included."""
        return len(SPECIALS) + len(self.names) + len(self.nums) + len(self.words)

    @property
    def ordinary(self) -> np.ndarray:
        """Ids of all tokens but the specials."""
        return np.arange(len(SPECIALS), self.size)

    @property
    def uniform_loss(self) -> float:
        """Loss of a guess that knows only which tokens are ordinary (nats/token)."""
        return float(np.log(self.size - len(SPECIALS)))

    def prior(self) -> np.ndarray:
        """Constant logit of every token ``[size]``, which no head carries."""
        logits = np.zeros(self.size)
        logits[: len(SPECIALS)] = NEVER
        logits[self.names] = self.name_logit
        return logits

    def word_codes(self) -> np.ndarray:
        """``[size, d_word]``: a word's code, zero for every other token."""
        codes = np.zeros((self.size, self.codes.shape[1]))
        codes[self.words] = self.codes
        return codes

    def text(self, n: int, length: int, rng: np.random.Generator) -> np.ndarray:
        """``n`` spans ``[n, length]`` of fresh text, BOS first."""
        codes, rows = self.word_codes(), np.arange(n)
        is_name = np.isin(np.arange(self.size), self.names)
        tokens = np.full((n, length), BOS)
        for t in range(1, length):
            state = self.unigram + codes[tokens[:, t - 1]] @ self.bigram
            if t > 1:
                state = state + codes[tokens[:, t - 2]] @ self.skip_bigram
            odds = np.exp(state @ codes.T + self.prior())
            odds[:, : len(SPECIALS)] = 0.0
            cumulative = (odds / odds.sum(1, keepdims=True)).cumsum(1)
            drawn = (cumulative > rng.random((n, 1))).argmax(1)
            repeat = rng.random(n) < self.burstiness
            if t > 2:
                earlier = (tokens[:, : t - 1] == tokens[:, t - 1 : t]) & is_name[tokens[:, 1:t]]
                earlier &= is_name[tokens[:, t - 1 : t]]
                last = t - 2 - earlier[:, ::-1].argmax(1)
                drawn = np.where(earlier.any(1) & repeat, tokens[rows, last + 1], drawn)
            tokens[:, t] = drawn
        return tokens


def make_language(
    n_names: int,
    n_nums: int,
    n_words: int,
    d_word: int,
    strengths: tuple[float, float, float],
    name_logit: float,
    burstiness: float,
    rng: np.random.Generator,
) -> Language:
    """Draw a language; ``strengths`` are the sd of unigram, bigram and skip-bigram log-odds."""
    first = len(SPECIALS)
    names, nums, words = np.split(
        np.arange(first, first + n_names + n_nums + n_words), [n_names, n_names + n_nums]
    )
    one, two, three = strengths
    return Language(
        names,
        nums,
        words,
        spread_codes(n_words, d_word, rng),
        one * rng.standard_normal(d_word),
        two * rng.standard_normal((d_word, d_word)),
        three * rng.standard_normal((d_word, d_word)),
        name_logit,
        burstiness,
    )


def spread_codes(n: int, d: int, rng: np.random.Generator, steps: int = 400) -> np.ndarray:
    """``n`` unit vectors in d dimensions ``[n, d]``, orthonormal if they fit, else far apart.

    Too many vectors are pushed apart by descending a high norm of their Gram matrix.
    """
    if n <= d:
        return random_rotation(d, rng)[:n]
    codes = rng.standard_normal((n, d))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    for step in range(steps):
        gram = codes @ codes.T
        np.fill_diagonal(gram, 0.0)
        top = np.abs(gram).max()
        codes -= 0.5 * top * (1 - step / steps) * (gram / top) ** 7 @ codes
        codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    return codes


def random_rotation(d: int, rng: np.random.Generator) -> np.ndarray:
    """A random orthogonal matrix ``[d, d]``."""
    return np.linalg.qr(rng.standard_normal((d, d)))[0]
