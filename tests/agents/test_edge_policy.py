"""rl-edges: its networks fit any graph, its parts learn, and what is kept comes back."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch

from circuitbench.core.errors import CorruptRecord, InvalidSpec
from circuitbench.evaluation.against_truth.evaluate import evaluate
from circuitbench.models.planted.presets import Copies, PlantedConfig, planted_model
from circuitbench.oracle import Oracle
from circuitbench.plugins.method import TrainingTools, track_of
from circuitbench.plugins.registry import load_task
from circuitbench.plugins.tiers import TUNED_ON
from circuitbench_agents.edges import EdgePolicyDiscovery, FamilySettings
from circuitbench_agents.environments.edge_candidates import Candidates, candidates, cost
from circuitbench_agents.environments.edge_episodes import EdgeEpisodes
from circuitbench_agents.environments.edge_rules import EdgePruningRules
from circuitbench_agents.environments.episode_batch import Place
from circuitbench_agents.learning.graph_network import GraphSizes
from circuitbench_agents.learning.graph_play import (
    ImitationSettings,
    ahead,
    chances_of,
    demonstrate,
    imitate_graphs,
    play_graphs,
)
from circuitbench_agents.learning.graph_scorer import LearntJudge, ScorerSettings, fit, lesson_of
from circuitbench_agents.learning.graph_weights import (
    SHIPPED,
    Trained,
    load,
    new_policy,
    new_scorer,
    save,
)
from circuitbench_agents.learning.policy_training import PPOSettings
from circuitbench_agents.learning.rollouts import Acting

ROLES = {"previous_token": Copies(2), "induction": Copies(2), "unigram": Copies(1)}
SIZES = GraphSizes(width=8, layers=1, heads=2)
RULES = EdgePruningRules(
    candidates=30, attributions=("eap-ig", "gim"), probes=("gates",), batches=(1, 3, 10), steps=6
)
METHOD = EdgePolicyDiscovery(
    frozen=False,
    training=FamilySettings(batches=1, total_steps=16, n_envs=2),
    pruning=RULES,
    scorer=ScorerSettings(epochs=3, teacher=("eap-ig-inputs", "attribution-patching")),
    imitation=ImitationSettings(epochs=2),
    ppo=PPOSettings(n_steps=8, minibatch=8, epochs=1, gamma=1.0),
    network=SIZES,
)


@cache
def planting(n_layers: int, n_heads: int, seed: int) -> Any:
    config = PlantedConfig(n_layers, n_heads, ROLES, lookalikes=2)
    return planted_model("small", config, str(seed))


def oracle_on(n_layers: int = 4, n_heads: int = 4, seed: int = 100, **options: Any) -> Any:
    task = load_task("induction")
    model = planting(n_layers, n_heads, seed)
    return Oracle(model, task, task_name="induction", seed=0, batch_size=3, **options)


def truth_of(seed: int = 100) -> Any:
    return load_task("induction").truth(planting(4, 4, seed))


@cache
def found_on(n_layers: int = 4, n_heads: int = 4) -> Candidates:
    oracle = oracle_on(n_layers, n_heads)
    return candidates(
        oracle, oracle.batch, RULES.candidates, RULES.attributions, "resample", RULES.probes
    )


def networks() -> Any:
    torch.manual_seed(0)
    return new_scorer(RULES, SIZES).eval(), new_policy(RULES, SIZES)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_graph_is_worth_the_same_beside_a_larger_one() -> None:
    judge = LearntJudge(networks()[0])
    small, large = found_on(), found_on(5, 6)
    (alone,), (beside, _) = judge([small]), judge([small, large])
    assert beside.worth == pytest.approx(alone.worth, abs=1e-6)
    assert beside.node_worth == pytest.approx(alone.node_worth, abs=1e-6)
    assert len(beside.worth) == len(small)
    assert len(beside.node_worth) == small.n_nodes


def test_the_order_of_edges_plays_no_part() -> None:
    judge, found = LearntJudge(networks()[0]), found_on()
    order = rng().permutation(len(found))
    turned = replace(
        found, edges=found.edges[order], ends=found.ends[order], features=found.features[order]
    )
    (plain,), (other,) = judge([found]), judge([turned])
    assert other.worth == pytest.approx(plain.worth[order], abs=1e-6)
    assert other.node_worth == pytest.approx(plain.node_worth, abs=1e-6)


def test_a_policy_gives_no_chance_to_what_is_not_legal() -> None:
    policy = networks()[1]
    batch = EdgeEpisodes([oracle_on(), oracle_on(5, 6)], RULES, 2, rng(), pool=1)
    batch.begin([0, 1], [Place(0, 0), Place(1, 0)])
    batch.advance({0: RULES.candidates, 1: RULES.candidates + 1})
    chances = chances_of(policy, batch.observe(), batch.legal())
    assert chances.sum(1) == pytest.approx([1.0, 1.0])
    assert ((chances > 0) == batch.legal()).all()


def test_a_scorer_learns_which_heads_are_in_the_circuit() -> None:
    lesson = lesson_of(found_on(), truth_of())
    settings = ScorerSettings(epochs=150, learning_rate=1e-2)
    (judged,) = LearntJudge(fit(networks()[0], [lesson], settings, rng()))([lesson.found])
    assert lesson.nodes.sum() == len(truth_of().heads)
    assert judged.node_worth[lesson.nodes].min() > judged.node_worth[~lesson.nodes].max()


def test_looking_ahead_takes_the_best_of_what_it_looks_at() -> None:
    oracle = oracle_on()
    batch = EdgeEpisodes([oracle], RULES, 1, rng(), pool=1)
    batch.begin([0], [Place(0, 0)])
    options = ahead(batch.episode(0))
    expected = []
    for action in options:
        batch.begin([0])
        batch.advance({0: action})
        expected.append(batch.episode(0).potential)
    batch.begin([0])
    before = oracle.meter.queries
    assert batch.potentials([(0, a) for a in options]) == pytest.approx(expected, abs=1e-5)
    assert oracle.meter.queries - before == len(options) - 1  # stopping asks nothing
    before = oracle.meter.queries
    taken = batch.choose([(0, a) for a in options])
    assert oracle.meter.queries - before == len(options) - 1
    assert batch.episode(0).potential == pytest.approx(max(expected), abs=1e-5)
    assert expected[options.index(taken[0])] == max(expected)
    _, _, actions = demonstrate(batch, [Place(0, 0)])
    assert expected[options.index(int(actions[0]))] == max(expected)
    assert batch.episode(0).potential >= max(expected) - 1e-6


def test_imitation_does_what_was_shown() -> None:
    policy = networks()[1]
    batch = EdgeEpisodes([oracle_on()], RULES, 1, rng(), pool=1)
    shown = demonstrate(batch, [Place(0, 0)])
    settings = ImitationSettings(epochs=80, learning_rate=1e-2)
    assert imitate_graphs(policy, shown, settings, rng()) == 1.0
    (played,) = play_graphs(
        batch, [Place(0, 0)], partial(chances_of, policy), Acting(greedy=True), rng()
    )
    demonstrate(batch, [Place(0, 0)])
    assert played.potential == pytest.approx(batch.episode(0).potential, abs=1e-5)


@pytest.mark.parametrize("models", [(), ("small@101",)])
def test_it_trains_on_the_model_itself_and_on_others(models: tuple[str, ...]) -> None:
    method = replace(METHOD, training=replace(METHOD.training, models=models))
    assert track_of(method) == ("other-models" if models else "same-model")
    tools = TrainingTools(truths=(truth_of(101),) if models else ())
    method.train([oracle_on(seed=101 if models else 100)], rng(), tools)
    asked = oracle_on()
    found = method.discover(asked, rng())
    described = cost(RULES.attributions, RULES.probes, 4) + 2
    assert described <= asked.meter.queries <= described + method.discovery.queries
    assert found.edges is not None
    assert found.selected_edges is not None
    assert found.selected_edges <= set(found.edges)
    assert len(found.selected_edges) == found.info["kept"]
    again = replace(METHOD, training=method.training)
    again.train([oracle_on(seed=101 if models else 100)], rng(), tools)
    assert (again.discover(oracle_on(), rng()).scores == found.scores).all()


def test_a_budget_ends_the_pruning_but_not_the_answer() -> None:
    described = cost(RULES.attributions, RULES.probes, 4) + 2
    oracle = oracle_on(budget=described + 1)
    batch = EdgeEpisodes([oracle], RULES, 1, rng(), pool=1)

    def cuts(seen: Any, legal: np.ndarray) -> np.ndarray:
        chances = legal.astype(float)
        chances[:, -1] = 0.0
        return np.asarray(chances / chances.sum(1, keepdims=True))

    left = lambda: oracle.remaining  # noqa: E731
    (episode,) = play_graphs(batch, [Place(0, 0)], cuts, Acting(), rng(), left)
    assert (oracle.remaining, episode.steps <= 1) == (0, True)
    method = replace(METHOD)
    scorer, policy = networks()
    method.learnt = Trained(scorer, policy, ("small@101",), ("induction",), {}, {})
    found = method.discover(oracle_on(budget=described), rng())
    assert found.scores.shape == (4, 4)


def test_weights_come_back_and_fit_other_numbers_of_candidates(tmp_path: Any) -> None:
    scorer, policy = networks()
    kept = Trained(scorer, policy, ("small@101",), ("induction",), {"queries": 7.0}, {"a": 1})
    save(tmp_path, kept, RULES, SIZES)
    found = load(tmp_path, replace(RULES, candidates=99), SIZES)
    assert (found.models, found.tasks, found.spent, found.facts) == (
        kept.models, kept.tasks, kept.spent, kept.facts,
    )  # fmt: skip
    for ours, theirs in ((found.scorer, scorer), (found.policy, policy)):
        wanted = theirs.state_dict()
        assert all(torch.equal(value, wanted[name]) for name, value in ours.state_dict().items())
    with pytest.raises(InvalidSpec, match="attributions"):
        load(tmp_path, replace(RULES, attributions=("eap",)), SIZES)
    (tmp_path / "rl-edges.safetensors").write_bytes(b"nothing")
    with pytest.raises(CorruptRecord, match="does not match"):
        load(tmp_path, RULES, SIZES)


def test_the_weights_that_come_along_fit_a_model_of_another_size() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 300_000
    method = EdgePolicyDiscovery()
    curriculum = method.curriculum()
    assert track_of(method) == "other-models"
    seeds = {int(name.partition("@")[2]) for name in curriculum.models}
    assert seeds <= set(TUNED_ON)
    assert curriculum.spent["queries"] > 10_000
    method.train([], rng())
    oracle = oracle_on(5, 6)
    found = method.discover(oracle, rng())
    truth = load_task("induction").truth(planting(5, 6, 100))
    assert truth is not None
    assert evaluate(found, truth)["ranking"]["average_precision"] > 0.9
    pruning = method.pruning
    described = cost(pruning.attributions, pruning.probes, 5) + 2
    assert oracle.meter.queries <= described + method.discovery.queries


def test_what_is_not_trained_and_bad_settings_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="has not been trained"):
        METHOD.discover(oracle_on(), rng())
    with pytest.raises(InvalidSpec, match="set frozen=false to train"):
        EdgePolicyDiscovery(training=FamilySettings(n_envs=2)).curriculum()
    with pytest.raises(InvalidSpec, match="total_steps"):
        FamilySettings(total_steps=-1)
