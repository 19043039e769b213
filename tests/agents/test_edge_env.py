"""EdgePruning: against exact references on a small planted model."""

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import circuitbench_agents  # noqa: F401 - registers the environments
from circuitbench.core.errors import BudgetExceeded, InvalidSpec
from circuitbench.models.planted.presets import Copies, PlantedConfig, planted_model
from circuitbench.oracle import Oracle
from circuitbench.oracle.ablations import ablation_named
from circuitbench.oracle.edge_run import EdgeRun
from circuitbench.plugins.registry import load_task
from circuitbench_agents.environments.edge_candidates import cost
from circuitbench_agents.environments.edge_env import EdgePruningEnv
from circuitbench_agents.environments.edge_episodes import EdgeEpisodes
from circuitbench_agents.environments.edge_rules import EdgePruningRules
from circuitbench_agents.environments.episode_batch import Place

ROLES = {"previous_token": Copies(2), "induction": Copies(2), "unigram": Copies(1)}
MODEL = planted_model("small", PlantedConfig(4, 4, ROLES, lookalikes=2), "100")
WIDE = planted_model("wide", PlantedConfig(5, 6, ROLES, lookalikes=2), "101")
SMALL: dict[str, Any] = {"candidates": 40, "attributions": ("eap-ig", "eap"), "batches": (1, 3, 10)}


def oracle_on(model: Any = MODEL, **options: Any) -> Any:
    task = load_task("induction")
    return Oracle(model, task, task_name="induction", seed=0, batch_size=3, **options)


def env_on(*oracles: Oracle, **constants: Any) -> EdgePruningEnv:
    return EdgePruningEnv(oracles or [oracle_on()], pool=1, **{**SMALL, **constants})


def divergence(oracle: Any, batch: Any, mask: torch.Tensor) -> float:
    """KL by the run that gradients take, which shares nothing with queries."""
    kind = ablation_named("resample")
    run = EdgeRun(oracle.edges.graph, oracle.engine.forward, batch, "task", kind)
    with torch.no_grad():
        intact, final = run.final(torch.ones(len(mask))), run.final(mask.float())
        return float(run.divergence(intact, final).double().mean())


def on_a_path(oracle: Oracle, kept: Any) -> set[int]:
    """Of edges, by their place among all, those on a path from the embedding to the logits."""
    ends = oracle.edges.graph.ends
    logits = len(oracle.edges.graph.senders)
    found: set[int] = set()

    def walk(node: int, path: tuple[int, ...]) -> None:
        if node == logits:
            found.update(path)
        for edge in kept:
            if ends[edge, 0] == node:
                walk(int(ends[edge, 1]), (*path, int(edge)))

    walk(0, ())
    return found


def test_gymnasium_checker_passes() -> None:
    oracles = [oracle_on(), oracle_on(WIDE)]  # models of different sizes
    env = gymnasium.make("circuitbench/EdgePruning-v0", oracles=oracles, pool=1, **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        check_env(env.unwrapped, skip_render_check=True)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=12), st.booleans())
def test_rewards_telescope_and_faithfulness_is_exact(picks: Any, wide: bool) -> None:
    oracle = ORACLES[wide]
    env = ENVS[wide]
    env.reset(seed=0, options={"task": 0, "batch_seed": 0})
    episode = env.batch.episode(0)
    first, total, asked = episode.potential, 0.0, oracle.meter.queries
    for pick in picks:
        legal = np.flatnonzero(env.action_masks()[:-1])
        before = int(episode.kept.sum())
        _, reward, terminated, *_ = env.step(legal[int(pick * len(legal))])
        total, asked = total + reward, asked + 1
        assert episode.kept.sum() < before
        if terminated:
            break
    assert oracle.meter.queries == asked
    assert total == pytest.approx(episode.potential - first)
    found = episode.found
    kept = found.edges[episode.kept]
    assert set(kept.tolist()) == on_a_path(oracle, kept)
    none = divergence(oracle, found.batch, found.mask(np.zeros(len(found), bool)))
    here = divergence(oracle, found.batch, found.mask(episode.kept))
    assert episode.faithfulness == pytest.approx(1 - here / none, abs=1e-4)
    short = max(0.0, episode.tau - episode.faithfulness)
    assert episode.potential == pytest.approx(1 - len(kept) / episode.n - 3.0 * short)


ORACLES = [oracle_on(), oracle_on(WIDE)]
ENVS = [env_on(oracle) for oracle in ORACLES]


def test_the_start_is_metered_once() -> None:
    oracle = oracle_on()
    env = env_on(oracle)
    env.reset(seed=0)
    assert oracle.meter.queries == cost(("eap-ig", "eap")) + 2 == 15 + 3 + 2
    env.reset(seed=1)  # the pool has one batch, and what it says is known
    assert oracle.meter.queries == 20


def test_tau_is_the_ceiling_less_a_margin_within_bounds() -> None:
    rules = EdgePruningRules(margin=0.1)
    assert rules.tau_for(0.8) == pytest.approx(0.7)
    assert (rules.tau_for(0.3), rules.tau_for(1.2)) == (0.5, 0.98)
    assert EdgePruningRules(tau=0.6).tau_for(0.3) == 0.6
    env = env_on(margin=0.04)
    env.reset(seed=0)
    episode = env.batch.episode(0)
    assert episode.tau == pytest.approx(np.clip(episode.faithfulness - 0.04, 0.5, 0.98))


def test_actions_cut_what_they_say() -> None:
    env = env_on()
    env.reset(seed=0)
    episode = env.batch.episode(0)
    left = np.flatnonzero(episode.kept)
    assert np.flatnonzero(episode.cut(int(left[2]))).tolist() == [left[2]]
    three, ten = SMALL["candidates"], SMALL["candidates"] + 1
    assert np.flatnonzero(episode.cut(three)).tolist() == left[-3:].tolist()
    assert np.flatnonzero(episode.cut(ten)).tolist() == left[-10:].tolist()
    node = int(episode.found.ends[left[episode.found.ends[left, 0] > 0][0], 0])
    killed = episode.cut(ten + node)
    assert set(episode.found.ends[killed, 0]) == {node}
    assert not episode.after(killed)[episode.found.ends[:, 0] == node].any()
    assert not episode.after(killed)[episode.found.ends[:, 1] == node].any()  # dead as well


def test_the_end() -> None:
    env = env_on(steps=2)
    env.reset(seed=0)
    _, reward, terminated, truncated, _ = env.step(env.action_space.n - 1)
    assert (reward, terminated, truncated) == (0.0, True, False)
    with pytest.raises(InvalidSpec, match="after the end"):
        env.step(0)
    env.reset(seed=0)
    env.step(SMALL["candidates"])
    *_, terminated, truncated, info = env.step(SMALL["candidates"])
    assert (terminated, truncated) == (False, True)
    assert info["kept"] == env.batch.episode(0).kept.sum()


def test_a_cut_of_nothing_is_penalised_and_asks_nothing() -> None:
    oracle = oracle_on()
    env = env_on(oracle, penalty=-2.5)
    env.reset(seed=0)
    env.step(0)
    before = oracle.meter.queries
    assert env.step(0)[1] == -2.5
    assert oracle.meter.queries == before


def test_episodes_side_by_side_are_those_played_alone() -> None:
    oracles = [oracle_on(), oracle_on(WIDE)]
    rules = EdgePruningRules(**SMALL)
    both = EdgeEpisodes(oracles, rules, 3, np.random.default_rng(0), pool=2)
    places = [Place(0, 0), Place(1, 1), Place(0, 1)]
    both.begin(range(3), places)
    moves = [{0: 3, 1: 40, 2: 41}, {0: 41, 1: 5, 2: 40}]
    together = [both.advance(move) for move in moves]
    for i, place in enumerate(places):
        alone = EdgeEpisodes(oracles, rules, 1, np.random.default_rng(0))
        alone.begin([0], [place])
        for move, outcomes in zip(moves, together, strict=True):
            assert alone.advance({0: move[i]})[0].reward == pytest.approx(
                outcomes[i].reward, abs=1e-4
            )


def test_a_state_is_taken_up_exactly() -> None:
    def start() -> EdgeEpisodes:
        rng = np.random.default_rng(3)
        return EdgeEpisodes([oracle_on()], EdgePruningRules(**SMALL), 2, rng, pool=4)

    one = start()
    one.begin(range(2))
    one.advance({0: 40, 1: 41})
    saved = one.state()
    two = start()
    two.restore(saved)
    for state in (saved, again := two.state()):
        for spent in state["spent"]:
            del spent["seconds"]
    assert again == saved
    assert one.advance({0: 41}) == two.advance({0: 41})
    one.begin([1])
    two.begin([1])
    assert one.places == two.places


def test_a_budget_that_ends_spends_nothing() -> None:
    oracle = oracle_on(budget=20)
    env = env_on(oracle)
    env.reset(seed=0)
    with pytest.raises(BudgetExceeded):
        env.step(40)
    assert oracle.meter.queries == 20


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"candidates": 0}, "candidates must be above 0"),
        ({"attributions": ()}, "at least one attribution"),
        ({"attributions": ("eep",)}, "no attribution 'eep'; valid: eap"),
        ({"batches": (3, 1)}, "ascending"),
        ({"margin": -1.0}, "margin"),
        ({"tau": 0.0}, "tau must be above 0"),
    ],
)
def test_bad_constants_are_refused(wrong: Any, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        env_on(**wrong).reset(seed=0)


def test_maskable_ppo_learns_on_it_unchanged() -> None:
    from sb3_contrib import MaskablePPO

    env = env_on(candidates=20, steps=8)
    settings_: Any = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0}
    ppo = MaskablePPO("MultiInputPolicy", env, device="cpu", **settings_)
    before = ppo.policy.state_dict()["action_net.weight"].clone()
    ppo.learn(16)
    assert (ppo.policy.state_dict()["action_net.weight"] != before).any()
    observation, info = env.reset(seed=0)
    action, _ = ppo.predict(observation, action_masks=info["action_mask"])
    assert info["action_mask"][action]
