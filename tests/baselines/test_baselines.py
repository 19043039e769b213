"""Baselines on a model whose every effect is known: each head adds a fixed amount to the answer."""

from typing import Any

import numpy as np
import pytest
import torch

from circuitbench.checks.contracts import ToyTask, toy_model
from circuitbench.core.circuit import Edge
from circuitbench.core.errors import InvalidSpec
from circuitbench.models import LayerWeights, Model, Transformer, TransformerConfig
from circuitbench.oracle import Oracle
from circuitbench.tasks import Prompts
from circuitbench_baselines.ablation import HeadAblation
from circuitbench_baselines.acdc import ACDC
from circuitbench_baselines.attribution import (
    AttributionPatching,
    EdgeAttributionPatching,
    IntegratedGradients,
)
from circuitbench_baselines.patching import ActivationPatching
from circuitbench_baselines.random import RandomRanking
from circuitbench_baselines.regression import SubsetRegression

AMOUNTS = np.array([[2.0, 0.0, -1.0], [0.0, 0.5, 0.0]])
CAUSE, OTHER, ANSWER, WRONG = 1, 2, 3, 4


def additive_model() -> Model:
    """Features: cause, answer. Head h adds ``AMOUNTS[h]`` to the answer's logit where a cause is.

    Attention is uniform, so at the last of three tokens a head reads a third of the cause.
    """
    layers = []
    for row in AMOUNTS:
        n = len(row)
        value, output = torch.zeros(n, 2, 1), torch.zeros(n, 1, 2)
        value[:, 0, 0], output[:, 0, 1] = 3.0, torch.as_tensor(row, dtype=torch.float32)
        layers.append(
            LayerWeights(W_Q=torch.zeros(n, 2, 1), W_K=torch.zeros(n, 2, 1), W_V=value, W_O=output)
        )
    embed, unembed = torch.zeros(5, 2), torch.zeros(2, 5)
    embed[CAUSE, 0], unembed[1, ANSWER] = 1.0, 1.0
    config = TransformerConfig(
        n_layers=2,
        n_heads=3,
        d_model=2,
        d_head=1,
        d_vocab=5,
        n_ctx=3,
        attn_scale=1.0,
        positions="none",
    )
    return Model("additive", 2, 3, Transformer(config, embed, unembed, tuple(layers)))


class AdditiveTask(ToyTask):
    def prompts(self, model: Any, n: int, rng: np.random.Generator) -> Any:
        tokens = torch.tensor([[0, CAUSE, 0]]).repeat(n, 1)
        counterfactual = torch.tensor([[0, OTHER, 0]]).repeat(n, 1)
        return Prompts(
            tokens,
            counterfactual,
            torch.full((n, 1), 2),
            torch.tensor([[[ANSWER, WRONG]]]).repeat(n, 1, 1),
            torch.tensor([[[1.0, -1.0]]]).repeat(n, 1, 1),
            torch.tensor([ANSWER, WRONG]),
        )

    def control(self, model: Any, n: int, rng: np.random.Generator) -> Any:
        return torch.tensor([[0, OTHER, OTHER]]).repeat(n, 1)


def oracle(**options: Any) -> Oracle:
    return Oracle(
        additive_model(), AdditiveTask(), task_name="additive", seed=0, batch_size=2, **options
    )


def discover(method: Any, **options: Any) -> Any:
    asked = oracle(**options)
    return method.discover(asked, np.random.default_rng(0)), asked


EXACT = [
    HeadAblation(score="task"),
    HeadAblation(score="reward"),  # the control text holds no cause, so it takes no damage
    HeadAblation(score="task", ablation="resample"),
    ActivationPatching(mode="noising"),
    ActivationPatching(mode="denoising"),
    ActivationPatching(mode="both"),
    AttributionPatching(),
    AttributionPatching(ablation="zero"),
    EdgeAttributionPatching(signed=True),
    IntegratedGradients(),
]


@pytest.mark.parametrize("method", EXACT, ids=repr)
def test_scores_are_the_planted_amounts(method: Any) -> None:
    discovery, asked = discover(method)
    assert discovery.scores == pytest.approx(AMOUNTS, abs=1e-5)
    assert asked.clean_metric == pytest.approx(1.5, abs=1e-5)
    assert discovery.selected == {(0, 0), (1, 1)}


@pytest.mark.parametrize(
    "method",
    [
        HeadAblation(absolute=True),
        ActivationPatching(absolute=True),
        AttributionPatching(absolute=True),
        EdgeAttributionPatching(),
    ],
    ids=repr,
)
def test_magnitudes_find_heads_that_work_against_the_task(method: Any) -> None:
    discovery, _ = discover(method)
    assert discovery.scores == pytest.approx(np.abs(AMOUNTS), abs=1e-5)
    assert discovery.selected == {(0, 0), (0, 2), (1, 1)}


@pytest.mark.parametrize(
    ("method", "queries"),
    [
        (RandomRanking(), 0),
        (HeadAblation(), 6),
        (ActivationPatching(mode="noising"), 6),
        (ActivationPatching(mode="denoising"), 7),
        (ActivationPatching(), 13),
        (ACDC(), 6),
        (AttributionPatching(), 3),
        (EdgeAttributionPatching(), 3),
        (IntegratedGradients(), 48),
        (SubsetRegression(queries=20), 20),
    ],
    ids=repr,
)
def test_a_method_costs_what_it_says(method: Any, queries: Any) -> None:
    discovery, asked = discover(method)
    assert asked.meter.queries == queries
    if discovery.trace:
        assert discovery.trace[-1].queries == queries
        assert np.array_equal(discovery.trace[-1].scores, discovery.scores)


def test_acdc_removes_what_changes_the_metric_by_less_than_the_threshold() -> None:
    discovery, _ = discover(ACDC(objective="metric", threshold=0.5))
    # In units of the clean metric 1.5: 1.1 is a third (goes), 0.2 two thirds, 0.0 four thirds.
    assert discovery.selected == {(0, 0), (0, 2)}
    assert discovery.scores[0, 0] == pytest.approx(2 / 1.5, abs=1e-5)


def test_acdc_with_kl_keeps_what_changes_the_prediction() -> None:
    discovery, _ = discover(ACDC(objective="kl", threshold=1e-3))
    assert discovery.selected == {(0, 0), (0, 2), (1, 1)}
    assert discovery.scores[AMOUNTS == 0] == pytest.approx(0, abs=1e-6)


def test_regression_recovers_an_additive_model() -> None:
    discovery, _ = discover(SubsetRegression(queries=400, share=0.3, ridge=1e-3))
    assert discovery.scores == pytest.approx(AMOUNTS, abs=1e-3)


@pytest.mark.parametrize(
    "method", [HeadAblation(), ActivationPatching(), ACDC(), SubsetRegression()], ids=repr
)
@pytest.mark.parametrize("budget", [1, 2, 5])
def test_a_small_budget_gives_a_partial_answer(method: Any, budget: Any) -> None:
    discovery, asked = discover(method, budget=budget)
    assert asked.meter.queries <= budget
    assert np.isfinite(discovery.scores).all()


def test_heads_acdc_never_reached_stay_in() -> None:
    discovery, _ = discover(ACDC(), budget=3)
    assert {(0, 0), (0, 1), (0, 2)} <= discovery.selected


def test_random_commits_to_the_share_it_says() -> None:
    discovery, _ = discover(RandomRanking(share=0.5))
    assert len(discovery.selected) == 3


@pytest.mark.parametrize(
    "method",
    [IntegratedGradients(steps=0), SubsetRegression(share=1.0), EdgeAttributionPatching(listed=0)],
    ids=repr,
)
def test_nonsense_hyperparameters_are_refused(method: Any) -> None:
    with pytest.raises(InvalidSpec, match="not"):
        discover(method)


def test_edges_are_ranked_by_their_own_effect() -> None:
    discovery, _ = discover(EdgeAttributionPatching())
    # Heads add up: each acts on the logits and on no other head.
    for (layer, head), amount in np.ndenumerate(AMOUNTS):
        edge = Edge(f"{layer}.{head}", "logits")
        assert discovery.edges[edge] == pytest.approx(abs(amount), abs=1e-5)
    between = [s for e, s in discovery.edges.items() if "." in e.sender and "." in e.receiver]
    assert len(between) == 3 * 3 * 3
    assert between == pytest.approx([0] * 27, abs=1e-5)
    few, _ = discover(EdgeAttributionPatching(listed=2))
    assert sorted(few.edges.values()) == sorted(discovery.edges.values())[-2:]


def test_the_edges_that_leave_a_head_add_up_to_its_attribution() -> None:
    def oracle() -> Any:
        return Oracle(toy_model(), ToyTask(), task_name="toy", seed=0, batch_size=4)

    method = EdgeAttributionPatching(signed=True, listed=10**6)
    edges = method.discover(oracle(), np.random.default_rng(0)).edges
    assert edges is not None
    whole = AttributionPatching().discover(oracle(), np.random.default_rng(0)).scores
    for (layer, head), score in np.ndenumerate(whole):
        own = sum(effect for edge, effect in edges.items() if edge.sender == f"{layer}.{head}")
        assert own == pytest.approx(score, abs=1e-5)
