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
from circuitbench.models.trained.algorithms import Algorithm, repeated_symbols
from circuitbench.models.trained.load import ALGORITHMS, INDUCTION, TrainedConstruction
from circuitbench.tasks.base import Prompts


def _read(
    tokens: Tensor,
    donors: Tensor,
    places: Tensor,
    right: Tensor,
    wrong: Tensor,
    none: int,
    reads: int,
    rng: np.random.Generator,
) -> tuple[Tensor, ...]:
    """Choose ``reads`` random places ``[batch, place]`` where both have an answer, not the token
    ``none``, and they differ.

    Drops prompts that have too few; returns tokens, donors, positions, right and wrong answers.
    """
    apart = (right != wrong) & (right != none) & (wrong != none)
    order = torch.from_numpy(rng.random(apart.shape)) - apart.double()
    chosen = order.argsort(dim=1)[:, :reads].sort(dim=1).values
    kept = apart.sum(1) >= reads
    picked = (x.gather(1, chosen) for x in (places, right, wrong))
    return tuple(x[kept] for x in (tokens, donors, *picked))


def _joined(parts: list[tuple[Tensor, ...]], n: int, choices: Tensor) -> Prompts:
    """The first ``n`` prompts of several :func:`_read`."""
    columns = (torch.cat(column)[:n] for column in zip(*parts, strict=True))
    tokens, donors, positions, right, wrong = columns
    ids = torch.stack([right, wrong], dim=-1)
    weights = torch.tensor([1.0, -1.0]).expand(ids.shape).contiguous()
    return Prompts(tokens, donors, positions, ids, weights, choices)


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
        length, symbols = 24, 31
        late = torch.arange(length - 7, length - 1)
        parts: list[tuple[Tensor, ...]] = []
        while sum(len(part[0]) for part in parts) < n:
            tokens, filler, period = repeated_symbols(n, length, symbols, rng, shortest=7)
            donors = _reordered(tokens, filler.numpy(), period.numpy(), rng)
            places = late.expand(n, -1)
            right, wrong = tokens[:, late + 1], donors[:, late + 1]
            parts.append(_read(tokens, donors, places, right, wrong, -1, self.reads, rng))
        return _joined(parts, n, torch.arange(1, symbols + 1))

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        """Text in the same symbols, ``[n, 24]``."""
        return _construction(model, INDUCTION).language.text(n, 24, 1, rng)

    def truth(self, model: Model) -> Circuit:
        """What exhaustive search over all subsets of heads found."""
        return _construction(model, INDUCTION).truth()


@dataclass(frozen=True)
class _AlgorithmTask:
    """Runs on the model trained to follow one algorithm; donors are the counterfactuals."""

    name: ClassVar[str]
    default_model: ClassVar[str]
    reads: ClassVar[int] = 1

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """Prompts on which prompt and donor have different answers at ``reads`` positions."""
        algorithm = self._algorithm(model)
        answer, none = list(algorithm.nodes)[-1], algorithm.n_symbols + 1
        parts: list[tuple[Tensor, ...]] = []
        while sum(len(part[0]) for part in parts) < n:
            pairs = algorithm.draw(2 * n, rng)
            tokens, donors, places = pairs.tokens, pairs.donors, pairs.positions
            right = algorithm.values(tokens)[answer].gather(1, places)
            wrong = algorithm.values(donors)[answer].gather(1, places)
            parts.append(_read(tokens, donors, places, right, wrong, none, self.reads, rng))
        return _joined(parts, n, torch.arange(1, none + 1))

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
)
class SiitTwoHop(_AlgorithmTask):
    """Say the value of the query's value."""

    name, default_model = "siit-two-hop", "siit-two-hop"
