"""Trains a masked policy on an :class:`EpisodeBatch`; watched, resumable, stopped when it fails."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.logger import Logger

from circuitbench import InvalidSpec, RunFailed, TrainingTools
from circuitbench_agents.environments.episode_batch import EpisodeBatch
from circuitbench_agents.environments.stable_baselines import OracleVecEnv
from circuitbench_agents.learning import checkpoint
from circuitbench_agents.learning.curve import EXPLODED, CurvePoint, event_writer
from circuitbench_agents.learning.policies import Network
from circuitbench_agents.learning.randomness import LibraryStreams
from circuitbench_agents.learning.settings import (
    require_above_0,
    require_at_least_1,
    require_share,
)


@dataclass(frozen=True)
class PPOSettings:
    """Hyperparameters of PPO; the defaults are those of MechRL (Khadka 2026, arXiv 2605.26343).

    ``A2C`` is PPO with one epoch over one undivided batch, RMSprop and raw advantages (Huang
    et al. 2022, arXiv 2205.09123), REINFORCE with baseline the same with ``gae_lambda`` 1.

    Args:
        n_steps: steps of each episode per update.
        learning_rate, final_rate: annealed linearly to ``final_rate`` times itself.
        gamma, gae_lambda: discount, and the horizon of advantage estimates.
        minibatch, epochs, clip: of PPO.
        entropy, value, grad_norm: loss coefficients and gradient clipping.
        normalize: whether advantages are standardised per minibatch.
        optimizer: ``adam`` (eps 1e-5) or ``rmsprop`` (alpha 0.99, eps 1e-5).
        patience: stop early after this many updates without a better mean return; 0 never.
    """

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
    patience: int = 0

    def __post_init__(self) -> None:
        require_at_least_1(self, "n_steps", "epochs")
        require_above_0(self, "learning_rate", "clip", "grad_norm")
        require_share(self, "gamma", "gae_lambda")
        if self.minibatch < 2:
            raise InvalidSpec(f"minibatch must be 2 or more, not {self.minibatch}")
        if self.patience < 0:
            raise InvalidSpec(f"patience must be 0 or more, not {self.patience}")


class PolicyTraining:
    """One training run; after it, or between its updates, a policy to act with.

    Args:
        batch: the episodes to learn on, side by side.
        settings: hyperparameters.
        network: of the policy; its kind of observation must be the batch's.
        total_steps: environment steps over all episodes; at least one update is made.
        seed: of the network's initial weights, the sampled actions and the minibatches.
        name: the agent, part of a checkpoint's layout.
        origin: what else a checkpoint must agree in to be taken up, JSON-able.

    Raises:
        InvalidSpec: updates of a single step, or a network for other observations.
    """

    def __init__(
        self,
        batch: EpisodeBatch,
        settings: PPOSettings,
        network: Network,
        total_steps: int,
        seed: int,
        name: str,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.batch, self.settings, self.network, self.name = batch, settings, network, name
        self.rollout = len(batch) * settings.n_steps  # steps per update
        if self.rollout < 2:
            raise InvalidSpec("an update needs at least 2 steps: raise n_envs or n_steps")
        if network.observation != batch.observation:
            raise InvalidSpec(f"network {network.name} cannot see {batch.observation} observations")
        self.updates = max(1, total_steps // self.rollout)
        self.origin = {
            "training": {"total_steps": total_steps, "n_envs": len(batch)},
            "ppo": asdict(settings),
            "network": asdict(network),
            **(origin or {}),
        }
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
        tools: TrainingTools = TrainingTools(),
        checkpoint_every: int = checkpoint.EVERY,
    ) -> None:
        """Run all updates that are left.

        Args:
            tools: where figures and checkpoints go; a checkpoint found there is taken up.
            checkpoint_every: updates between two checkpoints.

        Raises:
            RunFailed: the loss or the weights stopped being numbers, or exploded; the last
                checkpoint written before is left as it is.
            InvalidSpec, CorruptRecord: see :meth:`load`.
        """
        folder = tools.checkpoints
        if folder is not None and checkpoint.exists(folder):
            self.load(folder)
        for point in self.curve:
            tools.plot(asdict(point))
        began = time.perf_counter() - self.seconds
        with event_writer(tools.tensorboard) as write:
            while len(self.curve) < self.updates and not self.stopped_early:
                self._update()
                self.seconds = time.perf_counter() - began
                self.curve.append(self._watch())
                self.stopped_early = self._plateau()
                write(self.curve[-1])
                tools.plot(asdict(self.curve[-1]))
                last = len(self.curve) == self.updates or self.stopped_early
                if folder is not None and (last or len(self.curve) % checkpoint_every == 0):
                    self.save(folder)
                done = 1.0 if last else len(self.curve) / self.updates
                tools.report(done, self.curve[-1].line(done))

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
        shape = self.batch.observation_space.shape
        flat = self.network.observation == "flat"
        return {
            "agent": self.name,
            "network": self.network.name,
            "grid": list(self.batch.shape) if flat else "any",
            "observation": list(shape) if flat else shape[1],
            "width": self.network.width,
        }

    def save(self, folder: Path) -> None:
        """Write a checkpoint from which :meth:`learn` goes on exactly."""
        tensors = {f"policy.{k}": v for k, v in self.model.policy.state_dict().items()}
        optimizer = self.model.policy.optimizer.state_dict()
        for index, moments in optimizer["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in moments.items()}
        tensors |= {f"streams.{k}": v for k, v in self.streams.tensors().items()}
        state = {
            "origin": self.origin,
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
        checkpoint.same_origin(folder, found, self.origin)
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
        self.model.num_timesteps = len(self.curve) * self.rollout
        self.model._last_obs = self.batch.observe()
        self.model._last_episode_starts = np.array(state["starts"], dtype=bool)

    def _model(self) -> MaskablePPO:
        s = self.settings
        arguments = self.network.arguments()
        if s.optimizer == "rmsprop":
            arguments |= {
                "optimizer_class": torch.optim.RMSprop,
                "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-5},
            }
        return MaskablePPO(
            self.network.policy(),
            self.env,
            learning_rate=lambda _: self._rate(),
            n_steps=s.n_steps,
            batch_size=min(s.minibatch, self.rollout),
            n_epochs=s.epochs,
            gamma=s.gamma,
            gae_lambda=s.gae_lambda,
            clip_range=s.clip,
            normalize_advantage=s.normalize,
            ent_coef=s.entropy,
            vf_coef=s.value,
            max_grad_norm=s.grad_norm,
            stats_window_size=len(self.batch),
            policy_kwargs=arguments,
            device="cpu",
        )

    def _rate(self) -> float:
        left = 1 - len(self.curve) / self.updates
        low = self.settings.final_rate
        return self.settings.learning_rate * (low + (1 - low) * left)

    def _update(self) -> None:
        # One rollout per call: between calls everything is at rest and can be saved.
        before = self.batch.queries
        with self.streams.active():
            try:
                self.model.learn(
                    self.rollout,
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
        done = (len(self.curve) + 1) * self.rollout
        if not math.isfinite(loss) or abs(loss) > EXPLODED or not self._finite():
            raise RunFailed(f"{self.name}: training failed after {done} steps, the loss is {loss}")
        ended = self.model.ep_info_buffer or ()
        hits = [info["hits"] for info in ended if "hits" in info]  # not every environment has any
        return CurvePoint(
            steps=done,
            queries=self.queries,
            episode_return=float(np.mean([info["r"] for info in ended])) if ended else None,
            hits=float(np.mean(hits)) if hits else None,
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
