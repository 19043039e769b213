"""Small transformers trained for this project, whose weights ship with it.

``trained-induction`` learned next-token prediction and was searched exhaustively for its circuit;
the ``siit-*`` models were trained so that named heads carry a known algorithm and no others do
(strict interchange-intervention training). The models of :data:`PUZZLES` learned to answer in any
way they liked; all their minimal sufficient sets of heads are known.
``python -m circuitbench.models.trained.training NAME`` makes the weights and the report beside
them again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from circuitbench.core.circuit import Circuit, Head, Role
from circuitbench.core.errors import InvalidSpec, ModelUnavailable, UnknownName
from circuitbench.core.info import Info
from circuitbench.models.base import Model
from circuitbench.models.limits import Limits
from circuitbench.models.trained.algorithms import (
    Algorithm,
    InductionAlgorithm,
    IOIAlgorithm,
    TwoHopAlgorithm,
)
from circuitbench.models.trained.puzzles import PUZZLES, Puzzle
from circuitbench.models.trained.skipgrams import SkipGrams
from circuitbench.models.transformer import Transformer, TransformerConfig
from circuitbench.models.weight_names import parameters, with_parameters

INDUCTION = "trained-induction"
ALGORITHMS: dict[str, Algorithm] = {
    "siit-induction": InductionAlgorithm(),
    "siit-ioi": IOIAlgorithm(),
    "siit-two-hop": TwoHopAlgorithm(),
}
FREE = Limits(control=0.65, nothing=0.15)
"""Limits of models trained on puzzles: few heads are left to speak, and embeddings alone prefer
some answers, which a few prompts do not balance.
"""
NAMES = (INDUCTION, *ALGORITHMS)


@dataclass(frozen=True)
class TrainedConstruction:
    """What the tasks need to know of a trained model.

    ``report`` is the JSON beside the weights: how it was trained and what was measured on it.
    ``algorithm`` is None where none was imposed.
    """

    language: SkipGrams
    report: Mapping[str, Any]
    algorithm: Algorithm | None = None

    def truth(self) -> Circuit:
        """The circuit: the algorithm's heads, or what exhaustive search found.

        Its edges are the algorithm's where the weights were found to follow them: the report then
        names the ablations (``experiments/tables/trained_edges.py`` makes the measurements).
        """
        follows = tuple(self.report.get("edge_ablations", ()))
        roles = {
            name: Role(tuple(Head.parse(h) for h in role["heads"]), shows=role["shows"])
            for name, role in self.report["roles"].items()
        }
        return Circuit(
            roles=roles,
            source=self.report["source"],
            kind="trained",
            blind_spots=tuple(self.report["blind_spots"]),
            ablations=tuple(self.report["ablations"]),
            edges=self.algorithm.edges if self.algorithm and follows else None,
            edge_ablations=follows,
        )


@dataclass(frozen=True)
class PuzzleConstruction:
    """What a task needs to know of a model that was trained to solve a puzzle.

    ``report`` is the JSON beside the weights.
    """

    language: SkipGrams
    report: Mapping[str, Any]
    puzzle: Puzzle

    def truth(self) -> Circuit:
        """The family of all minimal sufficient sets of heads.

        Roles say how far it pins heads down: ``core`` heads are in every set, ``optional`` ones
        in some; as many of these are needed as the smallest set has.
        """
        found = self.report
        family = tuple(frozenset(map(Head.parse, heads.split())) for heads in found["family"])
        core = frozenset.intersection(*family)
        optional = frozenset().union(*family) - core
        fewest = min(len(heads - core) for heads in family)
        roles = {
            "core": Role(tuple(core), shows="in every minimal set"),
            "optional": Role(tuple(optional), fewest, shows="in some minimal sets"),
        }
        return Circuit(
            roles={name: role for name, role in roles.items() if role.heads},
            source=found["source"],
            kind="trained",
            blind_spots=tuple(found["blind_spots"]),
            ablations=tuple(found["ablations"]),
            family=family,
            faithfulness=found["faithfulness"],
        )


def language(name: str) -> SkipGrams:
    """The ordinary text the model was trained on besides its task, always the same.

    ``trained-induction`` speaks it in the symbols of its task, the others in words of their own.
    """
    if name == INDUCTION:
        return SkipGrams.draw(31, np.random.default_rng(20), near=2.0, far=2.0)
    return SkipGrams.draw(12, np.random.default_rng(21))


def folder() -> Path:
    """Where weights and reports ship."""
    return Path(str(files("circuitbench.models.trained"))) / "weights"


def save(name: str, weights: Transformer, where: Path) -> None:
    """Write weights as safetensors, the config in their metadata.

    Those of puzzles are kept in 16 bits: what is measured on them is measured on what is loaded.
    """
    metadata = {"config": json.dumps(asdict(weights.config))}
    named = {k: v.detach().contiguous() for k, v in parameters(weights).items()}
    if name.partition("@")[0] in PUZZLES:
        named = {k: v.half() for k, v in named.items()}
    path = where / f"{name}.safetensors"
    save_file(named, path, metadata)
    path.chmod(0o644)  # safetensors leaves files that only their owner can read


def load(name: str, where: Path | None = None) -> Transformer:
    """Read weights written by :func:`save`; raises :class:`ModelUnavailable` if they can't be."""
    path = (where or folder()) / f"{name}.safetensors"
    try:
        with safe_open(str(path), "pt") as file:
            config = TransformerConfig(**json.loads(file.metadata()["config"]))
            named: dict[str, Tensor] = {
                key: file.get_tensor(key).float()
                for key in file.keys()  # noqa: SIM118
            }
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ModelUnavailable(
            f"cannot read the weights of {name} at {path} ({error}); reinstall circuitbench or "
            f"make them again with: {training_command(name)}"
        ) from None
    return with_parameters(config, named)


def training_seeds(name: str) -> list[str]:
    """The seeds of a puzzle whose models ship: those are ``NAME@0`` (also ``NAME``), ``NAME@1``."""
    return sorted(path.stem.partition("@")[2] for path in folder().glob(f"{name}@*.safetensors"))


def training_command(name: str) -> str:
    """What makes the weights and the report of a model again."""
    base, _, seed = name.partition("@")
    option = f" --seed {seed}" if seed else ""
    return f"python -m circuitbench.models.trained.training {base}{option}"


def _puzzle_model(name: str, variant: str) -> Model:
    seeds = training_seeds(name)
    if variant and variant not in seeds:
        raise UnknownName(f"training seed of {name}", variant, seeds)
    stem = f"{name}@{variant or 0}"
    weights = load(stem)
    report = json.loads((folder() / f"{stem}.json").read_text())
    return Model(
        name=f"{name}@{variant}" if variant else name,
        n_layers=weights.config.n_layers,
        n_heads=weights.config.n_heads,
        transformer=weights,
        construction=PuzzleConstruction(language(name), report, PUZZLES[name]),
        provenance={"kind": "trained", "training": report["training"]},
        limits=FREE,
    )


def _model(name: str, variant: str) -> Model:
    if variant:
        raise InvalidSpec(f"{name} has fixed weights and takes no variant, not {variant!r}")
    weights = load(name)
    report = json.loads((folder() / f"{name}.json").read_text())
    return Model(
        name=name,
        n_layers=weights.config.n_layers,
        n_heads=weights.config.n_heads,
        transformer=weights,
        construction=TrainedConstruction(language(name), report, ALGORITHMS.get(name)),
        provenance={"kind": "trained", "training": report["training"]},
        limits=Limits.parse(report.get("health", {})),
    )


@Info(
    title="Trained, grew induction heads",
    family="Trained",
    paper="Olsson et al. 2022",
    link="https://arxiv.org/abs/2209.11895",
)
def trained_induction(variant: str = "") -> Model:
    """2 layers x 8 heads, attention-only: next-token prediction until induction heads formed."""
    return _model(INDUCTION, variant)


@Info(
    title="Trained to an algorithm: induction",
    family="Trained",
    paper="Gupta et al. 2024",
    link="https://arxiv.org/abs/2407.14494",
)
def siit_induction(variant: str = "") -> Model:
    """3 layers x 4 heads that follow :class:`InductionAlgorithm`."""
    return _model("siit-induction", variant)


@Info(
    title="Trained to an algorithm: IOI",
    family="Trained",
    paper="Gupta et al. 2024",
    link="https://arxiv.org/abs/2407.14494",
)
def siit_ioi(variant: str = "") -> Model:
    """4 layers x 4 heads that follow :class:`IOIAlgorithm`."""
    return _model("siit-ioi", variant)


@Info(
    title="Trained to an algorithm: two-hop",
    family="Trained",
    paper="Gupta et al. 2024",
    link="https://arxiv.org/abs/2407.14494",
)
def siit_two_hop(variant: str = "") -> Model:
    """4 layers x 4 heads that follow :class:`TwoHopAlgorithm`."""
    return _model("siit-two-hop", variant)


@Info(
    title="Trained freely: induction",
    family="Trained",
    paper="Olsson et al. 2022",
    link="https://arxiv.org/abs/2209.11895",
)
def trained_induction_18(variant: str = "") -> Model:
    """3 layers x 6 heads that say what came after a symbol the last time (``@`` training seed)."""
    return _puzzle_model("trained-induction-18", variant)


@Info(
    title="Trained freely: two-hop",
    family="Trained",
    paper="Press et al. 2022",
    link="https://arxiv.org/abs/2210.03350",
)
def trained_two_hop(variant: str = "") -> Model:
    """3 layers x 6 heads that follow chains of two steps (``@`` training seed)."""
    return _puzzle_model("trained-two-hop", variant)


@Info(
    title="Trained freely: IOI",
    family="Trained",
    paper="Wang et al. 2022",
    link="https://arxiv.org/abs/2211.00593",
)
def trained_ioi(variant: str = "") -> Model:
    """3 layers x 6 heads that say the name mentioned once (``@`` training seed)."""
    return _puzzle_model("trained-ioi", variant)


@Info(
    title="Trained freely: brackets",
    family="Trained",
    paper="Yao et al. 2021",
    link="https://arxiv.org/abs/2105.11115",
)
def trained_brackets(variant: str = "") -> Model:
    """3 layers x 6 heads that match brackets of three kinds (``@`` training seed)."""
    return _puzzle_model("trained-brackets", variant)
