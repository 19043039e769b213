"""Masks over edges that are trained, on a small planted model whose edges are known."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from oracle_kit import RandomTask, random_model

from circuitbench.core.errors import InvalidSpec
from circuitbench.models.planted.presets import Copies, PlantedConfig, planted_model
from circuitbench.oracle import Oracle
from circuitbench.plugins.registry import load_task
from circuitbench_baselines import hard_concrete
from circuitbench_baselines.edge_pruning import EdgePruning
from circuitbench_baselines.subnetwork_probing import EdgeSubnetworkProbing
from circuitbench_baselines.uniform_gradient_sampling import UniformGradientSampling, draw

ROLES = {"previous_token": Copies(1), "induction": Copies(1)}
METHODS = [
    EdgePruning(steps=60),
    EdgeSubnetworkProbing(steps=60, penalty=30.0, rate=0.2),
    UniformGradientSampling(steps=120, constants_rate=0.0),
]


@cache
def easy_model() -> Any:
    """4 x 4 heads, two of them an induction circuit of five edges."""
    return planted_model("tiny", PlantedConfig(4, 4, roles=ROLES, lookalikes=0), "100")


def discover(method: Any, seed: int = 0, **options: Any) -> Any:
    task: Any = load_task("induction")
    asked = Oracle(easy_model(), task, task_name="induction", seed=100, batch_size=4, **options)
    return method.discover(asked, np.random.default_rng(seed)), asked


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_a_trained_mask_keeps_the_planted_circuit_and_little_else(method: Any) -> None:
    found, asked = discover(method)
    truth: Any = load_task("induction").truth(easy_model())
    assert asked.meter.queries == 3 * method.steps
    # A counterfactual has the same last token: under resample its query edge shows nothing.
    matters = {edge for edge in truth.edges if str(edge) != "embed->2.3.q"}
    assert matters <= found.selected_edges
    assert len(found.selected_edges) <= 12  # of 353
    assert truth.heads <= found.selected
    kept = torch.tensor([[edge in found.selected_edges for edge in asked.edges.edges]])
    ablation = method.ablation
    harm = asked.edges.query(kept, ablation=ablation).task[0]
    assert float(harm) < 0.1 * asked.clean_metric
    spent = [point.queries for point in found.trace]
    assert spent == sorted(set(spent))
    assert spent[-1] == 3 * method.steps
    assert np.array_equal(found.trace[-1].scores, found.scores)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("budget", [0, 2, 7])
def test_a_small_budget_gives_what_its_steps_found(method: Any, budget: int) -> None:
    found, asked = discover(method, budget=budget)
    assert asked.meter.queries == 3 * (budget // 3)
    assert np.isfinite(found.scores).all()


@pytest.mark.parametrize(
    "method",
    [
        EdgePruning(steps=0),
        EdgePruning(sparsity=1.5),
        EdgePruning(pressure=0),
        EdgeSubnetworkProbing(start=1.0),
        EdgeSubnetworkProbing(rate=0),
        UniformGradientSampling(rate=0),
        UniformGradientSampling(constants_rate=-1),
        UniformGradientSampling(start=0),
    ],
    ids=repr,
)
def test_nonsense_hyperparameters_are_refused(method: Any) -> None:
    with pytest.raises(InvalidSpec, match=", not "):
        discover(method)


def test_the_penalty_and_the_target_press_edges_out() -> None:
    few, _ = discover(EdgeSubnetworkProbing(steps=30, penalty=3000.0, rate=0.3))
    assert len(few.selected_edges) < 4
    loose, _ = discover(EdgePruning(steps=30, sparsity=0.0))
    assert len(loose.selected_edges) > 300


def test_constants_that_follow_their_slope_do_less_harm_than_the_means() -> None:
    model = random_model(0, n_layers=2, n_heads=2, d_mlp=8)
    asked = Oracle(model, RandomTask(), task_name="random", seed=0, batch_size=4)
    cut = torch.zeros(1, len(asked.edges.edges))
    offsets = torch.zeros(asked.edges.offsets_shape, requires_grad=True)
    adam = torch.optim.Adam([offsets], lr=0.02)
    divergence = []
    for _ in range(30):
        found = asked.edges.differentiate(cut, of=("kl",), ablation="mean", offsets=offsets)
        divergence.append(float(found.values["kl"][0]))
        offsets.grad = found.offsets["kl"][0]
        adam.step()
    assert divergence[-1] < 0.9 * divergence[0]


def test_gates_are_hard_concrete() -> None:
    location = torch.tensor([-1.0, 0.0, 2.0]).double()
    rng = np.random.default_rng(0)
    gates = torch.stack([hard_concrete.draw(location, rng) for _ in range(20_000)])
    assert gates.min() == 0
    assert gates.max() == 1
    opened = (gates > 0).double().mean(0)
    assert opened.numpy() == pytest.approx(hard_concrete.open_chance(location).numpy(), abs=0.01)
    at = hard_concrete.location_of(0.9)
    assert float(hard_concrete.quiet(torch.tensor(at))) == pytest.approx(0.9)


def test_uniform_gates_are_as_many_as_they_should_be_and_keep_the_mean() -> None:
    chance = torch.tensor([0.02, 0.3, 0.5, 0.9]).double()
    rng = np.random.default_rng(0)
    drawn = [draw(chance, rng) for _ in range(20_000)]
    gates, uniform = (torch.stack(part) for part in zip(*drawn, strict=True))
    assert gates.mean(0).numpy() == pytest.approx(chance.numpy(), abs=0.01)
    share = (chance * (1 - chance)).numpy()
    assert uniform.double().mean(0).numpy() == pytest.approx(share, abs=0.01)
    assert set(gates[~uniform].tolist()) == {0.0, 1.0}
    assert float(gates[uniform].mean()) == pytest.approx(0.5, abs=0.01)
