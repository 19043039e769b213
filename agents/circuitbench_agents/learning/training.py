"""Trains a masked policy on an :class:`EpisodeBatch`; watched, resumable, stopped when it fails."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.logger import Logger, make_output_format

from circuitbench.core.errors import InvalidSpec, RunFailed
from circuitbench_agents.environments.batch import EpisodeBatch, OracleVecEnv
from circuitbench_agents.learning import checkpoint
from circuitbench_agents.learning.policies import TokenPolicy, mlp_arguments
from circuitbench_agents.learning.randomness import LibraryStreams

Progress = Callable[[float, str], None]
EXPLODED = 1e6  # a loss beyond this has left the range of any reward in this project


@dataclass(frozen=True)
class PolicySettings:
    """Hyperparameters of a policy-gradient run; the defaults are the seed's PPO.

    ``A2C`` is PPO with one epoch over one undivided batch, RMSprop and raw advantages (Huang
    et al. 2022, arXiv 2205.09123), REINFORCE with baseline the same with ``gae_lambda`` 1.

    Args:
        total_steps: environment steps, over all episodes run side by side.
        n_envs, n_steps: episodes side by side, and steps of each per update.
        learning_rate, final_rate: annealed linearly to ``final_rate`` times itself.
        gamma, gae_lambda: discount, and the horizon of advantage estimates.
        minibatch, epochs, clip: of PPO.
        entropy, value, grad_norm: loss coefficients and gradient clipping.
        normalize: whether advantages are standardised per minibatch.
        optimizer: ``adam`` (eps 1e-5) or ``rmsprop`` (alpha 0.99, eps 1e-5).
        network: ``mlp`` on flat observations or ``tokens``.
        width, layers, attention_heads: of the network (``width`` is d of a token).
        patience: stop early after this many updates without a better mean return; 0 never.
    """

    total_steps: int = 200_000
    n_envs: int = 8
    n_steps: int = 50
    learning_rate: float = 2.5e-4
    final_rate: float = 0.2
    gamma: float = 0.99
    gae_lambda: float = 0.95
    minibatch: int = 50
    epochs: int = 4
    clip: float = 0.2
    entropy: float = 0.1
    value: float = 0.5
    grad_norm: float = 0.5
    normalize: bool = True
    optimizer: Literal["adam", "rmsprop"] = "adam"
    network: Literal["mlp", "tokens"] = "mlp"
    width: int = 256
    layers: int = 2
    attention_heads: int = 4
    patience: int = 0

    def __post_init__(self) -> None:
        for name in ("total_steps", "n_envs", "n_steps", "minibatch", "epochs", "width"):
            if getattr(self, name) < 1:
                raise InvalidSpec(f"{name} must be 1 or more, not {getattr(self, name)}")
        for name in ("learning_rate", "clip", "grad_norm"):
            if not getattr(self, name) > 0:
                raise InvalidSpec(f"{name} must be above 0, not {getattr(self, name)}")
        if self.n_envs * self.n_steps < 2 or self.minibatch < 2:
            raise InvalidSpec("an update needs at least 2 steps, and a minibatch of at least 2")

    @property
    def rollout(self) -> int:
        """Steps per update."""
        return self.n_envs * self.n_steps

    @property
    def updates(self) -> int:
        """Number of updates, at least one."""
        return max(1, self.total_steps // self.rollout)


@dataclass(frozen=True)
class CurvePoint:
    """Learning after ``steps`` environment steps: means over the last update's episodes."""

    steps: int
    queries: int
    episode_return: float | None
    entropy: float
    loss: float
    seconds: float

    def line(self, done: float) -> str:
        """The figures for a progress bar, with the time left if ``done`` is the share done."""
        mean = "-" if self.episode_return is None else f"{self.episode_return:.2f}"
        left = self.seconds * (1 / done - 1)
        return (
            f"return {mean}, entropy {self.entropy:.2f}, {self.queries} queries, {left:.0f} s left"
        )


@contextmanager
def event_writer(folder: Path | None) -> Iterator[Callable[[CurvePoint], None]]:
    """A function that writes curve points as TensorBoard events; does nothing without a folder.

    Raises:
        InvalidSpec: the ``tensorboard`` package is not installed.
    """
    if folder is None:
        yield lambda point: None
        return
    if importlib.util.find_spec("tensorboard") is None:
        raise InvalidSpec(
            "TensorBoard events need the tensorboard package: pip install tensorboard"
        )
    output = make_output_format("tensorboard", str(folder))

    def write(point: CurvePoint) -> None:
        figures = {key: value for key, value in asdict(point).items() if value is not None}
        output.write(figures, dict.fromkeys(figures, ()), point.steps)

    try:
        yield write
    finally:
        output.close()


class PolicyTraining:
    """One training run; after it, or between its updates, a policy to act with.

    Args:
        batch: the episodes to learn on.
        settings: hyperparameters.
        seed: of the network's initial weights, the sampled actions and the minibatches.
        name: the agent, part of a checkpoint's layout.
    """

    def __init__(self, batch: EpisodeBatch, settings: PolicySettings, seed: int, name: str) -> None:
        self.batch, self.settings, self.name = batch, settings, name
        self.curve: list[CurvePoint] = []
        self.stopped_early = False
        self.seconds, self.queries = 0.0, 0
        self.streams = LibraryStreams(seed)
        self.env = OracleVecEnv(batch)
        with self.streams.active():
            self.model = self._model()
        self.model.set_logger(Logger(None, []))

    def learn(
        self,
        progress: Progress | None = None,
        folder: Path | None = None,
        checkpoint_every: int = 25,
        tensorboard: Path | None = None,
    ) -> None:
        """Run all updates that are left.

        Args:
            progress: told the fraction done and a line of figures after every update.
            folder: where checkpoints go (and are taken up from, if there is one).
            checkpoint_every: updates between two checkpoints.
            tensorboard: where event files go; needs the ``tensorboard`` package.

        Raises:
            RunFailed: the loss or the weights stopped being numbers, or exploded; the last
                checkpoint written before is left as it is.
        """
        if folder is not None and checkpoint.exists(folder):
            self.load(folder)
        began = time.perf_counter() - self.seconds
        with event_writer(tensorboard) as write:
            while len(self.curve) < self.settings.updates and not self.stopped_early:
                self._update()
                self.seconds = time.perf_counter() - began
                self.curve.append(self._watch())
                self.stopped_early = self._plateau()
                write(self.curve[-1])
                last = len(self.curve) == self.settings.updates or self.stopped_early
                if folder is not None and (last or len(self.curve) % checkpoint_every == 0):
                    self.save(folder)
                if progress is not None:
                    done = 1.0 if last else len(self.curve) / self.settings.updates
                    progress(done, self.curve[-1].line(done))

    def probabilities(self, observations: np.ndarray, legal: np.ndarray) -> np.ndarray:
        """The policy ``[n, n_actions]`` for observations ``[n, ...]``; 0 where not legal."""
        self.model.policy.set_training_mode(False)
        with torch.no_grad():
            distribution = self.model.policy.get_distribution(
                torch.as_tensor(observations), action_masks=legal
            )
        weights = distribution.distribution.probs.double().numpy() * legal
        return np.asarray(weights / weights.sum(1, keepdims=True))

    @property
    def layout(self) -> dict[str, Any]:
        """What a checkpoint must agree in to be taken up; tokens fit any grid."""
        flat = self.settings.network == "mlp"
        return {
            "agent": self.name,
            "network": self.settings.network,
            "grid": list(self.batch.shape) if flat else "any",
            "observation": list(self.batch.observation_space.shape) if flat
            else self.batch.observation_space.shape[1],
            "width": self.settings.width,
        }  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write a checkpoint from which :meth:`learn` goes on exactly."""
        tensors = {f"policy.{k}": v for k, v in self.model.policy.state_dict().items()}
        optimizer = self.model.policy.optimizer.state_dict()
        for index, moments in optimizer["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in moments.items()}
        tensors |= {f"streams.{k}": v for k, v in self.streams.tensors().items()}
        state = {
            "settings": asdict(self.settings),
            "curve": [asdict(point) for point in self.curve],
            "stopped_early": self.stopped_early,
            "seconds": self.seconds,
            "updates": self.model._n_updates,
            "batch": self.batch.state(),
            "returns": self.env.returns.tolist(),
            "starts": np.asarray(self.model._last_episode_starts).tolist(),
        }
        label = f"update-{len(self.curve):06d}"
        checkpoint.save(folder, checkpoint.Checkpoint(self.layout, tensors, state), label)

    def load(self, folder: Path) -> None:
        """Take up a training where its checkpoint left off.

        Raises:
            InvalidSpec: the checkpoint is of another agent, grid, observation or settings.
            CorruptRecord: it cannot be read.
        """
        found = checkpoint.load(folder, self.layout)
        checkpoint.same_settings(folder, found, asdict(self.settings))
        parts = checkpoint.parts(found.tensors)
        self.model.policy.load_state_dict(parts["policy"])
        checkpoint.restore_optimizer(self.model.policy.optimizer, parts.get("optimizer", {}))
        self.streams.restore(parts["streams"])
        state = found.state
        self.curve = [CurvePoint(**point) for point in state["curve"]]
        self.stopped_early, self.seconds = state["stopped_early"], state["seconds"]
        self.queries = self.curve[-1].queries if self.curve else 0
        self.batch.restore(state["batch"])
        self.env.returns[:] = state["returns"]
        self.model._n_updates = state["updates"]
        self.model.num_timesteps = len(self.curve) * self.settings.rollout
        self.model._last_obs = self.batch.observe()
        self.model._last_episode_starts = np.array(state["starts"], dtype=bool)

    def _model(self) -> MaskablePPO:
        s = self.settings
        policy: str | type[MaskableActorCriticPolicy] = "MlpPolicy"
        arguments = mlp_arguments(s.width)
        if s.network == "tokens":
            policy = TokenPolicy
            arguments = {"d": s.width, "layers": s.layers, "heads": s.attention_heads}
        if s.optimizer == "rmsprop":
            arguments |= {
                "optimizer_class": torch.optim.RMSprop,
                "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-5},
            }
        return MaskablePPO(
            policy,
            self.env,
            learning_rate=lambda _: self._rate(),
            n_steps=s.n_steps,
            batch_size=min(s.minibatch, s.rollout),
            n_epochs=s.epochs,
            gamma=s.gamma,
            gae_lambda=s.gae_lambda,
            clip_range=s.clip,
            normalize_advantage=s.normalize,
            ent_coef=s.entropy,
            vf_coef=s.value,
            max_grad_norm=s.grad_norm,
            stats_window_size=s.n_envs,
            policy_kwargs=arguments,
            device="cpu",
        )

    def _rate(self) -> float:
        left = 1 - len(self.curve) / self.settings.updates
        low = self.settings.final_rate
        return self.settings.learning_rate * (low + (1 - low) * left)

    def _update(self) -> None:
        # One rollout per call: between calls everything is at rest and can be saved.
        before = self.batch.queries
        with self.streams.active():
            try:
                self.model.learn(
                    self.settings.rollout,
                    log_interval=None,
                    reset_num_timesteps=self.model.num_timesteps == 0,
                )
            except ValueError as error:
                if self._finite():
                    raise
                raise RunFailed(
                    f"{self.name}: the policy's weights are no longer numbers"
                ) from error
        self.queries += self.batch.queries - before

    def _watch(self) -> CurvePoint:
        figures = self.model.logger.name_to_value
        loss = float(figures["train/loss"])
        done = (len(self.curve) + 1) * self.settings.rollout
        if not math.isfinite(loss) or abs(loss) > EXPLODED or not self._finite():
            raise RunFailed(f"{self.name}: training failed after {done} steps, the loss is {loss}")
        returns = [info["r"] for info in self.model.ep_info_buffer or ()]
        return CurvePoint(
            steps=done,
            queries=self.queries,
            episode_return=float(np.mean(returns)) if returns else None,
            entropy=-float(figures["train/entropy_loss"]),
            loss=loss,
            seconds=self.seconds,
        )

    def _finite(self) -> bool:
        return all(bool(p.isfinite().all()) for p in self.model.policy.parameters())

    def _plateau(self) -> bool:
        patience = self.settings.patience
        returns = [p.episode_return for p in self.curve if p.episode_return is not None]
        if patience == 0 or len(returns) <= 2 * patience:
            return False
        smooth = np.convolve(returns, np.ones(patience) / patience, mode="valid")
        return bool(len(smooth) - 1 - smooth.argmax() >= patience)
