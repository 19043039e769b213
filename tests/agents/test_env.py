from typing import Any

import gymnasium
import numpy as np
import pytest
from agents_kit import GAINS, additive_model
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import circuitbench_agents  # noqa: F401 - registers the environments
from circuitbench.core.errors import InvalidSpec
from circuitbench_agents.environments.gymnasium_envs import (
    CircuitPruningEnv,
    HeadDiscoveryEnv,
    HeadKnockoutEnv,
)

ENVS = [HeadDiscoveryEnv, HeadKnockoutEnv, CircuitPruningEnv]
NAMES = ["HeadDiscovery", "HeadKnockout", "CircuitPruning"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("observation", ["flat", "tokens"])
def test_gymnasium_checker_passes(name: str, observation: Any, make_oracle: Any) -> None:
    env = gymnasium.make(
        f"circuitbench/{name}-v0", oracles=[make_oracle()], observation=observation
    )
    check_env(env.unwrapped)


def test_flat_observation_is_mechrls_layout(make_oracle: Any) -> None:
    model = additive_model(GAINS)
    oracles = [make_oracle(model=model, task_name=name) for name in ("a", "b")]
    env = HeadDiscoveryEnv(oracles, steps=4)
    assert env.observation_space.shape == (2 + 9 + 9,)
    env.reset(seed=0, options={"task": 1, "batch_seed": 3})
    observation, reward, *_ = env.step(4)
    assert reward == pytest.approx(2.0)
    assert observation[:2].tolist() == [0, 1]
    assert observation[2:11].nonzero()[0].tolist() == [4]
    assert observation[11:][4] == pytest.approx(2.0 / 5)


def test_reward_is_task_damage_minus_weighted_control_damage(make_oracle: Any) -> None:
    oracle = make_oracle(weight=2.0)
    env = HeadDiscoveryEnv([oracle], steps=2)
    env.reset(seed=0, options={"task": 0, "batch_seed": 7})
    _, reward, *_ = env.step(0)
    asked = oracle.query(oracle.head_masks()[:1], batch=oracle.draw(7))
    assert reward == pytest.approx(float(asked.task[0] - 2.0 * asked.control[0]))


def test_repeating_a_head_is_penalised_and_asks_nothing(make_oracle: Any) -> None:
    oracle = make_oracle()
    env = HeadDiscoveryEnv([oracle], steps=3, penalty=-2.5)
    env.reset(seed=0)
    env.step(1)
    assert not env.action_masks()[1]
    before = oracle.meter.queries
    _, reward, *_ = env.step(1)
    assert (reward, oracle.meter.queries) == (-2.5, before)


@pytest.mark.parametrize("make", ENVS)
def test_a_step_after_the_end_is_refused(make: Any, make_oracle: Any) -> None:
    env = make([make_oracle()], steps=1)
    with pytest.raises(InvalidSpec, match="call reset"):
        env.step(0)
    env.reset(seed=0)
    _, _, terminated, truncated, _ = env.step(0)
    assert terminated or truncated
    with pytest.raises(InvalidSpec, match="after the end"):
        env.step(1)


def test_bad_requests_are_refused(make_oracle: Any) -> None:
    env = HeadDiscoveryEnv([make_oracle()])
    env.reset(seed=0)
    with pytest.raises(InvalidSpec, match="actions are 0 to 8"):
        env.step(9)
    with pytest.raises(InvalidSpec, match="reset options"):
        env.reset(options={"taks": 0})
    with pytest.raises(InvalidSpec, match="one grid of heads"):
        HeadDiscoveryEnv([make_oracle(), make_oracle(np.ones((2, 2)))])
    with pytest.raises(InvalidSpec, match="steps must be above 0"):
        HeadDiscoveryEnv([make_oracle()], steps=0)
    with pytest.raises(InvalidSpec, match="task ids"):
        HeadDiscoveryEnv([make_oracle()], task_ids=[3])


def test_observations_are_copies(make_oracle: Any) -> None:
    env = HeadDiscoveryEnv([make_oracle()])
    first, _ = env.reset(seed=0)
    kept = first.copy()
    env.step(0)
    assert np.array_equal(first, kept)


def test_unknown_task_has_no_one_hot(make_oracle: Any) -> None:
    env = HeadDiscoveryEnv([make_oracle()], task_ids=[None], n_tasks=2)
    observation, _ = env.reset(seed=0)
    assert observation[:2].tolist() == [0, 0]


def test_tokens_say_nothing_of_a_heads_number(make_oracle: Any) -> None:
    env = HeadDiscoveryEnv([make_oracle()], observation="tokens")
    tokens, _ = env.reset(seed=0)
    assert tokens.shape == (9, 4)
    for layer in tokens.reshape(3, 3, -1):
        assert (layer == layer[0]).all()


def test_knockout_rewards_telescope_and_show_backups(make_oracle: Any) -> None:
    oracle = make_oracle()
    env = HeadKnockoutEnv([oracle])
    env.reset(seed=0, options={"task": 0, "batch_seed": 1})
    rewards = []
    for head in (0, 4, 8):
        _, reward, terminated, _, _ = env.step(head)
        rewards.append(reward)
        assert not terminated
    assert rewards == pytest.approx([3.0, 2.0, 1.0])
    _, reward, terminated, _, _ = env.step(2)
    assert reward == pytest.approx(0.5)
    assert terminated  # the whole metric is destroyed


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.permutations(range(9)), st.integers(1, 9))
def test_pruning_reward_depends_on_the_circuit_reached_not_on_the_way(
    make_oracle: Any, order: Any, length: Any
) -> None:
    env = CircuitPruningEnv([make_oracle()], tau=0.8, price=3.0)
    env.reset(seed=0, options={"task": 0, "batch_seed": 1})
    total = sum(env.step(head)[1] for head in order[:length])
    kept = 1 - GAINS.ravel()[list(order[:length])].sum() / GAINS.sum()
    assert total == pytest.approx(length / 9 - 3.0 * max(0.0, 0.8 - kept), abs=1e-5)


def test_stopping_earns_nothing_and_ends_and_a_step_limit_truncates(make_oracle: Any) -> None:
    env = CircuitPruningEnv([make_oracle()])
    env.reset(seed=0)
    stop = int(env.action_space.n) - 1
    assert env.step(stop)[1:4] == (0.0, True, False)
    env = CircuitPruningEnv([make_oracle()], steps=1)
    env.reset(seed=0)
    assert env.step(1)[2:4] == (False, True)


def test_pruning_can_remove_a_layer_at_once(make_oracle: Any) -> None:
    env = CircuitPruningEnv([make_oracle()], groups="layers", price=3.0, tau=0.8)
    assert env.action_space.n == 9 + 3 + 1
    env.reset(seed=0)
    _, reward, *_ = env.step(9 + 2)
    assert reward == pytest.approx(3 / 9)
    assert not env.action_masks()[[6, 7, 8, 11]].any()
