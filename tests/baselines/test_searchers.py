from functools import partial
from typing import Any

import numpy as np
import pytest
from agents_kit import GAINS, additive_model

from circuitbench.core.circuit import Head
from circuitbench.core.errors import BudgetExceeded, InvalidSpec
from circuitbench.plugins.method import Method
from circuitbench_baselines.bandits import BanditThompson, BanditUCB, HeadBelief, SuccessiveHalving
from circuitbench_baselines.episodes.evidence import Evidence
from circuitbench_baselines.evolution_strategy import CovarianceMatrixAdaptation
from circuitbench_baselines.mask_search import CrossEntropy
from circuitbench_baselines.tree_search import MCTS

PULLERS = [BanditUCB, BanditThompson, SuccessiveHalving, MCTS]
PRUNERS = [
    partial(CrossEntropy, queries=480, population=40),
    partial(CovarianceMatrixAdaptation, queries=480, population=40),
]
USEFUL = {Head(0, 0), Head(0, 2), Head(1, 1), Head(2, 2)}


@pytest.mark.parametrize("make", PULLERS)
def test_pullers_find_every_head_that_does_damage(make: Any, make_oracle: Any) -> None:
    found = make(queries=60).discover(make_oracle(), np.random.default_rng(0))
    assert found.selected == USEFUL
    assert np.argmax(found.scores) == 0


@pytest.mark.parametrize("make", PULLERS)
@pytest.mark.parametrize("budget", [1, 5])
def test_pullers_stay_in_the_budget(make: Any, budget: Any, make_oracle: Any) -> None:
    oracle = make_oracle(budget=budget)
    found = make().discover(oracle, np.random.default_rng(0))
    assert oracle.remaining == 0
    assert found.trace[-1].queries == budget


@pytest.mark.parametrize("make", PRUNERS)
def test_pruners_keep_the_heads_that_matter_and_drop_the_rest(make: Any, make_oracle: Any) -> None:
    gains = np.zeros((3, 3))
    gains[0, 1] = gains[2, 0] = 2.0
    oracle = make_oracle(gains, budget=400)
    found = make().discover(oracle, np.random.default_rng(0))
    assert found.selected == {Head(0, 1), Head(2, 0)}
    assert oracle.meter.queries <= 400
    assert oracle.meter.queries == found.trace[-1].queries


@pytest.mark.parametrize("make", PRUNERS)
def test_pruners_need_a_query_for_the_empty_circuit(make: Any, make_oracle: Any) -> None:
    with pytest.raises(BudgetExceeded):
        make().discover(make_oracle(budget=0), np.random.default_rng(0))


def test_a_good_head_raises_its_layer_and_the_belief_tightens() -> None:
    belief = HeadBelief((2, 3), common=0.1, layer=1.0, head=1.0, noise=0.1)
    before = belief.deviation.copy()
    belief.update(np.array([0]), np.array([5.0]))
    assert belief.mean[0] == pytest.approx(5.0, rel=0.02)
    assert belief.mean[1] == belief.mean[2] > 2.0
    assert belief.mean[3] < 0.1
    assert (belief.deviation <= before + 1e-12).all()
    draws = np.array([belief.sample(np.random.default_rng(i)) for i in range(3000)])
    assert draws.mean(0) == pytest.approx(belief.mean, abs=0.1)
    assert draws.std(0) == pytest.approx(belief.deviation, abs=0.1)


def test_the_tree_search_sees_a_backup_that_no_single_ablation_shows(make_oracle: Any) -> None:
    oracle = make_oracle(np.array([[2.0, 2.0], [0.0, 0.0]]))
    query = oracle.query

    def hide(
        masks: Any, **kw: Any
    ) -> Any:  # 0.1 does the work of 0.0 once that is off, and the other way
        damages = query(masks, **kw)
        both = (~masks[:, 0]).all(1)
        object.__setattr__(damages, "task", damages.task * both)
        return damages

    oracle.query = hide
    found = MCTS(queries=200).discover(oracle, np.random.default_rng(0))
    assert found.selected == {Head(0, 0), Head(0, 1)}


def test_an_exhausted_tree_ends_the_search(make_oracle: Any) -> None:
    oracle = make_oracle(np.ones((1, 2)))
    MCTS(queries=100).discover(oracle, np.random.default_rng(0))
    assert oracle.meter.queries == 4  # {0}, {1}, {0, 1} twice


def test_the_best_head_of_a_large_model_gets_most_pulls(make_oracle: Any) -> None:
    gains = np.random.default_rng(3).normal(0, 0.1, (6, 6))
    gains[2, 3] = 3.0
    for make in (BanditUCB, BanditThompson):
        found = make(queries=120).discover(make_oracle(gains), np.random.default_rng(1))
        assert np.argmax(found.scores) == 2 * 6 + 3


def test_bad_hyperparameters_are_refused(make_oracle: Any) -> None:
    bad: list[Method] = [
        BanditUCB(noise=0.0),
        MCTS(depth=0),
        CrossEntropy(elite=1.5),
        CrossEntropy(population=2),
        CovarianceMatrixAdaptation(spread=0.0),
        SuccessiveHalving(queries=0),
        CrossEntropy(tau=-1.0),
    ]
    for method in bad:
        with pytest.raises(InvalidSpec):
            method.discover(make_oracle(), np.random.default_rng(0))


def test_additive_gains_are_what_the_oracle_says(make_oracle: Any) -> None:
    oracle = make_oracle(model=additive_model(GAINS))
    assert oracle.query(oracle.head_masks()).task.numpy().reshape(3, 3) == pytest.approx(
        GAINS, abs=1e-5
    )


def test_an_unasked_head_stands_above_one_that_does_nothing_and_below_the_committed() -> None:
    preference = np.array([0.1, 0.5, 0.2, 0.1, 0.1, 0.0])
    evidence = Evidence((2, 3), preference, presumed=0.4)
    for head, reward in ((0, 1.0), (3, 0.0), (4, -2.0)):
        evidence.add(head, reward)
    scores = evidence.scores().ravel()
    assert scores[[0, 3, 4]].tolist() == [1.0, 0.0, -2.0]
    assert 0.4 > scores[1] > scores[2] > scores[5] > 0.2
    assert evidence.discovery(0.3, {}).selected == {Head(0, 0)}
    assert (Evidence((2, 3), preference).scores() <= 0).all()
