"""What a learner brings with it: no oracle is built, and its cost is shown as training."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import circuitbench as cb
from circuitbench.core.errors import InvalidSpec


@dataclass
class Brought:
    """Was trained elsewhere, on a planting that is not scored."""

    models: tuple[str, ...] = ("planted@150",)
    handed: Any = field(default=None, init=False, compare=False)

    def curriculum(self) -> cb.Curriculum:
        spent = {"queries": 70, "forwards": 90}
        return cb.Curriculum(("ioi",), models=self.models, labelled=True, spent=spent)

    def train(self, oracles: Any, rng: np.random.Generator, tools: Any = None) -> None:
        self.handed = len(oracles)

    def discover(self, oracle: cb.Oracle, rng: np.random.Generator) -> cb.Discovery:
        scores = np.zeros(oracle.shape)
        scores[0, 0] = self.handed  # 0 where nothing was handed over
        return cb.Discovery(scores, frozenset())


def test_no_oracle_is_built_and_what_was_spent_is_shown() -> None:
    quick: Any = {"batch_size": 4, "functional": "none", "seed": 0, "reraise": True}
    found = cb.run(Brought(), task="induction", model="planted-easy", **quick)
    assert found.scores[0, 0] == 0
    assert found.costs["training"]["queries"] == 70
    assert found.costs["training"]["forwards"] == 90
    assert found.record.info["training"]["track"] == "other-models"
    assert found.record.info["training"]["models"] == ["planted@150"]


def test_the_scored_model_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="the one it is scored on"):
        cb.run(Brought(("planted-easy@0",)), task="induction", model="planted-easy", seed=0)


def test_what_was_trained_elsewhere_says_on_what() -> None:
    with pytest.raises(InvalidSpec, match="must name its models and tasks"):
        cb.Curriculum(("ioi",), spent={"queries": 1})
