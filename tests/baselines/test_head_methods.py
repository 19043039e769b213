"""Head methods beyond one-at-a-time ablation, on a model whose every effect is known."""

from typing import Any

import numpy as np
import pytest
import torch
from agents_kit import FixedDifference, additive_model

from circuitbench.checks.contracts import ToyTask
from circuitbench.core.errors import InvalidSpec
from circuitbench.models import LayerWeights, Model, Transformer, TransformerConfig
from circuitbench.models.planted.presets import Copies, PlantedConfig, planted_model
from circuitbench.oracle import Oracle
from circuitbench.tasks import Prompts
from circuitbench.tasks.planted.ioi import IOI
from circuitbench_baselines.direct_logit_attribution import DirectLogitAttribution
from circuitbench_baselines.greedy import GreedyBackward, GreedyForward
from circuitbench_baselines.head_importance import HeadImportance
from circuitbench_baselines.pairwise_regression import PairwiseRegression
from circuitbench_baselines.path_patching import PathPatching
from circuitbench_baselines.shapley import ShapleyValues
from circuitbench_baselines.subnetwork_probing import SubnetworkProbing

CAUSE, OTHER, ANSWER, WRONG = 1, 2, 3, 4
# What each head adds to the answer by itself. 0.0 and 0.1 are stand-ins: together they add 2,
# and either of them alone the same 2.
ALONE = np.array([[2.0, 2.0, 1.0], [0.5, -0.5, 0.0]])
CLEAN = 3.0
METHODS = [
    HeadImportance(),
    SubnetworkProbing(),
    ShapleyValues(),
    GreedyForward(),
    GreedyBackward(),
    PairwiseRegression(),
    DirectLogitAttribution(),
    PathPatching(),
]


def stand_in_model() -> Model:
    """Features: cause, mark, answer. An MLP after layer 0 writes 2 min(mark, 1) to the answer.

    Heads attend uniformly, so at the last of three tokens one cause gives each of them 1 to write:
    0.0 and 0.1 into the mark, the others (see ALONE) into the answer.
    """
    writes = torch.zeros(2, 3, 1, 3)
    writes[0, 0, 0, 1] = writes[0, 1, 0, 1] = 1.0
    writes[0, 2, 0, 2], writes[1, 0, 0, 2], writes[1, 1, 0, 2] = 1.0, 0.5, -0.5
    zeros, value = torch.zeros(3, 3, 1), torch.zeros(3, 3, 1)
    value[:, 0, 0] = 3.0
    into, out = torch.zeros(3, 2), torch.zeros(2, 3)
    into[1] = 1.0
    out[:, 2] = torch.tensor([2.0, -2.0])  # 2 relu(mark) - 2 relu(mark - 1)
    layers = tuple(
        LayerWeights(
            W_Q=zeros,
            W_K=zeros,
            W_V=value,
            W_O=writes[layer],
            W_in=into * (layer == 0),
            b_in=torch.tensor([0.0, -1.0]),
            W_out=out,
            b_out=torch.zeros(3),
        )
        for layer in range(2)
    )
    embed, unembed = torch.zeros(5, 3), torch.zeros(3, 5)
    embed[CAUSE, 0], unembed[2, ANSWER] = 1.0, 1.0
    config = TransformerConfig(
        n_layers=2,
        n_heads=3,
        d_model=3,
        d_head=1,
        d_vocab=5,
        n_ctx=3,
        d_mlp=2,
        activation="relu",
        attn_scale=1.0,
        positions="none",
    )
    return Model("stand-in", 2, 3, Transformer(config, embed, unembed, layers))


class CauseTask(ToyTask):
    def prompts(self, model: Any, n: int, rng: np.random.Generator) -> Any:
        return Prompts(
            torch.tensor([[0, CAUSE, 0]]).repeat(n, 1),
            torch.tensor([[0, OTHER, 0]]).repeat(n, 1),
            torch.full((n, 1), 2),
            torch.tensor([[[ANSWER, WRONG]]]).repeat(n, 1, 1),
            torch.tensor([[[1.0, -1.0]]]).repeat(n, 1, 1),
            torch.tensor([ANSWER, WRONG]),
        )

    def control(self, model: Any, n: int, rng: np.random.Generator) -> Any:
        return torch.tensor([[0, OTHER, OTHER]]).repeat(n, 1)


def discover(method: Any, seed: int = 0, **options: Any) -> Any:
    asked = Oracle(
        stand_in_model(), CauseTask(), task_name="cause", seed=0, batch_size=2, **options
    )
    return method.discover(asked, np.random.default_rng(seed)), asked


def test_the_model_is_what_the_tests_take_it_for() -> None:
    _, asked = discover(GreedyBackward(queries=1))
    assert asked.clean_metric == pytest.approx(CLEAN)
    alone = asked.query(~asked.head_masks(), control=False).task.numpy().reshape(2, 3)
    assert CLEAN - alone == pytest.approx(ALONE, abs=1e-5)
    off = asked.query(asked.head_masks(), control=False).task.numpy().reshape(2, 3)
    assert off == pytest.approx(np.array([[0, 0, 1], [0.5, -0.5, 0]]), abs=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("budget", [0, 1, 2, 4, 11])
def test_a_small_budget_gives_a_partial_answer(method: Any, budget: int) -> None:
    discovery, asked = discover(method, budget=budget)
    assert asked.meter.queries <= budget
    assert discovery.scores.shape == (2, 3)
    assert np.isfinite(discovery.scores).all()


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_trace_ends_with_the_answer_and_its_cost(method: Any) -> None:
    discovery, asked = discover(method)
    spent = [point.queries for point in discovery.trace]
    assert spent == sorted(set(spent))
    if spent:
        assert spent[-1] == asked.meter.queries
        assert np.array_equal(discovery.trace[-1].scores, discovery.scores)


@pytest.mark.parametrize(
    "method",
    [
        HeadImportance(batches=0),
        HeadImportance(share=0),
        SubnetworkProbing(start=1.0),
        SubnetworkProbing(rate=0),
        ShapleyValues(queries=0),
        ShapleyValues(tolerance=-1),
        GreedyForward(candidates=0),
        GreedyBackward(share=0),
        PairwiseRegression(screening=1.0),
        PairwiseRegression(share=0),
        PairwiseRegression(screened=0),
        PathPatching(rounds=0),
    ],
    ids=repr,
)
def test_nonsense_hyperparameters_are_refused(method: Any) -> None:
    with pytest.raises(InvalidSpec, match="not"):
        discover(method)


def test_head_importance_is_the_slope_and_blind_to_stand_ins() -> None:
    raw, asked = discover(HeadImportance(per_layer=False))
    assert raw.scores == pytest.approx(np.array([[0, 0, 1], [0.5, 0.5, 0]]), abs=1e-5)
    assert raw.signed == pytest.approx(np.array([[0, 0, 1], [0.5, -0.5, 0]]), abs=1e-5)
    assert asked.meter.queries == 12
    normed, _ = discover(HeadImportance())
    root = 2**-0.5
    assert normed.scores == pytest.approx(np.array([[0, 0, 1], [root, root, 0]]), abs=1e-5)
    assert len(normed.selected) == 1


def test_shapley_values_are_those_of_the_game() -> None:
    found, asked = discover(ShapleyValues(queries=601, tolerance=0))
    assert found.info["orders"] == 100
    assert asked.meter.queries == 601
    exact = np.array([[1, 1, 1], [0.5, -0.5, 0]])  # an order and its reverse share the stand-ins'
    assert found.scores == pytest.approx(exact, abs=1e-5)
    assert found.scores.sum() == pytest.approx(CLEAN, abs=1e-5)
    assert found.selected == {(0, 0), (0, 1), (0, 2), (1, 0)}


def test_a_shapley_order_is_given_up_once_nothing_is_left_to_lose() -> None:
    gains = np.zeros((4, 3))
    gains[1, 1] = 2.0
    orders = {}
    for tolerance in (0.0, 0.02):
        asked = Oracle(
            additive_model(gains), FixedDifference(), task_name="additive", seed=0, batch_size=2
        )
        method = ShapleyValues(queries=200, tolerance=tolerance)
        found = method.discover(asked, np.random.default_rng(0))
        assert found.scores == pytest.approx(gains, abs=1e-5)
        orders[tolerance] = found.info["orders"]
    assert orders[0.0] == 17  # 12 queries each; the last is cut short
    assert orders[0.02] > 20


def test_probing_keeps_what_pays_for_itself_and_both_stand_ins() -> None:
    found, asked = discover(SubnetworkProbing(steps=200, penalty=0.3))
    assert asked.meter.queries == 600
    # The noise of the gates makes it worth to keep a stand-in, though less than a head of no peer.
    assert found.selected == {(0, 0), (0, 1), (0, 2), (1, 0)}
    assert found.scores[0, :2].max() < found.scores[0, 2]
    none, _ = discover(SubnetworkProbing(steps=200, penalty=100))
    assert none.selected == frozenset()


def test_restoring_adds_what_is_missing_and_stops() -> None:
    found, asked = discover(GreedyForward())
    # 2 by one of the stand-ins, 1 by head 0.2; then the metric is clean.
    assert len(found.selected) == 2
    assert (0, 2) in found.selected
    first = np.unravel_index(found.scores.argmax(), found.scores.shape)
    assert tuple(map(int, first)) in {(0, 0), (0, 1)}
    assert asked.meter.queries == 1 + 6 + 5 + 4


def test_removal_never_takes_both_stand_ins() -> None:
    for seed in range(5):
        found, _ = discover(GreedyBackward(share=1.0), seed)
        assert len(found.selected & {(0, 0), (0, 1)}) == 1
        assert (0, 2) in found.selected
        assert (1, 2) not in found.selected
        assert all(found.scores[head] > 0 for head in found.selected)
        assert found.scores[1, 2] < 0


def test_direct_logit_attribution_is_what_heads_write_to_the_answer() -> None:
    found, asked = discover(DirectLogitAttribution())
    assert found.signed == pytest.approx(np.array([[0, 0, 1], [0.5, -0.5, 0]]), abs=1e-5)
    assert found.selected == {(0, 2), (1, 0), (1, 1)}  # blind to what acts through the MLP
    assert asked.meter.queries == 6
    found, _ = discover(DirectLogitAttribution(absolute=False))
    assert found.selected == {(0, 2), (1, 0)}


def test_path_patching_goes_back_from_the_logits_to_who_is_heard() -> None:
    roles = {"duplicate_token": Copies(1), "s_inhibition": Copies(1), "name_mover": Copies(2)}
    model = planted_model("small", PlantedConfig(4, 4, roles, lookalikes=3), "7")
    task, heads = IOI(), model.construction.heads
    found = {}
    for rounds in (1, 2, 3):
        asked = Oracle(model, task, task_name="ioi", seed=0, batch_size=4)
        answer = PathPatching(rounds=rounds).discover(asked, np.random.default_rng(0))
        found[rounds] = answer.selected
        assert asked.meter.queries == answer.trace[-1].queries
    assert found[1] == set(heads["name_mover"])
    assert found[2] == found[1] | set(heads["s_inhibition"])
    assert found[3] == found[2] | set(heads["duplicate_token"])
    assert found[3] == task.truth(model).heads


def test_pairs_see_stand_ins() -> None:
    found, asked = discover(PairwiseRegression(queries=800, ridge=1e-3))
    assert asked.meter.queries == 800
    assert found.scores == pytest.approx(np.array([[2, 2, 1], [0.5, 0.5, 0]]), abs=0.02)
    assert found.signed == pytest.approx(np.array([[2, 2, 1], [0.5, -0.5, 0]]), abs=0.02)
    assert found.selected == {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)}
