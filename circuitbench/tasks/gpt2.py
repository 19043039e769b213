"""Induction, IOI and greater-than on GPT-2 small, with the circuits its literature reports.

Unlike planted circuits these are disputed, and found by methods much like those under test: a
method that disagrees with them need not be wrong. Every truth says so in its blind spots.

Prompts need the model's tokenizer (in the folder of its weights); control text is ordinary
English from ``$CIRCUITBENCH_DATA/wikitext-2-raw/wiki.test.raw`` (Merity et al. 2016).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import Circuit
from circuitbench.core.errors import InvalidSpec
from circuitbench.core.info import Info
from circuitbench.models.base import Model
from circuitbench.tasks.base import Prompts, answer_against
from circuitbench.tasks.text.task import read_shipped, read_truth
from circuitbench.tasks.tokenizer import Tokenizer

DATA_VARIABLE = "CIRCUITBENCH_DATA"
TEXT = Path("wikitext-2-raw") / "wiki.test.raw"
SPAN = 60  # tokens of control text, BOS included
FILLERS = 57  # as MechRL (arXiv 2605.26343)
EVENTS = ("war", "siege", "famine", "trial", "strike", "voyage", "reign", "conflict", "exile")
CENTURIES = (13, 14, 15, 16, 17, 18)


class _OnGPT2:
    """What the tasks share: a tokenizer, a control text, a model that must fit."""

    default_model: ClassVar[str] = "gpt2"
    name: ClassVar[str]
    known: ClassVar[str]  # the truth that ships with us

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        """``n`` spans of 60 tokens of English, BOS first, ``[n, 60]``.

        Raises :class:`InvalidSpec` where the text is not on this machine.
        """
        tokenizer = self._tokenizer(model)
        stream = _text(tokenizer, _text_file())
        starts = rng.integers(len(stream) - SPAN, size=n)
        spans = stream[starts[:, None] + np.arange(SPAN)]
        spans[:, 0] = tokenizer.bos_token_id
        return torch.from_numpy(spans)

    def truth(self, model: Model) -> Circuit:
        """The literature's heads; raises :class:`InvalidSpec` for a model they are not of."""
        if not model.name.startswith("gpt2@") or (model.n_layers, model.n_heads) != (12, 12):
            raise InvalidSpec(f"the circuit of {self.name} is known in gpt2, not in {model.name}")
        return replace(read_truth(self.known).circuit(), ablations=("zero", "mean", "resample"))

    def _tokenizer(self, model: Model) -> Tokenizer:
        tokenizer = model.construction
        if not isinstance(tokenizer, Tokenizer):
            raise InvalidSpec(
                f"task {self.name} runs on gpt2 with its tokenizer, not on {model.name}; put "
                "vocab.json and merges.txt (or tokenizer.json) beside the weights"
            )
        return tokenizer

    def _even(self, rows: list[list[int]]) -> list[list[int]]:
        if len({len(row) for row in rows}) > 1:
            raise InvalidSpec(f"this tokenizer gives the prompts of {self.name} unequal lengths")
        return rows

    def _word(self, tokenizer: Tokenizer, word: str) -> int:
        """The token of a word after a space."""
        tokens = tokenizer.encode(f" {word}")
        if len(tokens) != 1:
            raise InvalidSpec(f"task {self.name} needs {word!r} to be one token, not {len(tokens)}")
        return int(tokens[0])


@Info(
    title="Induction in GPT-2",
    family="Pretrained",
    paper="Olsson et al. 2022",
    link="https://arxiv.org/abs/2209.11895",
)
@dataclass(frozen=True)
class GPT2Induction(_OnGPT2):
    """``BOS A B x1 .. x57 A -> B`` on random tokens: logit of B minus that of another token.

    The counterfactual has another token where A first stood, so nothing says what follows A.

    Source: Olsson et al. 2022, arXiv 2209.11895; prompts as in MechRL, arXiv 2605.26343.
    """

    name: ClassVar[str] = "gpt2-induction"
    known: ClassVar[str] = "olsson-2022-induction"

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """``n`` prompts of 61 tokens, all tokens of a prompt different but for A."""
        tokenizer = self._tokenizer(model)
        words = np.setdiff1d(np.arange(len(tokenizer)), [tokenizer.bos_token_id])
        drawn = np.array([rng.choice(words, FILLERS + 4, replace=False) for _ in range(n)])
        first, second, stranger, wrong = drawn[:, :4].T
        bos = np.full(n, tokenizer.bos_token_id)
        tokens = np.column_stack([bos, first, second, drawn[:, 4:], first])
        counterfactual = tokens.copy()
        counterfactual[:, 1] = stranger
        return answer_against(
            words, tokens, counterfactual, _last(tokens), second[:, None], wrong[:, None]
        )


@Info(
    title="IOI in GPT-2",
    family="Pretrained",
    paper="Wang et al. 2022",
    link="https://arxiv.org/abs/2211.00593",
)
@dataclass(frozen=True)
class GPT2IOI(_OnGPT2):
    """``When A and B went to the store, B gave a drink to -> A``: logit of A minus that of B.

    Four templates of equal length, 26 names, both orders. The counterfactual's third name is
    neither (ABC prompts).

    Source: Wang et al. 2022, arXiv 2211.00593.
    """

    name: ClassVar[str] = "gpt2-ioi"
    known: ClassVar[str] = "wang-2022-ioi"

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """``n`` prompts of 15 tokens."""
        tokenizer = self._tokenizer(model)
        file = read_shipped("mechrl-ioi").file
        templates = [template.text for template in file.templates[::2]]
        names = {self._word(tokenizer, name): name for (name,) in file.forms_of("names")}
        ids = np.array(list(names))
        answer, subject, stranger = rng.permuted(np.tile(ids, (n, 1)), axis=1)[:, :3].T
        swapped, chosen = rng.random(n) < 0.5, rng.integers(len(templates), size=n)

        def write(third: np.ndarray) -> np.ndarray:
            rows = []
            for i in range(n):
                pair = [names[int(x)] for x in (answer[i], subject[i])]
                a, b = pair[::-1] if swapped[i] else pair
                text = templates[chosen[i]].format(A=a, B=b, S=names[int(third[i])])
                rows.append([tokenizer.bos_token_id, *tokenizer.encode(text)])
            return np.array(self._even(rows))

        tokens = write(subject)
        return answer_against(
            ids, tokens, write(stranger), _last(tokens), answer[:, None], subject[:, None]
        )


@Info(
    title="Greater-than in GPT-2",
    family="Pretrained",
    paper="Hanna et al. 2023",
    link="https://arxiv.org/abs/2305.00586",
    needs=("mlps",),
)
@dataclass(frozen=True)
class GPT2GreaterThan(_OnGPT2):
    """``The war lasted from the year 1732 to the year 17 -> above 32``.

    The metric is the mean logit of the years above minus that of the others, all two-digit
    endings from 02 to 98. The counterfactual starts in year 01.

    Source: Hanna et al. 2023, arXiv 2305.00586 (which takes probabilities, not logits).
    """

    name: ClassVar[str] = "gpt2-greater-than"
    known: ClassVar[str] = "hanna-2023-greater-than"

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """``n`` prompts of 13 tokens whose years are two tokens each."""
        tokenizer = self._tokenizer(model)
        endings, usable = _years(tokenizer)
        years, ids = np.array(list(endings)), np.array(list(endings.values()))
        if not usable:
            raise InvalidSpec(f"this tokenizer does not split the years of {self.name} in two")
        drawn = [usable[i] for i in rng.integers(len(usable), size=n)]
        nouns = rng.choice(EVENTS, n)
        rows: list[list[int]] = []
        others: list[list[int]] = []
        weights = []
        for noun, (century, year) in zip(nouns, drawn, strict=True):
            for start, into in ((year, rows), (1, others)):
                text = f"The {noun} lasted from the year {century}{start:02} to the year {century}"
                into.append([tokenizer.bos_token_id, *tokenizer.encode(text)])
            above = years > year
            weights.append(np.where(above, 1 / above.sum(), -1 / (~above).sum()))
        self._even(rows + others)
        return Prompts(
            tokens=torch.tensor(rows),
            counterfactual=torch.tensor(others),
            positions=torch.full((n, 1), len(rows[0]) - 1),
            token_ids=torch.from_numpy(np.tile(ids, (n, 1, 1))),
            weights=torch.tensor(np.array(weights)[:, None], dtype=torch.float32),
            choices=torch.from_numpy(ids),
        )


def _last(tokens: np.ndarray) -> np.ndarray:
    """The last position of every prompt, ``[n, 1]``."""
    return np.full((len(tokens), 1), tokens.shape[1] - 1)


@cache
def _years(tokenizer: Tokenizer) -> tuple[dict[int, int], list[tuple[int, int]]]:
    """Endings that are one token, and the (century, ending) that are split between the two."""
    encoded = {year: tokenizer.encode(f"{year:02}") for year in range(2, 99)}
    endings = {year: int(tokens[0]) for year, tokens in encoded.items() if len(tokens) == 1}

    def splits(century: int, year: int) -> bool:
        return len(tokenizer.encode(f" {century}{year:02}")) == 2

    inner = list(endings)[1:-1]  # some ending must be below, some above
    usable = [(c, y) for c in CENTURIES if splits(c, 1) for y in inner if splits(c, y)]
    return endings, usable


def _text_file() -> Path:
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        raise InvalidSpec(
            f"control text for GPT-2 is read from {DATA_VARIABLE}/{TEXT}; set {DATA_VARIABLE} to a "
            "folder that holds it"
        )
    path = Path(folder) / TEXT
    if not path.is_file():
        raise InvalidSpec(f"no control text at {path} (from {DATA_VARIABLE})")
    return path


@cache
def _text(tokenizer: Tokenizer, path: Path) -> np.ndarray:
    """All tokens of a text, one long row."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # Line by line: as one piece it would exceed the longest input the tokenizer warns about.
    tokens = np.array([x for line in lines for x in tokenizer.encode(line)], dtype=np.int64)
    if len(tokens) <= SPAN:
        raise InvalidSpec(f"{path} holds {len(tokens)} tokens; more than {SPAN} are needed")
    return tokens
