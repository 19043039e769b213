"""Tasks of the compiled models: run the program, and be told apart from another input.

The metric is the logit of the right answer minus that of the answer the counterfactual input has
at the same position, averaged over the positions read. Counterfactuals are other random inputs;
positions are read where both have an answer and the answers differ.

Control text: a compiled model knows no natural language, but each also speaks a small language of
its own words by a path that shares no head with the program (see
:class:`circuitbench.models.trained.skipgrams.SkipGrams`), and the control is text drawn from it.
So the control loss is near the language's entropy, rises when the one head that carries its long
range is ablated, and does not depend on the program's heads at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import Circuit
from circuitbench.core.errors import InvalidSpec
from circuitbench.core.info import Info
from circuitbench.models.base import Model
from circuitbench.models.compiled.programs import CompiledConstruction
from circuitbench.tasks.base import Prompts


@dataclass(frozen=True)
class _CompiledTask:
    """Runs on the model compiled from its own program, whatever the options."""

    program: ClassVar[str]
    default_model: ClassVar[str]

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """Random inputs with other random inputs as counterfactuals."""
        built = self._construction(model)
        example, vocabulary = built.example, built.compiled.vocabulary
        number = {token: i for i, token in enumerate(vocabulary)}
        tokens: list[list[int]] = []
        counterfactual: list[list[int]] = []
        positions: list[list[int]] = []
        token_ids: list[list[list[int]]] = []
        while len(tokens) < n:
            base, other = example.draw(rng), example.draw(rng)
            right, wrong = example.answers(base), example.answers(other)
            apart = [
                i
                for i, (a, b) in enumerate(zip(right, wrong, strict=True))
                if a is not None and b is not None and a != b
            ]
            if len(apart) < example.reads:
                continue
            read = sorted(rng.choice(apart, example.reads, replace=False).tolist())
            tokens.append([0, *(number[x] for x in base)])
            counterfactual.append([0, *(number[x] for x in other)])
            positions.append([i + 1 for i in read])
            token_ids.append([[number[str(right[i])], number[str(wrong[i])]] for i in read])
        ids = torch.tensor(token_ids)
        return Prompts(
            tokens=torch.tensor(tokens),
            counterfactual=torch.tensor(counterfactual),
            positions=torch.tensor(positions),
            token_ids=ids,
            weights=torch.tensor([1.0, -1.0]).expand(ids.shape).contiguous(),
            choices=torch.arange(1, len(vocabulary) - len(built.compiled.language.near)),
        )

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        """Text in the model's own words, as long as the context, BOS first."""
        built = self._construction(model).compiled
        first = len(built.vocabulary) - len(built.language.near)
        return built.language.text(n, built.transformer.config.n_ctx, first, rng)

    def truth(self, model: Model) -> Circuit:
        """The program's own heads, MLPs and edges."""
        return self._construction(model).compiled.truth

    def _construction(self, model: Model) -> CompiledConstruction:
        built = model.construction
        if not isinstance(built, CompiledConstruction) or built.example.name != self.program:
            raise InvalidSpec(
                f"task {self.program} runs on models compiled from its program, not on "
                f"{model.name}; use model {self.default_model}"
            )
        return built


@Info(
    title="Reverse a sequence",
    family="Compiled",
    paper="Weiss et al. 2021",
    link="https://arxiv.org/abs/2106.06981",
    granularity="edges",
    needs=("mlps",),
)
class Reverse(_CompiledTask):
    """Say the input backwards."""

    program, default_model = "reverse", "compiled-reverse"


@Info(
    title="Sort letters",
    family="Compiled",
    paper="Weiss et al. 2021",
    link="https://arxiv.org/abs/2106.06981",
    granularity="edges",
    needs=("mlps",),
)
class Sort(_CompiledTask):
    """Say the input's letters in order."""

    program, default_model = "sort", "compiled-sort"


@Info(
    title="Count equal letters",
    family="Compiled",
    paper="Weiss et al. 2021",
    link="https://arxiv.org/abs/2106.06981",
    granularity="edges",
    needs=("mlps",),
)
class Histogram(_CompiledTask):
    """Say how often each letter occurs."""

    program, default_model = "histogram", "compiled-histogram"


@Info(
    title="Fraction of earlier letters",
    family="Compiled",
    paper="Lindner et al. 2023",
    link="https://arxiv.org/abs/2301.05062",
    granularity="edges",
    needs=("mlps",),
)
class FracPrevs(_CompiledTask):
    """Say which fraction of the letters so far equals the first."""

    program, default_model = "frac-prevs", "compiled-frac-prevs"


@Info(
    title="Balanced brackets (Dyck-2)",
    family="Compiled",
    paper="Weiss et al. 2021",
    link="https://arxiv.org/abs/2106.06981",
    granularity="edges",
    needs=("mlps",),
)
class Dyck(_CompiledTask):
    """Say whether brackets are closed, open or broken."""

    program, default_model = "dyck", "compiled-dyck"


@Info(
    title="Most frequent letter",
    family="Compiled",
    paper="Weiss et al. 2021",
    link="https://arxiv.org/abs/2106.06981",
    granularity="edges",
    needs=("mlps",),
)
class MostFrequent(_CompiledTask):
    """Say the most frequent letter."""

    program, default_model = "most-frequent", "compiled-most-frequent"
