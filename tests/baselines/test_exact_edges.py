"""Edge methods that ask for what really happens: exact patching, ACDC, closeness, chance."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from oracle_kit import RandomTask, random_model

from circuitbench import InvalidSpec, load_model, load_task
from circuitbench.core.circuit import Edge
from circuitbench.oracle import Oracle
from circuitbench_baselines.acdc import ACDCEdges
from circuitbench_baselines.information_flow import InformationFlowRoutes
from circuitbench_baselines.patching import ExactEdgePatching
from circuitbench_baselines.random import RandomEdges

MODEL = random_model(3, n_layers=2, n_heads=2, d_mlp=10, normalization="layer")
METHODS = [
    ACDCEdges(threshold=0.001),
    ExactEdgePatching(),
    ExactEdgePatching(mode="denoising"),
    InformationFlowRoutes(),
    RandomEdges(),
]


def oracle_of(budget: int | None = None) -> Oracle:
    task = RandomTask(k=2)
    return Oracle(MODEL, task, task_name="random", seed=0, batch_size=4, budget=budget)


def discover(method: Any, budget: int | None = None, seed: int = 0) -> tuple[Any, Oracle]:
    oracle = oracle_of(budget)
    return method.discover(oracle, np.random.default_rng(seed)), oracle


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("budget", [0, 1, 17])
def test_they_keep_to_the_budget_and_answer_all_the_same(method: Any, budget: int) -> None:
    found, oracle = discover(method, budget)
    assert oracle.meter.queries <= budget
    assert np.isfinite(found.scores).all()
    assert found.selected_edges is not None
    spent = [point.queries for point in found.trace]
    assert spent == sorted(set(spent))
    assert all(0 < queries <= budget for queries in spent)


@pytest.mark.parametrize("mode", ["noising", "denoising"])
def test_exact_patching_is_every_edge_alone(mode: Any) -> None:
    found, oracle = discover(ExactEdgePatching(mode=mode, signed=True, listed=10**6))
    n = len(oracle.edges.edges)
    one = torch.eye(n).bool()
    none = oracle.edges.query(one[:1] & False, direction="denoising").task
    if mode == "noising":
        want = oracle.edges.query(~one, ablation="resample").task
    else:
        want = none - oracle.edges.query(one, direction="denoising").task
    got = [found.edges[edge] for edge in oracle.edges.edges]
    assert got == pytest.approx(want.tolist(), abs=1e-5)
    strongest = max(abs(s) for e, s in found.edges.items() if e.sender == "0.1")
    assert abs(found.scores[0, 1]) == pytest.approx(strongest)
    np.testing.assert_allclose(found.trace[-1].scores, found.scores)


def test_exact_patching_of_a_share_leaves_the_rest_at_zero() -> None:
    found, oracle = discover(ExactEdgePatching(listed=10**6), budget=10)
    assert 0 < sum(score != 0 for score in found.edges.values()) <= 10
    assert found.info["edges_patched"] == 10
    assert oracle.remaining == 0


def written_out(oracle: Oracle, threshold: float) -> set[Edge]:
    """Algorithm 1 of the paper, one question after another."""
    edges = oracle.edges.edges
    receivers = list(dict.fromkeys(edge.receiver for edge in edges))
    keep, current = set(edges), 0.0
    rank = {"q": 2, "k": 1, "v": 0}
    place = {r: i for i, r in enumerate(receivers)}
    by_turn = sorted(
        receivers,
        key=lambda r: (place[r] - "qkv".index(r[-1]) + rank[r[-1]]) if "." in r else place[r],
    )
    for receiver in reversed(by_turn):
        for edge in reversed([e for e in edges if e.receiver == receiver]):
            mask = oracle.edges.without({*edges} - keep | {edge})
            kl = oracle.edges.query(mask[None], ablation="resample", kl=True).kl
            assert kl is not None
            if float(kl[0]) - current < threshold:
                keep.discard(edge)
                current = float(kl[0])
    return keep


@pytest.mark.parametrize("threshold", [0.0003, 0.003, 0.03])
@pytest.mark.parametrize("ahead", [1, 8])
def test_acdc_is_the_published_algorithm(threshold: float, ahead: int) -> None:
    found, oracle = discover(ACDCEdges(threshold=threshold, ahead=ahead))
    assert found.selected_edges == written_out(oracle_of(), threshold)
    assert found.info["edges_kept"] == {f"{threshold:g}": len(found.selected_edges)}
    if ahead == 1:
        assert found.info["thrown_away"] == 0
        assert oracle.meter.queries <= len(oracle.edges.edges)
    kept = [found.edges[e] for e in found.selected_edges]
    others = [s for e, s in found.edges.items() if e not in found.selected_edges]
    assert min(kept, default=1) >= threshold > max(others, default=0)


def test_a_curve_of_thresholds_ranks_by_the_largest_that_keeps_an_edge() -> None:
    curve = (0.0003, 0.003, 0.03)
    found, _ = discover(ACDCEdges(threshold=0.003, curve=curve, listed=10**6))
    circuits = {t: discover(ACDCEdges(threshold=t))[0].selected_edges for t in curve}
    assert found.selected_edges == circuits[0.003]
    for edge, score in found.edges.items():
        kept_at = [t for t in curve if edge in (circuits[t] or ())]
        assert [t for t in curve if score >= t][-1:] == kept_at[-1:]


def test_acdc_by_the_metric_and_from_a_prefilter() -> None:
    found, oracle = discover(ACDCEdges(by="metric", prefilter=20))
    assert found.info["edges_started_from"] == 20
    assert found.selected_edges is not None
    assert len(found.selected_edges) <= 20
    assert oracle.meter.gradients == 1
    for wrong in (ACDCEdges(threshold=0), ACDCEdges(ahead=0), ACDCEdges(prefilter=0)):
        with pytest.raises(InvalidSpec, match="not 0"):
            discover(wrong)


def test_random_edges_commit_to_the_best() -> None:
    found, oracle = discover(RandomEdges(commit=5, listed=10**6))
    assert oracle.meter.queries == 0
    assert found.selected_edges == {*sorted(found.edges, key=lambda e: -found.edges[e])[:5]}
    again, _ = discover(RandomEdges(), seed=1)
    assert not np.array_equal(found.scores, again.scores)


def test_information_flow_is_one_forward_pass() -> None:
    found, oracle = discover(InformationFlowRoutes(listed=10**6))
    meter = oracle.meter
    assert (meter.queries, meter.forwards, meter.backwards) == (1, 3, 0)  # two of them drew
    assert all(0 <= score <= 1 for score in found.edges.values())
    assert found.edges[Edge("0.0", "1.1.q")] == found.edges[Edge("0.0", "1.0.v")]


@cache
def planted() -> Oracle:
    task = load_task("induction")
    return Oracle(load_model("planted-easy@100"), task, task_name="induction", seed=0, batch_size=8)


def test_acdc_recovers_the_true_edges_of_a_planted_model() -> None:
    oracle = planted()
    truth: Any = oracle._task.truth(oracle._model)
    true = set(truth.edges)
    found: Any = ACDCEdges(threshold=0.01).discover(oracle, np.random.default_rng(0))
    assert found.selected_edges <= true
    # What is missing carries what the counterfactual prompt has too: no patching can see it.
    missing = true - found.selected_edges
    kl = oracle.edges.query(oracle.edges.without(missing)[None], ablation="resample", kl=True).kl
    assert kl is not None
    assert float(kl[0]) < 0.01
    assert len(found.selected_edges) >= 0.75 * len(true)
    assert oracle.meter.queries < 1000  # of 29,089 edges: the rest is removed unasked
