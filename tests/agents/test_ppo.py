from typing import Any

import numpy as np
import pytest
from agents_kit import GAINS

from circuitbench.core.errors import InvalidSpec
from circuitbench_agents.learning.policies import MLP
from circuitbench_agents.learning.policy_training import PPOSettings
from circuitbench_agents.learning.rollouts import Acting
from circuitbench_agents.learning.settings import DiscoverySettings, TrainingSettings
from circuitbench_agents.ppo import PPOHeadDiscovery
from circuitbench_baselines.episodes.rules import SearchRules


def quick(steps: int = 50, **discovery: Any) -> PPOHeadDiscovery:
    return PPOHeadDiscovery(
        DiscoverySettings(**discovery),
        TrainingSettings(total_steps=96, n_envs=4),
        PPOSettings(n_steps=6, minibatch=12, epochs=2),
        MLP(16),
        search=SearchRules(steps),
    )


def trained(make_oracle: Any, names: Any = ("fixed",), **discovery: Any) -> PPOHeadDiscovery:
    method = quick(4, **discovery)
    oracles = [make_oracle(pool=4, task_name=name) for name in names]
    method.train(oracles, np.random.default_rng(0))
    return method


def test_it_refuses_to_discover_untrained(make_oracle: Any) -> None:
    with pytest.raises(InvalidSpec, match="has not been trained"):
        quick().discover(make_oracle(), np.random.default_rng(0))


def test_asked_heads_score_their_mean_reward_and_others_less_than_is_committed_to(
    make_oracle: Any,
) -> None:
    oracle = make_oracle()
    found = trained(make_oracle, episodes=1).discover(oracle, np.random.default_rng(0))
    asked = np.isclose(found.scores, GAINS, atol=1e-5)
    assert asked.sum() == 4
    limit = 0.02 * abs(oracle.clean_metric)
    assert ((found.scores[~asked] > limit / 2) & (found.scores[~asked] < limit)).all()
    assert {(h.layer, h.head) for h in found.selected} == {
        tuple(i) for i in np.argwhere(asked & (GAINS > 0))
    }
    assert oracle.meter.queries == 4


def test_discovery_stays_in_its_budget_and_training_is_metered_apart(make_oracle: Any) -> None:
    oracle = make_oracle(budget=6)
    found = trained(make_oracle).discover(oracle, np.random.default_rng(0))
    assert oracle.remaining == 0
    assert found.trace[-1].queries == 6
    assert found.info["learning_curve"][-1]["steps"] == 96


@pytest.mark.parametrize("budget", [7, None])
def test_planning_pays_for_every_candidate(make_oracle: Any, budget: Any) -> None:
    oracle = make_oracle(budget=budget)
    method = trained(make_oracle, episodes=1, candidates=3)
    method.discover(oracle, np.random.default_rng(0))
    assert oracle.meter.queries == (7 if budget else 12)


def test_more_candidates_than_heads_are_refused(make_oracle: Any) -> None:
    with pytest.raises(InvalidSpec, match="at most the 9 actions, not 10"):
        trained(make_oracle, candidates=10)


def test_another_grid_is_refused(make_oracle: Any) -> None:
    with pytest.raises(InvalidSpec, match="3 x 3 heads and cannot act on 2 x 2"):
        trained(make_oracle).discover(make_oracle(np.ones((2, 2))), np.random.default_rng(0))


def test_tasks_on_models_of_different_grids_are_refused(make_oracle: Any) -> None:
    with pytest.raises(InvalidSpec, match="one grid of heads; these models have 2 x 2, 3 x 3"):
        quick().train([make_oracle(), make_oracle(np.ones((2, 2)))], np.random.default_rng(0))


def test_planning_asks_no_more_candidates_than_are_legal(make_oracle: Any) -> None:
    oracle = make_oracle()
    trained(make_oracle, episodes=1, candidates=8).discover(oracle, np.random.default_rng(0))
    assert oracle.meter.queries == 8 + 8 + 7 + 6


def test_an_unseen_task_is_shown_as_unknown(make_oracle: Any) -> None:
    method = trained(make_oracle, ("a", "b"))
    unseen = method.discover(make_oracle(task_name="c"), np.random.default_rng(0))
    seen = method.discover(make_oracle(task_name="b"), np.random.default_rng(0))
    assert (unseen.info["shown_as"], seen.info["shown_as"]) == ("unknown", "b")


def test_candidates_are_drawn_without_replacement_by_probability() -> None:
    rng = np.random.default_rng(0)
    probabilities = np.array([0.5, 0.3, 0.2, 0.0])
    draws = [Acting(candidates=2).propose(probabilities, rng) for _ in range(4000)]
    assert all(len(set(pair)) == 2 and 3 not in pair for pair in draws)
    first = np.bincount([pair[0] for pair in draws], minlength=4) / 4000
    assert first == pytest.approx(probabilities, abs=0.03)
    # The second is drawn from what is left: P(0 second) = .3 (.5/.7) + .2 (.5/.8).
    second = np.bincount([pair[1] for pair in draws], minlength=4) / 4000
    assert second[0] == pytest.approx(0.3 * 0.5 / 0.7 + 0.2 * 0.5 / 0.8, abs=0.03)
    assert Acting(greedy=True, candidates=5).propose(probabilities, rng) == [0, 1, 2]
