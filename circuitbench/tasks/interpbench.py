"""A case of InterpBench as a task: prompts from a file beside its weights, its edges as truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import Circuit
from circuitbench.core.errors import InvalidSpec
from circuitbench.core.info import Info
from circuitbench.models.base import Model
from circuitbench.models.checkpoints.interpbench import InterpBenchCase, truth_in
from circuitbench.tasks.base import Prompts, answer_against

PROMPTS = "prompts.jsonl"
_KEYS = ("clean", "corrupted", "answer", "wrong")


@Info(
    title="InterpBench case",
    family="Trained",
    paper="Gupta et al. 2024",
    link="https://arxiv.org/abs/2407.14494",
    granularity="edges",
    needs=("mlps",),
)
@dataclass(frozen=True)
class InterpBench:
    """Logit of a case's answer minus that of the counterfactual's.

    InterpBench's prompts come from its own code, which nothing here runs. They are read from
    ``prompts.jsonl`` in the case's folder, one a line, as token ids of equal length::

        {"clean": [1, 4, 2], "corrupted": [1, 3, 2], "answer": 5, "wrong": 6, "position": 2}

    ``position`` is where the answer is read, the last by default. Control text is the prompts
    themselves: a case speaks no other language.

    Source: Gupta et al. 2024, arXiv 2407.14494.
    """

    default_model: ClassVar[str] = "interpbench:."
    name: ClassVar[str] = "interpbench"

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """``n`` prompts of the file, each as often as it is drawn.

        Raises :class:`InvalidSpec` for a model that is no case, and for a file that is none.
        """
        rows = _rows(model)
        drawn = [rows[i] for i in rng.integers(len(rows), size=n)]
        tokens, counterfactual = (np.array([row[k] for row in drawn]) for k in _KEYS[:2])
        positions = np.array([[row["position"]] for row in drawn])
        answer, wrong = (np.array([[row[k]] for row in drawn]) for k in _KEYS[2:])
        choices = np.unique([row[k] for row in rows for k in _KEYS[2:]])
        return answer_against(choices, tokens, counterfactual, positions, answer, wrong)

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        """``n`` clean prompts, which all begin as the first does."""
        rows = _rows(model)
        spans = torch.tensor([rows[i]["clean"] for i in rng.integers(len(rows), size=n)])
        spans[:, 0] = rows[0]["clean"][0]
        return spans

    def truth(self, model: Model) -> Circuit:
        """The case's edges, and the heads and MLPs at their ends."""
        return truth_in(model)


def _rows(model: Model) -> list[dict[str, Any]]:
    case = model.construction
    if not isinstance(case, InterpBenchCase) or model.transformer is None:
        raise InvalidSpec(f"task interpbench runs on interpbench:FOLDER, not on {model.name}")
    path = case.folder / PROMPTS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InvalidSpec(
            f"the case {case.name} has no {PROMPTS}: InterpBench makes its prompts by code of its "
            f"own; write them there, one a line, with {', '.join(_KEYS)} as token ids"
        ) from None
    config = model.transformer.config
    rows = [
        _row(line, f"{PROMPTS} line {i}", config.d_vocab, case) for i, line in enumerate(lines, 1)
    ]
    if not rows:
        raise InvalidSpec(f"{PROMPTS} of {case.name} is empty")
    lengths = {len(row[key]) for row in rows for key in _KEYS[:2]}
    if len(lengths) > 1 or max(lengths) > config.n_ctx:
        raise InvalidSpec(
            f"{PROMPTS} of {case.name} has prompts of {sorted(lengths)} tokens; they must be "
            f"equally long, and not longer than {config.n_ctx}"
        )
    return rows


def _row(line: str, where: str, d_vocab: int, case: InterpBenchCase) -> dict[str, Any]:
    try:
        row = json.loads(line)
        texts = [list(map(int, row[key])) for key in _KEYS[:2]]
        answers = [int(row[key]) for key in _KEYS[2:]]
        position = int(row.get("position", len(texts[0]) - 1))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidSpec(f"{where} needs {', '.join(_KEYS)} as token ids ({error})") from None
    if not all(0 <= token < d_vocab for text in texts for token in text):
        raise InvalidSpec(f"{where} has a token that the model does not read (0 to {d_vocab - 1})")
    if not all(0 <= token < case.d_vocab_out for token in answers):
        raise InvalidSpec(
            f"{where} has an answer that the model cannot say (0 to {case.d_vocab_out - 1})"
        )
    if not 0 <= position < len(texts[0]):
        raise InvalidSpec(f"{where} reads position {position} of {len(texts[0])}")
    return dict(zip(_KEYS, [*texts, *answers], strict=True)) | {"position": position}
