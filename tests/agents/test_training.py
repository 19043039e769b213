import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agents_kit import GAINS

from circuitbench.core.errors import CorruptRecord, InvalidSpec, RunFailed
from circuitbench_agents.environments.batch import EpisodeBatch
from circuitbench_agents.learning import checkpoint
from circuitbench_agents.learning.randomness import LibraryStreams
from circuitbench_agents.learning.training import PolicySettings, PolicyTraining
from circuitbench_baselines.episodes.rules import SearchRules

SMALL: dict[str, Any] = {
    "total_steps": 96,
    "n_envs": 4,
    "n_steps": 6,
    "minibatch": 12,
    "epochs": 2,
    "width": 16,
}


def start(make_oracle: Any, gains: Any = GAINS, observation: Any = "flat", **changes: Any) -> Any:
    settings = PolicySettings(**(SMALL | changes))
    batch = EpisodeBatch(
        [make_oracle(gains, pool=4)],
        SearchRules(3),
        settings.n_envs,
        np.random.default_rng(0),
        observation=observation,
    )
    return PolicyTraining(batch, settings, 3, "test")


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
        "flat" if network == "mlp" else "tokens",
        network=network,
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
    observation = "tokens" if "network" in changes else "flat"
    whole = start(make_oracle, observation=observation, **changes)
    whole.learn()
    killed = start(make_oracle, observation=observation, **changes)

    def die(fraction: Any, text: str) -> None:
        if fraction >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed.learn(die, tmp_path, checkpoint_every=1)
    resumed = start(make_oracle, observation=observation, **changes)
    resumed.learn(folder=tmp_path)
    assert torch.equal(weights(resumed), weights(whole))
    assert [p.loss for p in resumed.curve] == [p.loss for p in whole.curve]


def test_a_checkpoint_of_another_layout_is_refused(make_oracle: Any, tmp_path: Path) -> None:
    training = start(make_oracle)
    training.learn(folder=tmp_path)
    with pytest.raises(InvalidSpec, match=r"grid \[3, 3\], but this run needs \[2, 2\]"):
        start(make_oracle, np.ones((2, 2))).load(tmp_path)
    with pytest.raises(InvalidSpec, match="another gamma"):
        start(make_oracle, gamma=0.5).load(tmp_path)
    with pytest.raises(InvalidSpec, match="network mlp, but this run needs tokens"):
        start(make_oracle, observation="tokens", network="tokens").load(tmp_path)
    more_tasks = EpisodeBatch(
        [make_oracle(pool=4)], SearchRules(3), 4, np.random.default_rng(0), n_tasks=2
    )
    with pytest.raises(InvalidSpec, match=r"observation \[19\], but this run needs \[20\]"):
        PolicyTraining(more_tasks, PolicySettings(**SMALL), 3, "test").load(tmp_path)


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
        training.learn(poison, tmp_path, checkpoint_every=1)
    tensors = checkpoint.load(tmp_path).tensors
    assert all(bool(t.isfinite().all()) for t in tensors.values() if t.is_floating_point())


def test_a_plateau_stops_early(make_oracle: Any) -> None:
    training = start(make_oracle, np.zeros((3, 3)), patience=2, total_steps=2400)
    training.learn()
    assert training.stopped_early
    assert len(training.curve) < 100


def test_token_weights_fit_another_grid(make_oracle: Any) -> None:
    small = start(make_oracle, observation="tokens", network="tokens")
    small.learn()
    large = start(make_oracle, np.ones((4, 5)), "tokens", network="tokens").batch
    large.begin([0])
    weights = small.probabilities(large.observe()[:1], large.legal()[:1])[0]
    assert weights.shape == (20,)
    assert weights.sum() == pytest.approx(1)


def test_the_token_policy_is_equivariant(make_oracle: Any) -> None:
    training = start(make_oracle, observation="tokens", network="tokens")
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
    with pytest.raises(InvalidSpec, match="pip install tensorboard"):
        start(make_oracle).learn(tensorboard=tmp_path)


def test_learning_curves_go_to_tensorboard(make_oracle: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    start(make_oracle).learn(tensorboard=tmp_path)
    assert next(tmp_path.glob("events*")).stat().st_size > 0


def test_progress_tells_return_entropy_queries_and_time_left(make_oracle: Any) -> None:
    told = []
    start(make_oracle).learn(lambda fraction, text: told.append((fraction, text)))
    assert [fraction for fraction, _ in told] == [0.25, 0.5, 0.75, 1.0]
    assert told[-1][1].startswith("return ")
    assert "entropy" in told[-1][1]
    assert "96 queries, 0 s left" in told[-1][1]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="total_steps"):
        PolicySettings(total_steps=0)
    with pytest.raises(InvalidSpec, match="learning_rate"):
        PolicySettings(learning_rate=0.0)
