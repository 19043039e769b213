from typing import Any

import numpy as np
import pytest

from circuitbench.core.errors import InvalidSpec
from circuitbench_agents.environments.episode_batch import EpisodeBatch, Place
from circuitbench_agents.learning.policies import TokenAttention
from circuitbench_agents.learning.policy_training import PolicyTraining, PPOSettings
from circuitbench_agents.learning.rehearsal import Lesson, RehearsalSettings, lessons, rehearse
from circuitbench_baselines.episodes.rules import SearchRules

SETTINGS = PPOSettings(n_steps=4, minibatch=4)
NETWORK = TokenAttention(width=16, layers=1)


def gains(rng: np.random.Generator) -> Any:
    """One head pays in layer 0 and one in layer 2, never more; none in layer 1."""
    grid = np.zeros((3, 6))
    grid[0, rng.integers(6)] = grid[2, rng.integers(6)] = 5.0
    return grid


def start(oracles: Any) -> Any:
    batch = EpisodeBatch(
        oracles,
        SearchRules(6),
        2,
        np.random.default_rng(0),
        observation="tokens",
        task_ids=[0] * len(oracles),
        n_tasks=1,
    )
    return PolicyTraining(batch, SETTINGS, NETWORK, 8, 0, "test")


def policy(training: Any) -> Any:
    episode = training.batch.episodes[0]
    return training.probabilities(episode.observe("tokens")[None], episode.legal()[None])[0]


def test_it_learns_what_a_hit_says_about_heads_never_tried(make_oracle: Any) -> None:
    rng = np.random.default_rng(0)
    shown = [gains(rng) for _ in range(30)]
    unseen = gains(rng)
    training = start([make_oracle(unseen)])
    taught = [Lesson(0, grid.ravel(), grid.ravel() / grid.sum()) for grid in shown]
    settings = RehearsalSettings(rounds=25, episodes=16, minibatch=8, learning_rate=1e-2)
    losses = rehearse(training, taught, settings, rng)
    assert np.mean(losses[-5:]) < losses[0]
    assert training.batch.queries == 0  # all of it was simulated
    training.batch.begin([0], [Place(0, 1)])
    before = policy(training).reshape(3, 6).sum(1)
    assert before == pytest.approx([0.5, 0.0, 0.5], abs=0.1)
    training.batch.advance({0: int(unseen[0].argmax())})
    after = policy(training).reshape(3, 6).sum(1)
    assert after[0] < before[0] / 1.5
    assert after[2] > 0.6


def test_lessons_cost_a_sweep_and_leave_out_who_prefers_nothing(make_oracle: Any) -> None:
    grid = gains(np.random.default_rng(0))
    oracles = [make_oracle(grid), make_oracle(grid)]
    training = start(oracles)
    ranking = grid.ravel() * 3 + 0.01
    taught = lessons(training, oracles, [ranking, -ranking], np.random.default_rng(0))
    assert [oracle.meter.queries for oracle in oracles] == [18, 18]
    assert len(taught) == 1
    assert taught[0].rewards == pytest.approx(grid.ravel(), abs=1e-5)
    assert taught[0].worth == pytest.approx(grid.ravel() / grid.sum(), abs=2e-3)
    assert np.count_nonzero(taught[0].worth) == 2
    assert rehearse(training, [], RehearsalSettings(), np.random.default_rng(0)) == []


def test_settings_without_sense_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="rounds must be above 0"):
        RehearsalSettings(rounds=0)
