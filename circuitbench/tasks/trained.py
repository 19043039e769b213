"""Tasks of the models trained here.

The metric is the logit of the right answer minus that of the answer the counterfactual prompt has
at the same position, averaged over the positions read. Control text is drawn from the language
the model was trained to speak besides its task (:func:`circuitbench.models.trained.load.language`).
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
from circuitbench.models.trained.algorithms import Algorithm
from circuitbench.models.trained.load import (
    ALGORITHMS,
    INDUCTION,
    PuzzleConstruction,
    TrainedConstruction,
)
from circuitbench.models.trained.prompts import (
    AnsweredPrompts,
    algorithm_prompts,
    induction_prompts,
    puzzle_prompts,
)
from circuitbench.models.trained.puzzles import PUZZLES
from circuitbench.tasks.base import Prompts


def _prompts(drawn: AnsweredPrompts, choices: Tensor) -> Prompts:
    """The logit of the right answer minus that of the wrong one."""
    ids = drawn.answers
    weights = torch.tensor([1.0, -1.0]).expand(ids.shape).contiguous()
    return Prompts(
        drawn.tokens, drawn.counterfactual, drawn.positions, ids, weights, choices=choices
    )


def _construction(model: Model, name: str) -> TrainedConstruction:
    built = model.construction
    wanted = ALGORITHMS.get(name)
    if not isinstance(built, TrainedConstruction) or built.algorithm != wanted:
        raise InvalidSpec(f"task {name} runs on the model {name}, not on {model.name}")
    return built


@Info(
    title="Induction, as learned",
    family="Trained",
    paper="Olsson et al. 2022",
    link="https://arxiv.org/abs/2209.11895",
)
@dataclass(frozen=True)
class TrainedInduction:
    """Say what came next the last time: ``BOS x y a b c d e f g a b c`` is followed by ``d``.

    A stretch of 7 to 11 different symbols is said again; six positions of the repetition may be
    read, and three are. The counterfactual repeats the stretch in another order.
    """

    default_model: ClassVar[str] = INDUCTION
    reads: ClassVar[int] = 3

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """Fresh stretches and fillers for every prompt."""
        _construction(model, INDUCTION)
        drawn = induction_prompts(n, rng, length=24, symbols=31, reads=self.reads)
        return _prompts(drawn, torch.arange(1, 32))

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        """Text in the same symbols, ``[n, 24]``."""
        return _construction(model, INDUCTION).language.text(n, 24, 1, rng)

    def truth(self, model: Model) -> Circuit:
        """What exhaustive search over all subsets of heads found."""
        return _construction(model, INDUCTION).truth()


@dataclass(frozen=True)
class _AlgorithmTask:
    """Runs on the model trained to follow one algorithm."""

    name: ClassVar[str]
    default_model: ClassVar[str]
    reads: ClassVar[int] = 1

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """Prompts and counterfactuals with different answers at ``reads`` positions."""
        algorithm = self._algorithm(model)
        drawn = algorithm_prompts(algorithm, n, rng, self.reads)
        return _prompts(drawn, torch.arange(1, algorithm.n_symbols + 2))

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        """Text in the model's own words, ``[n, n_ctx]``."""
        algorithm, built = self._algorithm(model), _construction(model, self.name)
        length = model.transformer.config.n_ctx if model.transformer else 16
        return built.language.text(n, length, algorithm.n_symbols + 2, rng)

    def truth(self, model: Model) -> Circuit:
        """The heads the algorithm's nodes were trained into."""
        return _construction(model, self.name).truth()

    def _algorithm(self, model: Model) -> Algorithm:
        _construction(model, self.name)
        return ALGORITHMS[self.name]


@Info(
    title="Induction, as imposed by SIIT",
    family="Trained",
    paper="Gupta et al. 2024",
    link="https://arxiv.org/abs/2407.14494",
    granularity="edges",
)
class SiitInduction(_AlgorithmTask):
    """Say what came after the last time this symbol was seen."""

    name, default_model, reads = "siit-induction", "siit-induction", 3


@Info(
    title="IOI, as imposed by SIIT",
    family="Trained",
    paper="Gupta et al. 2024",
    link="https://arxiv.org/abs/2407.14494",
)
class SiitIOI(_AlgorithmTask):
    """Say the name that was mentioned once."""

    name, default_model = "siit-ioi", "siit-ioi"


@Info(
    title="Two-hop, as imposed by SIIT",
    family="Trained",
    paper="Gupta et al. 2024",
    link="https://arxiv.org/abs/2407.14494",
    granularity="edges",
)
class SiitTwoHop(_AlgorithmTask):
    """Say the value of the query's value."""

    name, default_model = "siit-two-hop", "siit-two-hop"


@dataclass(frozen=True)
class _PuzzleTask:
    """Runs on the models trained to solve one puzzle, whatever their training seed."""

    default_model: ClassVar[str]

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """Prompts and counterfactuals with different answers where they are read."""
        puzzle = self._construction(model).puzzle
        return _prompts(puzzle_prompts(puzzle, n, rng), torch.arange(1, puzzle.n_symbols + 2))

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        """Text in the model's own words, ``[n, pos]``, as long as a prompt."""
        built = self._construction(model)
        return built.language.text(n, built.puzzle.length, built.puzzle.n_symbols + 2, rng)

    def truth(self, model: Model) -> Circuit:
        """The family of all minimal sufficient sets of heads."""
        return self._construction(model).truth()

    def _construction(self, model: Model) -> PuzzleConstruction:
        built, name = model.construction, self.default_model
        if not isinstance(built, PuzzleConstruction) or built.puzzle != PUZZLES[name]:
            raise InvalidSpec(f"task {name} runs on the model {name}, not on {model.name}")
        return built


@Info(
    title="Induction, learned freely",
    family="Trained",
    paper="Olsson et al. 2022",
    link="https://arxiv.org/abs/2209.11895",
)
class TrainedInduction18(_PuzzleTask):
    """Say what came after the last time this symbol was seen."""

    default_model = "trained-induction-18"


@Info(
    title="Two-hop, learned freely",
    family="Trained",
    paper="Press et al. 2022",
    link="https://arxiv.org/abs/2210.03350",
)
class TrainedTwoHop(_PuzzleTask):
    """Say where the chain of two steps that starts at the query ends."""

    default_model = "trained-two-hop"


@Info(
    title="IOI, learned freely",
    family="Trained",
    paper="Wang et al. 2022",
    link="https://arxiv.org/abs/2211.00593",
)
class TrainedIOI(_PuzzleTask):
    """Say the name that was mentioned once."""

    default_model = "trained-ioi"


@Info(
    title="Brackets, learned freely",
    family="Trained",
    paper="Yao et al. 2021",
    link="https://arxiv.org/abs/2105.11115",
)
class TrainedBrackets(_PuzzleTask):
    """Say which bracket closes the innermost one that is open."""

    default_model = "trained-brackets"
