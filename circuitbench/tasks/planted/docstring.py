"""Docstring: after the arguments listed so far, say the one that comes next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from circuitbench.core.circuit import Circuit
from circuitbench.core.info import Info
from circuitbench.models.base import Model
from circuitbench.models.planted.language import BOS, PARAM
from circuitbench.tasks.base import Prompts, answer_against
from circuitbench.tasks.planted.prompts import (
    control_text,
    distinct,
    planted_of,
    planted_truth,
)

ARGUMENTS = 4
LENGTH = 18


@Info(
    title="Docstring arguments",
    family="Planted",
    paper="Heimersheim and Janiak 2023",
    link="https://www.alignmentforum.org/posts/u6KXXmKFbXfWzoAXn",
    granularity="edges",
)
@dataclass(frozen=True)
class Docstring:
    """``BOS .. a1 a2 a3 a4 .. PARAM a1 w PARAM a2 w PARAM -> a3``: after one to three arguments.

    The wrong answer is another argument. The counterfactual rotates the names of the arguments,
    in the definition and in the list, so that the wrong answer is right there.

    Source: Heimersheim and Janiak 2023, "A circuit for Python docstrings in a 4-layer
    attention-only transformer".
    """

    default_model: str = "planted"

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """``n`` prompts of 18 tokens."""
        language = planted_of(model, "docstring").language
        rows = np.arange(n)
        arguments = distinct(language.names, n, ARGUMENTS, rng)
        turn = rng.integers(1, ARGUMENTS, n)
        rotated = arguments[rows[:, None], (np.arange(ARGUMENTS) + turn[:, None]) % ARGUMENTS]
        listed = rng.integers(1, ARGUMENTS, n)
        words = rng.choice(language.words, (n, LENGTH))
        # the list ends the prompt; the definition stands anywhere before it, after a word
        start = 2 + (rng.random(n) * (LENGTH - ARGUMENTS - 3 * listed - 3)).astype(int)
        tokens, counterfactual = (
            _lay_out(words, names, listed, start) for names in (arguments, rotated)
        )
        return answer_against(
            language.ordinary,
            tokens,
            counterfactual,
            np.full((n, 1), LENGTH - 1),
            answer=arguments[rows, listed][:, None],
            wrong=rotated[rows, listed][:, None],
            spans={
                "definition": np.stack([start, start + ARGUMENTS], 1),
                "list": np.stack([LENGTH - 1 - 3 * listed, np.full(n, LENGTH - 1)], 1),
                "end": LENGTH - 1,
            },
        )

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        """``n`` spans of the model's background language."""
        return control_text(model, "docstring", n, rng)

    def truth(self, model: Model) -> Circuit:
        """Previous-token heads, a reader of the last listed argument, argument movers."""
        return planted_truth(
            model, "docstring", "Heimersheim and Janiak 2023 (docstring circuit)", self.prompts
        )


def _lay_out(
    words: np.ndarray, names: np.ndarray, listed: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Definition and list written over filler words, ``[n, LENGTH]``."""
    tokens, rows = words.copy(), np.arange(len(words))
    tokens[:, 0], tokens[:, -1] = BOS, PARAM
    for i in range(ARGUMENTS):
        tokens[rows, start + i] = names[:, i]
        entry = rows[i < listed]
        at = LENGTH - 1 - 3 * (listed[entry] - i)
        tokens[entry, at] = PARAM
        tokens[entry, at + 1] = names[entry, i]
    return tokens
