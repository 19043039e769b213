"""Ensembles, bootstrap-stable edges, and sets of edges by integer programme."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from agents_kit import FixedDifference, additive_model
from oracle_kit import RandomTask, random_model

from circuitbench.core.edges import graph_of
from circuitbench.core.errors import BudgetExceeded, InvalidSpec, UnknownName
from circuitbench.oracle import Oracle
from circuitbench.plugins.registry import method_class
from circuitbench_baselines.ensembles import EdgeEnsemble, HeadEnsemble, combined, scaled
from circuitbench_baselines.integer_programme import (
    EdgeIntegerProgramme,
    best_connected,
    greedy_connected,
    worth_a_look,
)
from circuitbench_baselines.stable_edges import (
    BootstrapStableEdges,
    keeps_sign,
    mostly_positive,
    ranked,
)

MODEL = random_model(1, n_layers=2, n_heads=3, d_mlp=10, normalization="layer")


def discover(method: Any, seed: int = 0, **options: Any) -> Any:
    asked = Oracle(MODEL, RandomTask(), task_name="random", seed=0, batch_size=4, **options)
    return method.discover(asked, np.random.default_rng(seed)), asked


def connected(ends: np.ndarray, taken: np.ndarray) -> bool:
    """Whether every node of the set is on a path from embedding to logits, within the set."""
    edges, last = ends[taken].tolist(), int(ends.max())
    ahead, behind = {0}, {last}
    for _ in range(last + 1):
        ahead |= {hears for sender, hears in edges if sender in ahead}
        behind |= {sender for sender, hears in edges if hears in behind}
    return all({sender, hears} <= ahead & behind for sender, hears in edges)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 20])
def test_the_programme_is_connected_and_no_worse_than_greedy(size: int) -> None:
    for seed in range(6):
        ends = graph_of(2, 2, seed % 2 == 0).ends
        scores = np.random.default_rng(seed).exponential(size=len(ends)) ** 2
        taken, proved = best_connected(ends, scores, size)
        greedy = greedy_connected(ends, scores, size)
        assert proved
        assert 0 < taken.sum() <= size
        assert greedy.sum() <= size
        assert connected(ends, taken)
        assert connected(ends, greedy)
        assert scores[taken].sum() >= scores[greedy].sum() - 1e-9


def test_the_programme_finds_what_trying_all_sets_finds() -> None:
    ends = graph_of(1, 2, True).ends
    for seed in range(3):
        scores = np.random.default_rng(seed).exponential(size=len(ends))
        for size in (2, 4):
            best = 0.0
            for few in range(1, size + 1):
                for some in combinations(range(len(ends)), few):
                    taken = np.isin(np.arange(len(ends)), some)
                    if connected(ends, taken):
                        best = max(best, float(scores[taken].sum()))
            mine, _ = best_connected(ends, scores, size)
            assert scores[mine].sum() == pytest.approx(best)


def test_a_strong_edge_is_worth_a_weak_way_to_it() -> None:
    graph = graph_of(2, 1, False)
    names = [str(edge) for edge in graph.edges]
    scores = np.full(len(names), 0.01)
    scores[names.index("0.0->1.0.v")] = 9.0
    scores[names.index("embed->logits")] = 1.0
    taken, _ = best_connected(graph.ends, scores, 3)
    kept = [name for name, one in zip(names, taken, strict=True) if one]
    assert "0.0->1.0.v" in kept
    assert any(name.startswith("embed->0.0") for name in kept)
    assert "1.0->logits" in kept
    assert greedy_connected(graph.ends, scores, 1).tolist() == [n == "embed->logits" for n in names]


def test_nothing_is_taken_where_nothing_may_be() -> None:
    ends = graph_of(1, 1, False).ends
    assert not best_connected(ends, np.ones(len(ends)), 0)[0].any()
    assert not greedy_connected(ends, np.ones(len(ends)), 0).any()


def test_candidates_leave_every_node_a_way_in_and_out() -> None:
    ends = graph_of(3, 2, True).ends
    few = worth_a_look(ends, np.random.default_rng(0).random(len(ends)), 2)
    assert set(ends[few, 0]) == set(ends[:, 0])
    assert set(ends[few, 1]) == set(ends[:, 1])
    assert len(few) < len(ends)


def test_the_method_commits_to_the_smallest_set_that_is_faithful() -> None:
    found, asked = discover(EdgeIntegerProgramme(smallest=4, faithful=-10.0))
    assert found.info["size"] == 4
    assert asked.meter.queries == 15 + 1 + 1
    everything = len(asked.edges.edges)
    most, asked = discover(EdgeIntegerProgramme(smallest=4, largest=everything, faithful=0.95))
    away = {one["size"]: abs(1 - one["faithfulness"]) for one in most.info["tried"]}
    assert away[most.info["size"]] <= min(away.values()) + 0.01
    best = sorted(most.edges, key=most.edges.get)[-most.info["taken"] :]
    assert set(best) == most.selected_edges  # the set ranks above the rest
    told, asked = discover(EdgeIntegerProgramme(size=7))
    assert told.info["taken"] <= 7
    assert asked.meter.queries == 15
    poor, asked = discover(EdgeIntegerProgramme(), budget=16)
    assert poor.info["tried"] == []


def test_an_ensemble_of_one_method_is_that_method() -> None:
    name = "edge-attribution-patching"
    alone, _ = discover(method_class(name)())
    for how in ("mean", "min", "max"):
        found, asked = discover(EdgeEnsemble((name, name), combine=how))
        assert asked.meter.queries == 6
        assert found.info["queries"] == [3, 3]
        assert found.selected_edges == alone.selected_edges
        assert found.selected == alone.selected
        edges = asked.edges.edges
        mine, its = (np.array([one.edges[e] for e in edges]) for one in (found, alone))
        assert mine == pytest.approx(scaled(its))


def test_an_ensemble_of_head_methods_combines_scores_and_votes() -> None:
    gains = np.zeros((4, 3))
    gains[1, 1], gains[2, 0] = 2.0, 1.0
    task = FixedDifference()
    asked = Oracle(additive_model(gains), task, task_name="additive", seed=0, batch_size=2)
    members = ("head-ablation", "head-importance")
    alone = [method_class(name)().discover(asked, np.random.default_rng(0)) for name in members]
    votes = [one.selected for one in alone]
    assert votes == [{(1, 1), (2, 0)}, {(1, 1)}]
    how: Any
    for how, agreed in (
        ("mean", votes[0] & votes[1]),
        ("min", votes[0] & votes[1]),
        ("max", votes[0] | votes[1]),
    ):
        found = HeadEnsemble(members, how).discover(asked, np.random.default_rng(0))
        assert found.scores == pytest.approx(combined([scaled(one.scores) for one in alone], how))
        assert found.selected == agreed


def test_scores_and_votes_by_hand() -> None:
    one, two = scaled(np.array([-1.0, 0.0, 3.0])), scaled(np.array([5.0, 5.0, 5.0]))
    assert one.tolist() == [0, 0.25, 1]
    assert two.tolist() == [0, 0, 0]
    assert combined([one, two], "mean").tolist() == [0, 0.125, 0.5]
    assert combined([one, two], "min").tolist() == [0, 0, 0]
    assert combined([one, two], "max").tolist() == [0, 0.25, 1]


def test_an_ensemble_says_whom_the_budget_left_out() -> None:
    name = "edge-attribution-patching"
    found, asked = discover(EdgeEnsemble((name, name)), budget=4)
    assert asked.meter.queries == 3
    assert found.info == {"asked": [name], "queries": [3], "left_out": [name]}
    with pytest.raises(BudgetExceeded):
        discover(EdgeEnsemble((name,)), budget=2)


@pytest.mark.parametrize(
    ("method", "error", "reason"),
    [
        (EdgeEnsemble(()), InvalidSpec, "at least one member"),
        (EdgeEnsemble(("head-ablation",)), InvalidSpec, "rank edges; head-ablation does not"),
        (EdgeEnsemble(("edge-ensemble",)), InvalidSpec, "member of an ensemble: edge-ensemble"),
        (HeadEnsemble(("rl-ppo",)), InvalidSpec, "do not train; rl-ppo does"),
        (HeadEnsemble(("acdcc",)), UnknownName, "did you mean 'acdc'"),
    ],
    ids=lambda x: getattr(x, "members", None) and repr(x),
)
def test_members_that_cannot_be_are_refused(method: Any, error: Any, reason: str) -> None:
    with pytest.raises(error, match=reason):
        discover(method)


def test_an_edge_is_sure_if_no_resample_turns_it() -> None:
    rng = np.random.default_rng(0)
    always, never = np.full(20, -0.1), np.tile([1.0, -1.0], 10)
    seldom = np.where(np.arange(20) == 0, 1.0, 0.0)  # one prompt: absent from a third of resamples
    mostly = np.where(np.arange(20) < 18, 1.0, -1.0)
    effects = np.stack([always, never, seldom, mostly], 1)
    assert keeps_sign(effects, 500, 0.95, rng).tolist() == [True, False, False, True]


def test_unsure_edges_rank_below_sure_ones_in_their_order() -> None:
    scores = ranked(np.array([0.1, 5.0, 0.2, 3.0]), np.array([True, False, True, False]))
    assert np.argsort(-scores).tolist() == [2, 0, 1, 3]
    same = np.array([1.0, 2.0])
    assert ranked(same, np.array([True, True])).tolist() == [1, 2]
    assert ranked(same, np.array([False, False])).tolist() == [1, 2]


def test_the_ratio_keeps_a_share_for_edges_that_help() -> None:
    effects, sure = np.array([-9.0, -8.0, 3.0, 2.0, 1.0, 7.0]), np.array([True] * 5 + [False])
    assert np.flatnonzero(mostly_positive(effects, sure, 2, 0.0)).tolist() == [0, 1]
    assert np.flatnonzero(mostly_positive(effects, sure, 2, 0.5)).tolist() == [0, 2]
    assert np.flatnonzero(mostly_positive(effects, sure, 2, 1.0)).tolist() == [2, 3]


def test_stable_edges_cost_a_gradient_a_batch_and_equal_attribution_where_sure() -> None:
    found, asked = discover(BootstrapStableEdges(batches=1))
    assert asked.meter.queries == 15
    plain, _ = discover(method_class("eap-ig-inputs")())
    sure = [edge for edge in found.edges if found.edges[edge] == pytest.approx(plain.edges[edge])]
    assert found.info == {"prompts": 4, "sure": found.info["sure"]}
    assert found.info["sure"] <= len(sure)
    assert found.selected_edges <= set(sure)
    _, asked = discover(BootstrapStableEdges(batches=3), budget=31)
    assert asked.meter.queries == 30
    found, asked = discover(BootstrapStableEdges(batches=2, steps=0))
    assert asked.meter.queries == 6


@pytest.mark.parametrize(
    "method",
    [
        BootstrapStableEdges(confidence=1.0),
        BootstrapStableEdges(batches=0),
        BootstrapStableEdges(positive=2.0),
        BootstrapStableEdges(steps=-1),
        EdgeIntegerProgramme(size=-1),
        EdgeIntegerProgramme(steps=-1),
        EdgeIntegerProgramme(candidates=0),
        EdgeIntegerProgramme(nodes=0),
    ],
    ids=repr,
)
def test_nonsense_hyperparameters_are_refused(method: Any) -> None:
    with pytest.raises(InvalidSpec, match=", not "):
        discover(method)
