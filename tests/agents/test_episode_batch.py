from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from agents_kit import GAINS, additive_model

from circuitbench.core.errors import InvalidSpec
from circuitbench.oracle import Oracle, query_together
from circuitbench_agents.environments import episode_batch
from circuitbench_agents.environments.episode_batch import EpisodeBatch, Place
from circuitbench_agents.environments.gymnasium_envs import HeadDiscoveryEnv
from circuitbench_agents.environments.stable_baselines import OracleVecEnv
from circuitbench_baselines.episodes.knockout import KnockoutRules
from circuitbench_baselines.episodes.rules import PruningRules, SearchRules


def two_tasks(make_oracle: Callable[..., Oracle], **settings: Any) -> Any:
    model = additive_model(GAINS)
    return [make_oracle(model=model, task_name=name, **settings) for name in ("a", "b")]


def test_one_oracle_call_answers_all_episodes(
    make_oracle: Callable[..., Oracle], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(asked: Any, **options: Any) -> Any:
        calls.append(len(asked))
        return query_together(asked, **options)

    monkeypatch.setattr(episode_batch, "query_together", counted)
    env = OracleVecEnv(
        EpisodeBatch(two_tasks(make_oracle), SearchRules(4), 8, np.random.default_rng(0))
    )
    env.reset()
    for head in range(4):
        env.step(np.full(8, head))
    assert calls == [8, 8, 8, 8]


def test_the_vector_equals_single_episodes(make_oracle: Callable[..., Oracle]) -> None:
    oracles = two_tasks(make_oracle, weight=1.0)
    batch = EpisodeBatch(oracles, SearchRules(5), 3, np.random.default_rng(0))
    places = [Place(0, 11), Place(1, 12), Place(0, 13)]
    batch.begin(range(3), places)
    heads = np.random.default_rng(1).integers(0, 9, (5, 3))
    together = []
    for row in heads:
        outcomes = batch.advance(dict(enumerate(row.tolist())))
        together.append([outcomes[i].reward for i in range(3)])
    for i, place in enumerate(places):
        env = HeadDiscoveryEnv(oracles, steps=5)
        env.reset(options={"task": place.oracle, "batch_seed": place.seed})
        alone = [env.step(head)[1] for head in heads[:, i]]
        assert alone == pytest.approx([row[i] for row in together], abs=1e-6)


def test_finished_episodes_restart_and_report(make_oracle: Callable[..., Oracle]) -> None:
    env = OracleVecEnv(EpisodeBatch([make_oracle()], SearchRules(2), 2, np.random.default_rng(0)))
    env.reset()
    env.step(np.array([0, 4]))
    observation, rewards, dones, infos = env.step(np.array([4, 8]))
    assert dones.all()
    assert rewards == pytest.approx([2.0, 1.0])
    assert infos[0]["episode"] == {"r": pytest.approx(5.0), "l": 2, "hits": 2}
    assert infos[1]["terminal_observation"][1:10].sum() == 2
    assert observation[:, 1:].sum() == 0
    assert np.stack(env.env_method("action_masks")).all()


@pytest.mark.parametrize("rules", [SearchRules(6), KnockoutRules(6), PruningRules()])
def test_a_saved_state_goes_on_exactly(make_oracle: Callable[..., Oracle], rules: Any) -> None:
    def fresh() -> Any:
        batch = EpisodeBatch(two_tasks(make_oracle), rules, 3, np.random.default_rng(5))
        return OracleVecEnv(batch)

    def play(env: Any, steps: Any) -> Any:
        rng = np.random.default_rng(9)
        return [env.step(np.array([rng.choice(m.nonzero()[0]) for m in env.action_masks()]))[:3]
                for _ in range(steps)]  # fmt: skip

    env = fresh()
    env.reset()
    play(env, 4)
    state = env.batch.state()
    expected = play(env, 8)
    other = fresh()
    other.batch.restore(state)
    for mine, theirs in zip(expected, play(other, 8), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert np.array_equal(a, b)


def test_choosing_takes_the_best_and_pays_for_every_candidate(
    make_oracle: Callable[..., Oracle],
) -> None:
    oracle = make_oracle()
    batch = EpisodeBatch([oracle], SearchRules(3), 1, np.random.default_rng(0))
    batch.begin([0])
    before = oracle.meter.queries
    asked = batch.choose(0, [1, 4, 8])
    head, reward = asked[0]
    assert head == 4
    assert reward == pytest.approx(2.0)
    assert oracle.meter.queries - before == 3
    assert batch.episodes[0].chosen.nonzero()[0].tolist() == [4]


def test_episodes_over_two_models_are_answered_too(make_oracle: Callable[..., Oracle]) -> None:
    oracles = [make_oracle(GAINS), make_oracle(2 * GAINS)]
    batch = EpisodeBatch(oracles, SearchRules(3), 2, np.random.default_rng(0))
    batch.begin([0, 1], [Place(0, 1), Place(1, 1)])
    outcomes = batch.advance({0: 0, 1: 0})
    assert [outcomes[0].reward, outcomes[1].reward] == pytest.approx([3.0, 6.0])


def test_an_empty_environment_is_refused(make_oracle: Callable[..., Oracle]) -> None:
    with pytest.raises(InvalidSpec, match="at least one oracle"):
        EpisodeBatch([], SearchRules(), 1, np.random.default_rng(0))
    with pytest.raises(InvalidSpec, match="at least one episode"):
        EpisodeBatch([make_oracle()], SearchRules(), 0, np.random.default_rng(0))
