"""Cuts of HeadKnockout, on circuits given as a formula: stages in series, copies in parallel."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from agents_kit import GAINS
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitbench.core.errors import BudgetExceeded, InvalidSpec
from circuitbench_agents.environments.gymnasium_envs import HeadKnockoutEnv
from circuitbench_agents.knockout import KnockoutDiscovery
from circuitbench_agents.learning.policies import MLP
from circuitbench_baselines.cut_search import CutSearch
from circuitbench_baselines.episodes.knockout import KnockoutRules
from circuitbench_baselines.episodes.rules import Answer

CLEAN = 10.0
READERS, MOVERS, AGAINST, LANGUAGE = {0, 1, 2}, {5, 6}, 9, 11


def damage(mask: Any) -> Any:
    """Any reader suffices, the movers share the work, one head works against the task."""
    on = set(np.flatnonzero(mask.ravel()).tolist())
    read = 1.0 if on & READERS else 0.0
    metric = read * (len(on & MOVERS) / 2 * 14.0 - (4.0 if AGAINST in on else 0.0))
    return Answer(CLEAN - metric, CLEAN - metric - (0.0 if LANGUAGE in on else 3.0))


def play(order: Any, **rules: Any) -> Any:
    """Ablate in the given order whatever is legal; returns the episode and all rewards."""
    episode = KnockoutRules(**rules).episode((3, 4), 1)
    episode.begin(0, CLEAN)
    earned = []
    while not episode.over:
        legal = episode.legal()
        action = next(head for head in order if legal[head])
        asked = episode.question(action)
        earned.append((action, episode.settle(action, damage(asked)).reward))
    return episode, earned


def largest(earned: Any) -> Any:
    scores = np.full(12, -np.inf)
    for head, reward in earned:
        scores[head] = max(scores[head], reward)
    return scores


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(12)))
def test_every_order_finds_both_stages_and_pays_all_copies(order: Any) -> None:
    episode, earned = play(order, steps=100, cuts=2, signed=False)
    assert episode.cuts == 2
    assert set(np.flatnonzero(episode.spent)) - {AGAINST} == READERS | MOVERS
    scores = largest(earned)
    assert (scores[list(READERS | MOVERS)] >= 3.0).all()
    others = sorted(set(range(12)) - READERS - MOVERS - {AGAINST})
    assert (scores[others] <= 0.0).all()  # the language head changes the control text instead


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(12)))
def test_without_cuts_the_first_collapse_ends_the_episode(order: Any) -> None:
    episode, earned = play(order, steps=100)
    assert len(earned) == episode.steps == episode.chosen.sum()
    assert episode.destroyed >= 0.98
    removed = [head for head, _ in earned[:-1]]
    before = np.ones(12, dtype=bool)
    before[removed] = False
    assert damage(before).task < 0.98 * CLEAN


def test_a_head_against_the_task_pays_only_for_the_size_of_its_change() -> None:
    order = [AGAINST, *range(9), 10, 11]
    assert play(order, steps=1)[1] == [(AGAINST, -4.0)]
    assert play(order, steps=1, signed=False)[1] == [(AGAINST, 4.0)]
    order = [LANGUAGE, *range(11)]
    assert play(order, steps=1, signed=False)[1] == [(LANGUAGE, -3.0)]


def test_bystanders_return_in_doubling_groups_and_needed_heads_are_all_paid() -> None:
    episode, earned = play([3, 4, 7, 8, 10, 0, 1, 2, 5, 6, 9, 11], steps=13, cuts=1)
    # 3; then 4 and 7; then 8, 10, 0 and 1 matter together, so 8 and 10; 0 and 1; 0 alone; 1
    assert [head for head, _ in earned[8:]] == [3, 4, 8, 8, 0]
    episode, earned = play([3, 4, 7, 8, 10, 0, 1, 2, 5, 6, 9, 11], steps=20, cuts=1)
    assert [reward for _, reward in earned[8:]] == [0, 0, 0, 0, 0, 10.0, 10.0]
    assert np.flatnonzero(episode.spent).tolist() == [0, 1, 2]
    assert episode.steps == 15


def test_while_heads_are_put_back_only_their_turn_is_legal() -> None:
    episode = KnockoutRules(cuts=2).episode((3, 4), 1)
    episode.begin(0, CLEAN)
    for head in (0, 1, 2):
        episode.settle(head, damage(episode.question(head)))
    assert np.flatnonzero(episode.legal()).tolist() == [0]
    assert episode.question(5) is None
    assert episode.settle(5, None).reward == -1.0
    assert episode.globals().tolist() == [1.0, 1.0]
    for head in (0, 1):
        episode.settle(head, damage(episode.question(head)))
    assert np.flatnonzero(~episode.legal()).tolist() == [0, 1, 2]
    assert episode.globals().tolist() == [0.0, 0.0]


def test_a_saved_episode_goes_on_exactly() -> None:
    order = list(range(11, -1, -1))
    whole, earned = play(order, steps=100, cuts=2)
    for stop in range(1, len(earned)):
        episode = KnockoutRules(steps=100, cuts=2).episode((3, 4), 1)
        episode.begin(0, CLEAN)
        for head, _ in earned[:stop]:
            episode.settle(head, damage(episode.question(head)))
        other = KnockoutRules(steps=100, cuts=2).episode((3, 4), 1)
        other.begin(0, 1.0)
        other.restore(episode.state())
        assert other.state() == episode.state()
        head, reward = earned[stop]
        assert other.settle(head, damage(other.question(head))).reward == reward
    assert whole.over


def test_the_environment_takes_the_rules_and_refuses_bad_ones(make_oracle: Any) -> None:
    env = HeadKnockoutEnv([make_oracle()], cuts=2)
    env.reset(seed=0)
    for head in (0, 4, 2, 8):
        assert not env.step(head)[2]
    assert np.flatnonzero(env.action_masks()).tolist() == [0]
    with pytest.raises(InvalidSpec, match="cuts must be 0 or more"):
        KnockoutRules(cuts=-1)
    assert not play(range(12), steps=None)[0].steps > 12
    with pytest.raises(InvalidSpec, match="explore must be 0 or more"):
        KnockoutDiscovery(explore=-1)
    with pytest.raises(InvalidSpec, match="tolerance must be above 0"):
        KnockoutRules(tolerance=0.0)


def test_cut_search_scores_what_putting_back_changes(make_oracle: Any) -> None:
    oracle = make_oracle(budget=30)
    found = CutSearch().discover(oracle, np.random.default_rng(0))
    assert found.scores == pytest.approx(np.maximum(GAINS, 0.0), abs=1e-4)
    assert {tuple(head) for head in found.selected} == set(zip(*GAINS.nonzero(), strict=True))
    assert oracle.meter.queries == found.trace[-1].queries == 30
    assert found.info["cuts"] >= 1


def test_cut_search_finds_nothing_where_nothing_matters(make_oracle: Any) -> None:
    gains = np.zeros((2, 2))
    found = CutSearch(queries=5).discover(make_oracle(gains), np.random.default_rng(0))
    assert found.selected == frozenset()
    assert found.info["cuts"] == 0


def agent(
    total_steps: int = 1, n_steps: int = 4, width: int = 8, steps: int = 48, explore: int = 0
) -> KnockoutDiscovery:
    """The agent at its least, with its own learning rate, discount and entropy."""
    usual = KnockoutDiscovery()
    return KnockoutDiscovery(
        training=replace(usual.training, total_steps=total_steps, n_envs=2),
        ppo=replace(usual.ppo, n_steps=n_steps),
        network=MLP(width),
        knockout=replace(usual.knockout, steps=steps),
        explore=explore,
    )


@pytest.mark.parametrize("explore", [0, 40])
def test_exploring_shows_the_policy_where_to_begin(make_oracle: Any, explore: Any) -> None:
    gains = np.zeros((3, 4))
    gains[0, 1] = gains[2, 2] = 2.0
    method = agent(width=64, explore=explore, steps=8)
    oracle = make_oracle(gains, pool=2)
    method.train([oracle], np.random.default_rng(0))
    chosen = method.preference(method.seat(oracle, np.random.default_rng(0)))
    assert (chosen[gains.ravel() > 0].sum() > 0.3) == (explore > 0)  # a sixth by chance
    assert oracle.meter.queries >= explore + 8


def test_where_exploring_finds_nothing_there_is_nothing_to_imitate(make_oracle: Any) -> None:
    method = agent(explore=10)
    oracle = make_oracle(np.zeros((2, 2)), pool=2)
    method.train([oracle], np.random.default_rng(0))
    assert not method.discover(oracle, np.random.default_rng(0)).selected


def test_the_agent_stays_within_its_budget_and_repeats_itself(make_oracle: Any) -> None:
    def found() -> Any:
        method = agent(32, 8, explore=40)
        method.train([make_oracle(pool=2)], np.random.default_rng(0))
        oracle = make_oracle(budget=13)
        answer = method.discover(oracle, np.random.default_rng(1))
        assert oracle.meter.queries == answer.trace[-1].queries == 13
        return answer

    first, second = found(), found()
    assert np.array_equal(first.scores, second.scores)
    assert first.selected == second.selected


def test_exploring_ends_with_the_budget(make_oracle: Any) -> None:
    oracle = make_oracle(budget=20)
    with pytest.raises(BudgetExceeded):
        agent(explore=40, steps=8).train([oracle], np.random.default_rng(0))
    assert oracle.remaining == 0
