import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agents_kit import GAINS

from circuitbench.core.errors import CorruptRecord, InvalidSpec, RunFailed
from circuitbench.core.extras import MissingExtra
from circuitbench.plugins.method import TrainingTools
from circuitbench_agents.environments.episode_batch import EpisodeBatch
from circuitbench_agents.learning import checkpoint
from circuitbench_agents.learning.curve import CurvePoint
from circuitbench_agents.learning.policies import MLP, Network, TokenAttention
from circuitbench_agents.learning.policy_training import PolicyTraining, PPOSettings
from circuitbench_agents.learning.randomness import LibraryStreams
from circuitbench_agents.learning.settings import DiscoverySettings, TrainingSettings
from circuitbench_baselines.episodes.rules import SearchRules

SMALL: dict[str, Any] = {"n_steps": 6, "minibatch": 12, "epochs": 2}
NETWORKS: dict[str, Network] = {"mlp": MLP(16), "tokens": TokenAttention(16)}


def start(
    make_oracle: Any,
    gains: Any = GAINS,
    network: str = "mlp",
    total_steps: int = 96,
    n_envs: int = 4,
    origin: dict[str, Any] | None = None,
    **changes: Any,
) -> PolicyTraining:
    settings = PPOSettings(**(SMALL | changes))
    batch = EpisodeBatch(
        [make_oracle(gains, pool=4)],
        SearchRules(3),
        n_envs,
        np.random.default_rng(0),
        observation=NETWORKS[network].observation,
    )
    return PolicyTraining(batch, settings, NETWORKS[network], total_steps, 3, "test", origin)


def weights(training: Any) -> Any:
    return torch.cat([p.detach().ravel() for p in training.model.policy.parameters()])


def preference(training: Any) -> Any:
    batch = training.batch
    batch.begin([0])
    return training.probabilities(batch.observe()[:1], batch.legal()[:1])[0]


@pytest.mark.parametrize("network", ["mlp", "tokens"])
def test_it_learns_which_heads_pay(make_oracle: Any, network: Any) -> None:
    gains = np.zeros((3, 3))
    gains[1] = 2.0  # a whole layer, which is what a token policy can know before it asks
    training = start(
        make_oracle,
        gains,
        network,
        total_steps=1200,
        n_envs=8,
        learning_rate=3e-3,
        entropy=0.0,
    )
    training.learn()
    first, last = training.curve[0], training.curve[-1]
    assert first.episode_return is not None
    assert last.episode_return is not None
    assert last.episode_return > first.episode_return + 1.0
    assert preference(training).reshape(3, 3)[1].sum() > 0.8
    assert [point.steps for point in training.curve] == [48 * (i + 1) for i in range(25)]


def test_global_random_state_is_left_alone_and_does_not_matter(make_oracle: Any) -> None:
    def train() -> Any:
        training = start(make_oracle)
        training.learn()
        return weights(training)

    before = torch.get_rng_state()
    first = train()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(train(), first)


def test_streams_can_be_saved() -> None:
    streams = LibraryStreams(4)
    with streams.active():
        torch.rand(3)
    saved = streams.tensors()
    with streams.active():
        expected = torch.rand(5), np.random.permutation(9)  # noqa: NPY002
    other = LibraryStreams(99)
    other.restore(saved)
    with other.active():
        again = torch.rand(5), np.random.permutation(9)  # noqa: NPY002
    assert torch.equal(expected[0], again[0])
    assert np.array_equal(expected[1], again[1])


@pytest.mark.parametrize("changes", [{"optimizer": "rmsprop"}, {"network": "tokens"}])
def test_a_killed_training_resumes_bit_exactly(
    make_oracle: Any, tmp_path: Path, changes: Any
) -> None:
    whole = start(make_oracle, **changes)
    whole.learn()
    killed = start(make_oracle, **changes)

    def die(fraction: Any, text: str) -> None:
        if fraction >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed.learn(TrainingTools(die, tmp_path), checkpoint_every=1)
    resumed = start(make_oracle, **changes)
    resumed.learn(TrainingTools(checkpoints=tmp_path))
    spent = [training.batch.oracles[0].meter for training in (whole, resumed)]
    assert spent[0].queries == spent[1].queries
    assert (spent[0].forwards, spent[0].tokens) == (spent[1].forwards, spent[1].tokens)
    assert torch.equal(weights(resumed), weights(whole))
    assert [p.loss for p in resumed.curve] == [p.loss for p in whole.curve]


def test_a_checkpoint_of_another_layout_is_refused(make_oracle: Any, tmp_path: Path) -> None:
    training = start(make_oracle)
    training.learn(TrainingTools(checkpoints=tmp_path))
    with pytest.raises(InvalidSpec, match=r"grid \[3, 3\], but this run needs \[2, 2\]"):
        start(make_oracle, np.ones((2, 2))).load(tmp_path)
    with pytest.raises(InvalidSpec, match="network mlp, but this run needs tokens"):
        start(make_oracle, network="tokens").load(tmp_path)
    more_tasks = EpisodeBatch(
        [make_oracle(pool=4)], SearchRules(3), 4, np.random.default_rng(0), n_tasks=2
    )
    with pytest.raises(InvalidSpec, match=r"observation \[19\], but this run needs \[20\]"):
        PolicyTraining(more_tasks, PPOSettings(**SMALL), MLP(16), 96, 3, "test").load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"gamma": 0.5}, "another ppo.gamma; use"),
        ({"total_steps": 120}, "another training.total_steps; use"),
        ({"origin": {"seed": 1, "warm_start": "acdc"}}, "another warm_start; use"),
        ({"origin": {"seed": 2, "warm_start": ""}}, "another seed; use"),
        ({}, "another seed, warm_start; use"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_by_name(
    make_oracle: Any, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    origin = {"seed": 1, "warm_start": ""}
    start(make_oracle, origin=origin).save(tmp_path)
    start(make_oracle, origin=origin).load(tmp_path)
    settings = changes if "origin" in changes or not changes else {"origin": origin, **changes}
    with pytest.raises(InvalidSpec, match=named):
        start(make_oracle, **settings).load(tmp_path)


def test_a_damaged_checkpoint_is_refused(make_oracle: Any, tmp_path: Path) -> None:
    start(make_oracle).save(tmp_path)
    tensors = next(tmp_path.glob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-8] + b"damaged!")
    with pytest.raises(CorruptRecord, match="does not match"):
        checkpoint.load(tmp_path)
    (tmp_path / checkpoint.INDEX).write_text("{")
    with pytest.raises(CorruptRecord, match="not a readable checkpoint"):
        checkpoint.load(tmp_path)


def test_a_checkpoint_holds_no_pickle(make_oracle: Any, tmp_path: Path) -> None:
    start(make_oracle).save(tmp_path)
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}
    json.loads((tmp_path / checkpoint.INDEX).read_text())


def test_divergence_fails_and_keeps_the_last_good_checkpoint(
    make_oracle: Any, tmp_path: Path
) -> None:
    training = start(make_oracle)

    def poison(fraction: Any, text: str) -> None:
        with torch.no_grad():
            next(iter(training.model.policy.parameters())).fill_(float("nan"))

    with pytest.raises(RunFailed, match=r"no longer numbers|loss is nan"):
        training.learn(TrainingTools(poison, tmp_path), checkpoint_every=1)
    tensors = checkpoint.load(tmp_path).tensors
    assert all(bool(t.isfinite().all()) for t in tensors.values() if t.is_floating_point())


def test_a_plateau_stops_early(make_oracle: Any) -> None:
    training = start(make_oracle, np.zeros((3, 3)), patience=2, total_steps=2400)
    training.learn()
    assert training.stopped_early
    assert len(training.curve) < 100


def test_token_weights_fit_another_grid(make_oracle: Any) -> None:
    small = start(make_oracle, network="tokens")
    small.learn()
    large = start(make_oracle, np.ones((4, 5)), "tokens").batch
    large.begin([0])
    weights = small.probabilities(large.observe()[:1], large.legal()[:1])[0]
    assert weights.shape == (20,)
    assert weights.sum() == pytest.approx(1)


def test_the_token_policy_is_equivariant(make_oracle: Any) -> None:
    training = start(make_oracle, network="tokens")
    tokens = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)
    order = np.random.default_rng(1).permutation(9)
    legal = np.ones((2, 9), dtype=bool)
    straight = training.probabilities(tokens, legal)
    permuted = training.probabilities(tokens[:, order], legal)
    assert np.allclose(straight[:, order], permuted, atol=1e-6)


def test_tensorboard_is_optional(
    make_oracle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install .circuitbench\[tensorboard\]"):
        start(make_oracle).learn(TrainingTools(tensorboard=tmp_path))


def test_learning_curves_go_to_tensorboard(make_oracle: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    start(make_oracle).learn(TrainingTools(tensorboard=tmp_path))
    assert next(tmp_path.glob("events*")).stat().st_size > 0


def test_progress_tells_return_hits_queries_and_time_left(make_oracle: Any) -> None:
    told = []
    start(make_oracle).learn(TrainingTools(lambda fraction, text: told.append((fraction, text))))
    assert [fraction for fraction, _ in told] == [0.25, 0.5, 0.75, 1.0]
    assert re.fullmatch(r"return \d+\.\d\d, hits \d\.\d, 96 queries, 0 s left", told[-1][1])
    point = CurvePoint(50, 50, 1.0, 2.5, 0.1, 0.0, seconds=100.0)
    assert point.line(0.25) == "return 1.00, hits 2.5, 50 queries, 5 min 0 s left"


def test_the_learning_curve_is_told_and_told_again_by_one_that_goes_on(
    make_oracle: Any, tmp_path: Path
) -> None:
    def tell(points: list[Any]) -> TrainingTools:
        return TrainingTools(checkpoints=tmp_path, plot=points.append)

    first: list[Any] = []
    again: list[Any] = []
    training = start(make_oracle)
    training.learn(tell(first))
    assert [point["steps"] for point in first] == [24, 48, 72, 96]
    assert all(0 <= point["hits"] <= 6 for point in first)
    start(make_oracle).learn(tell(again))
    assert again == first


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingSettings(total_steps=0), "total_steps must be 1 or more, not 0"),
        (lambda: TrainingSettings(pool=0), "pool must be 1 or more"),
        (lambda: DiscoverySettings(episodes=0), "episodes must be 1 or more"),
        (lambda: DiscoverySettings(candidates=0), "candidates must be 1 or more"),
        (lambda: PPOSettings(learning_rate=0.0), "learning_rate must be above 0"),
        (lambda: PPOSettings(gamma=1.5), "gamma must lie between 0 and 1, not 1.5"),
        (lambda: PPOSettings(minibatch=1), "minibatch must be 2 or more"),
        (lambda: MLP(0), "width must be 1 or more"),
        (lambda: TokenAttention(30, attention_heads=4), "4 does not divide 30"),
    ],
)
def test_bad_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        make()


def test_a_training_that_cannot_be_is_refused(make_oracle: Any) -> None:
    with pytest.raises(InvalidSpec, match="at least 2 steps"):
        start(make_oracle, n_envs=1, n_steps=1)
    batch = start(make_oracle).batch
    with pytest.raises(InvalidSpec, match="network tokens cannot see flat observations"):
        PolicyTraining(batch, PPOSettings(), NETWORKS["tokens"], 96, 3, "test")
