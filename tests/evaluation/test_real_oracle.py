"""The truth-free metrics on the real oracle, with a model whose heads add stated amounts."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from circuitbench.checks.redundancy import super_additivity
from circuitbench.core.circuit import Circuit, Head, Role
from circuitbench.core.discovery import Discovery
from circuitbench.evaluation.without_truth.measurements import QUICK, measure
from circuitbench.models.base import Model
from circuitbench.models.transformer import LayerWeights, Transformer, TransformerConfig
from circuitbench.oracle import Oracle
from circuitbench.tasks.base import Prompts

GAINS = np.array([[3.0, 0.0, 1.0], [0.0, 2.0, 0.0]])
TRUTH = Circuit({"all": Role((Head(0, 0), Head(1, 1)))}, "by hand", "constructed")


class Difference:
    """Logit of token 1, whatever the prompt; the heads' value biases add up to it."""

    default_model = "additive"

    def prompts(self, model: Any, n: int, rng: np.random.Generator) -> Any:
        tokens = torch.as_tensor(rng.integers(0, 4, (n, 3)))
        read = torch.full((n, 1), 2), torch.ones(n, 1, 1, dtype=torch.long), torch.ones(n, 1, 1)
        return Prompts(tokens, (tokens + 1) % 4, *read, torch.tensor([1, 2]))

    def control(self, model: Any, n: int, rng: np.random.Generator) -> Any:
        return torch.as_tensor(rng.integers(0, 4, (n, 3)))

    def truth(self, model: Any) -> Any:
        return TRUTH


@pytest.fixture
def oracle() -> Any:
    def layer(row: Any) -> Any:
        nothing = torch.zeros(3, 2, 1)
        write = torch.tensor([[[1.0, 0.0]]]).repeat(3, 1, 1)
        return LayerWeights(nothing, nothing, nothing, write, b_V=torch.tensor(row)[:, None])

    config = TransformerConfig(2, 3, d_model=2, d_head=1, d_vocab=4, n_ctx=3, attn_scale=1.0)
    unembed = torch.zeros(2, 4)
    unembed[0, 1] = 1.0
    layers = tuple(layer(row) for row in GAINS.astype(np.float32))
    weights = Transformer(config, torch.zeros(4, 2), unembed, layers, torch.zeros(3, 2))
    return Oracle(
        Model("additive", 2, 3, weights), Difference(), task_name="sum", seed=0, batch_size=4
    )


def test_faithfulness_is_the_share_of_the_kept_gains(oracle: Any) -> None:
    found = Discovery(GAINS, frozenset({Head(0, 0), Head(1, 1)}))
    result = measure(oracle, found, np.random.default_rng(0), QUICK)
    json.dumps(result, allow_nan=False)
    assert result["faithfulness"]["zero"]["value"] == pytest.approx(5 / 6)
    # no prompt differs from another, so putting means or counterfactuals in changes nothing
    assert result["faithfulness"]["mean"]["value"] is None
    assert result["faithfulness"]["resample"]["value"] is None
    assert result["mib"]["resample"]["cpr"] is None
    assert result["mib"]["zero"]["signed"][-3:] == pytest.approx([3 / 6, 1, 1])  # 1, 3, 6 heads
    assert result["minimality"]["heads"] == pytest.approx({"0.0": 3, "1.1": 2})
    assert result["completeness"]["max"] == pytest.approx(1)  # the head of gain 1 is missing
    assert result["cost"]["queries"] == oracle.meter.queries > 0


def test_heads_that_only_add_up_are_not_redundant(oracle: Any) -> None:
    result = super_additivity(oracle, TRUTH, np.random.default_rng(0))
    assert result["inside"]["all"] == {"mean": pytest.approx(0, abs=1e-5), "n_pairs": 1}
    assert result["scale"] == pytest.approx(6)
