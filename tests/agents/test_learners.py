"""Learning agents beside rl-ppo; that all keep the contract is tested in tests/plugins."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agents_kit import GAINS

from circuitbench.core.circuit import Head
from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.plugins.method import Learner, TrainingTools
from circuitbench.plugins.registry import method_class
from circuitbench.runs.spec import configure
from circuitbench_agents.knockout import KnockoutDiscovery
from circuitbench_agents.policy_gradient import (
    A2CHeadDiscovery,
    PPOPlanning,
    ReinforceHeadDiscovery,
    TransformerHeadDiscovery,
)
from circuitbench_agents.ppo import PPOHeadDiscovery

FEW = {
    "training.total_steps": 96,
    "training.n_envs": 4,
    "network.width": 16,
}
SEARCH = {**FEW, "search.steps": 4}
ROLLOUT = {"ppo.n_steps": 4, "ppo.minibatch": 16}
AGENTS: dict[str, tuple[type, dict[str, Any]]] = {
    "rl-ppo-plan": (PPOPlanning, SEARCH | ROLLOUT | {"discovery.candidates": 2, "ppo.epochs": 1}),
    "rl-a2c": (A2CHeadDiscovery, SEARCH),
    "rl-reinforce": (ReinforceHeadDiscovery, SEARCH | {"ppo.n_steps": 4}),
    "rl-transformer": (TransformerHeadDiscovery, SEARCH | ROLLOUT | {"ppo.epochs": 1}),
    "rl-knockout": (
        KnockoutDiscovery,
        FEW | ROLLOUT | {"discovery.episodes": 4, "explore": 40, "knockout.steps": 4},
    ),
}


def agent(name: str, changes: dict[str, Any] | None = None) -> Any:
    cls, few = AGENTS[name]
    return configure(cls, few | (changes or {}), name)


def fit(
    method: Any,
    make_oracle: Any,
    names: Any = ("fixed",),
    gains: Any = GAINS,
    tools: TrainingTools = TrainingTools(),
) -> Any:
    oracles = [make_oracle(gains, pool=4, task_name=name) for name in names]
    method.train(oracles, np.random.default_rng(0), tools)
    return method


@pytest.mark.parametrize("name", AGENTS)
def test_they_are_registered_under_their_own_name(name: str) -> None:
    assert method_class(name) is AGENTS[name][0]
    assert agent(name).name == name
    assert isinstance(agent(name), Learner)


@pytest.mark.parametrize("name", ["rl-a2c", "rl-reinforce"])
def test_they_learn_which_heads_pay(name: str, make_oracle: Any) -> None:
    gains = np.zeros((3, 3))
    gains[1] = 2.0
    longer = {"training.total_steps": 1600, "training.n_envs": 8, "search.steps": 3}
    method = agent(name, longer | {"ppo.learning_rate": 5e-3})
    fit(method, make_oracle, gains=gains)
    returns = [p.episode_return for p in method.learnt.curve if p.episode_return is not None]
    assert np.mean(returns[-3:]) > 4.5  # six is the best, two is chance
    assert np.mean(returns[-3:]) > returns[0] + 1.0


def test_a_token_policy_acts_on_a_model_of_another_grid(make_oracle: Any) -> None:
    method = fit(agent("rl-transformer", {"discovery.episodes": 1}), make_oracle)
    found = method.discover(make_oracle(np.ones((4, 5))), np.random.default_rng(0))
    assert found.scores.shape == (4, 5)
    assert len(found.selected) == 4


def test_a_policy_can_pretend_a_training_task_but_no_other(make_oracle: Any) -> None:
    method = fit(agent("rl-a2c"), make_oracle, ("a", "b"))
    oracle = make_oracle(task_name="c")
    assert method.seat(oracle, np.random.default_rng(0)).task_ids == [None]
    assert method.seat(oracle, np.random.default_rng(0), shown_as="b").task_ids == [1]
    with pytest.raises(InvalidSpec, match="cannot pretend 'd'; trained on a, b"):
        method.seat(oracle, np.random.default_rng(0), shown_as="d")


def test_knockout_scores_the_largest_fall_a_head_ever_caused(make_oracle: Any) -> None:
    gains = np.array([[2.0, 1.0, 0.0]])
    method = fit(agent("rl-knockout"), make_oracle, gains=gains)
    found = method.discover(make_oracle(gains), np.random.default_rng(0))
    assert found.scores[0, :2] == pytest.approx([2.0, 1.0], abs=1e-5)
    assert found.selected == {Head(0, 0), Head(0, 1)}


@pytest.mark.parametrize("name", ["rl-a2c", "rl-transformer"])
def test_a_warm_start_begins_at_the_baselines_ranking(name: str, make_oracle: Any) -> None:
    gains = np.zeros((3, 3))
    gains[2] = [1.0, 1.0, 1.0]
    oracle = make_oracle(gains, pool=4)
    short = {"training.total_steps": 16, "ppo.learning_rate": 3e-3}
    rounds = {"rehearsal.rounds": 40} if name == "rl-transformer" else {}
    method = agent(name, short | rounds | {"warm_start": "head-ablation"})
    method.train([oracle], np.random.default_rng(0))
    cold = agent(name, short)
    cold.train([make_oracle(gains, pool=4)], np.random.default_rng(0))
    seat = method.seat(oracle, np.random.default_rng(0))
    warm, chance = method.preference(seat)[6:].sum(), cold.preference(seat)[6:].sum()
    assert warm > 0.6 > chance
    steps = method.learnt.curve[-1].steps
    shown = 9 if name == "rl-transformer" else 4  # a sweep to rehearse on, or one episode
    assert oracle.meter.queries == method.learnt.queries == 9 + shown + steps


@pytest.mark.parametrize("name", ["rl-ppo-plan", "rl-transformer", "rl-knockout"])
def test_a_checkpoint_of_another_warm_start_is_refused(
    name: str, make_oracle: Any, tmp_path: Path
) -> None:
    tools = TrainingTools(checkpoints=tmp_path)
    warm = {"rehearsal.rounds": 1} if name == "rl-transformer" else {}
    fit(agent(name, warm | {"warm_start": "head-ablation"}), make_oracle, tools=tools)
    for other in ("", "random"):
        with pytest.raises(InvalidSpec, match="was trained with another warm_start; use"):
            fit(agent(name, warm | {"warm_start": other}), make_oracle, tools=tools)
    fit(agent(name, warm | {"warm_start": "head-ablation"}), make_oracle, tools=tools)


def test_an_unknown_baseline_is_refused(make_oracle: Any) -> None:
    with pytest.raises(UnknownName, match="head-ablation"):
        fit(agent("rl-a2c", {"warm_start": "head-ablatoin"}), make_oracle)


def test_bad_settings_are_refused(make_oracle: Any) -> None:
    with pytest.raises(InvalidSpec, match="at least one training oracle"):
        PPOHeadDiscovery().train([], np.random.default_rng(0))
