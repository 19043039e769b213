"""``rl-dqn``: masked double deep Q-learning. Own code: stable-baselines3's DQN knows no masks."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from circuitbench import Info, RunFailed, TrainingTools
from circuitbench_agents.environments.episode_batch import EpisodeBatch
from circuitbench_agents.environments.stable_baselines import OracleVecEnv
from circuitbench_agents.learner import LearningAgent
from circuitbench_agents.learning import checkpoint
from circuitbench_agents.learning.curve import EXPLODED, CurvePoint, event_writer
from circuitbench_agents.learning.policies import MLP
from circuitbench_agents.learning.settings import (
    require_above_0,
    require_at_least_1,
    require_share,
)
from circuitbench_baselines.episodes.rules import Observation, Rules, SearchRules


@dataclass(frozen=True)
class DQNSettings:
    """Hyperparameters of DQN.

    Args:
        learning_rate, gamma, minibatch, grad_norm: as usual; Adam, Huber loss.
        buffer: transitions remembered.
        warm_up: steps of random play before learning.
        train_every: environment steps per gradient step.
        sync: gradient steps between two copies to the target network.
        explore, explore_share: epsilon falls linearly from 1 to ``explore`` over the first
            ``explore_share`` of the run.
        temperature: of the policy ``softmax(Q / temperature)`` left by training, reward units.
    """

    learning_rate: float = 5e-4
    gamma: float = 0.9
    minibatch: int = 64
    grad_norm: float = 10.0
    buffer: int = 20_000
    warm_up: int = 1_000
    train_every: int = 8
    sync: int = 250
    explore: float = 0.05
    explore_share: float = 0.5
    temperature: float = 0.05

    def __post_init__(self) -> None:
        require_at_least_1(self, "minibatch", "buffer", "train_every", "sync")
        require_above_0(self, "learning_rate", "temperature", "explore_share")
        require_share(self, "gamma", "explore", "explore_share")


class Replay:
    """The last transitions, with the actions legal after each."""

    def __init__(self, size: int, observation: int, actions: int) -> None:
        self.arrays: dict[str, np.ndarray] = {
            "before": np.zeros((size, observation), np.float32),
            "after": np.zeros((size, observation), np.float32),
            "legal": np.zeros((size, actions), bool),
            "action": np.zeros(size, np.int64),
            "reward": np.zeros(size, np.float32),
            "ended": np.zeros(size, np.float32),
        }
        self.size, self.added = size, 0

    def add(self, **rows: np.ndarray) -> None:
        """Append transitions; the oldest go."""
        count = len(rows["action"])
        places = (self.added + np.arange(count)) % self.size
        for name, values in rows.items():
            self.arrays[name][places] = values
        self.added += count

    def sample(self, n: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """``n`` transitions, uniformly."""
        rows = rng.integers(min(self.added, self.size), size=n)
        return {name: torch.from_numpy(values[rows]) for name, values in self.arrays.items()}


def double_q_target(
    after: Tensor, target_after: Tensor, legal: Tensor, reward: Tensor, ended: Tensor, gamma: float
) -> Tensor:
    """Targets of masked double Q-learning (van Hasselt et al. 2016, arXiv 1509.06461), ``[n]``.

    The online network's values ``after [n, actions]`` pick the best legal action, the target
    network's ``target_after`` price it.
    """
    choice = after.masked_fill(~legal, -torch.inf).argmax(1, keepdim=True)
    return reward + gamma * (1 - ended) * target_after.gather(1, choice)[:, 0]


class DQNTraining:
    """One DQN run on an :class:`EpisodeBatch`; resumable like a ``PolicyTraining``.

    Args:
        batch: the episodes to learn on, side by side.
        settings: hyperparameters.
        network: its ``width``; the layers are ReLU layers.
        total_steps: environment steps over all episodes.
        seed: of the initial weights, the actions and the minibatches.
        name: the agent, part of a checkpoint's layout.
        origin: what else a checkpoint must agree in to be taken up, JSON-able.
    """

    report_every = 50  # vector steps between two points of the curve

    def __init__(
        self,
        batch: EpisodeBatch,
        settings: DQNSettings,
        network: MLP,
        total_steps: int,
        seed: int,
        name: str,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.batch, self.settings, self.network, self.name = batch, settings, network, name
        self.total_steps = total_steps
        self.origin = {
            "training": {"total_steps": total_steps, "n_envs": len(batch)},
            "dqn": asdict(settings),
            "network": asdict(network),
            **(origin or {}),
        }
        self.env = OracleVecEnv(batch)
        self.rng = np.random.default_rng(seed)
        observation, actions = int(batch.observation_space.shape[0]), int(batch.action_space.n)
        self.online = _network(observation, actions, network.width, self.rng)
        self.target = copy.deepcopy(self.online)
        self.optimizer = torch.optim.Adam(self.online.parameters(), settings.learning_rate)
        self.replay = Replay(settings.buffer, observation, actions)
        self.curve: list[CurvePoint] = []
        self.stopped_early = False
        self.steps = self.gradient_steps = 0
        self.seconds, self.queries = 0.0, 0
        self.begun = False

    def learn(
        self,
        tools: TrainingTools = TrainingTools(),
        checkpoint_every: int = checkpoint.EVERY,
    ) -> None:
        """Run what is left, as :meth:`PolicyTraining.learn` does.

        Raises:
            RunFailed: the loss or the weights stopped being numbers, or exploded.
            InvalidSpec, CorruptRecord: see :meth:`load`.
        """
        folder = tools.checkpoints
        if folder is not None and checkpoint.exists(folder):
            self.load(folder)
        if not self.begun:
            self.env.reset()
            self.begun = True
        began = time.perf_counter() - self.seconds
        with event_writer(tools.tensorboard) as write:
            while self.steps < self.total_steps:
                returns: list[float] = []
                losses: list[float] = []
                before = self.batch.queries
                for _ in range(self.report_every):
                    if self.steps < self.total_steps:
                        self._step(returns, losses)
                self.queries += self.batch.queries - before
                self.seconds = time.perf_counter() - began
                self.curve.append(self._watch(returns, losses))
                write(self.curve[-1])
                last = self.steps >= self.total_steps
                if folder is not None and (last or len(self.curve) % checkpoint_every == 0):
                    self.save(folder)
                fraction = min(1.0, self.steps / self.total_steps)
                tools.report(fraction, self.curve[-1].line(fraction))

    def probabilities(self, observations: np.ndarray, legal: np.ndarray) -> np.ndarray:
        """Softmax of the values of legal actions, ``[n, n_actions]``."""
        with torch.no_grad():
            values = self.online(torch.as_tensor(observations)).double().numpy()
        values = np.where(legal, values / self.settings.temperature, -np.inf)
        weights = np.exp(values - values.max(1, keepdims=True))
        # Underflow must not make a legal action impossible.
        weights = np.where(legal, np.maximum(weights, 1e-300), 0.0)
        return np.asarray(weights / weights.sum(1, keepdims=True))

    @property
    def layout(self) -> dict[str, Any]:
        """What a checkpoint must agree in to be taken up."""
        return {
            "agent": self.name,
            "grid": list(self.batch.shape),
            "observation": list(self.batch.observation_space.shape),
            "width": self.network.width,
        }

    def save(self, folder: Path) -> None:
        """Write a checkpoint from which :meth:`learn` goes on exactly."""
        tensors = {f"online.{k}": v for k, v in self.online.state_dict().items()}
        tensors |= {f"target.{k}": v for k, v in self.target.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in moments.items()}
        tensors |= {f"replay.{k}": torch.from_numpy(v) for k, v in self.replay.arrays.items()}
        state = {
            "origin": self.origin,
            "curve": [asdict(point) for point in self.curve],
            "counts": [self.steps, self.gradient_steps, self.replay.added],
            "seconds": self.seconds,
            "rng": self.rng.bit_generator.state,
            "batch": self.batch.state(),
            "returns": self.env.returns.tolist(),
        }
        saved = checkpoint.Checkpoint(self.layout, tensors, state)
        checkpoint.save(folder, saved, f"step-{self.steps:09d}")

    def load(self, folder: Path) -> None:
        """Take up a training where its checkpoint left off; raises as ``PolicyTraining.load``."""
        found = checkpoint.load(folder, self.layout)
        checkpoint.same_origin(folder, found, self.origin)
        parts = checkpoint.parts(found.tensors)
        self.online.load_state_dict(parts["online"])
        self.target.load_state_dict(parts["target"])
        checkpoint.restore_optimizer(self.optimizer, parts.get("optimizer", {}))
        self.replay.arrays = {k: v.numpy().copy() for k, v in parts["replay"].items()}
        state = found.state
        self.curve = [CurvePoint(**point) for point in state["curve"]]
        self.steps, self.gradient_steps, self.replay.added = state["counts"]
        self.seconds = state["seconds"]
        self.queries = self.curve[-1].queries if self.curve else 0
        self.rng.bit_generator.state = state["rng"]
        self.batch.restore(state["batch"])
        self.env.returns[:] = state["returns"]
        self.begun = True

    def _step(self, returns: list[float], losses: list[float]) -> None:
        s, n = self.settings, len(self.batch)
        before, legal = self.batch.observe(), self.batch.legal()
        values = self.probabilities(before, legal)
        random = self.rng.random(n) < self._epsilon()
        keys = np.where(random[:, None], self.rng.random(legal.shape), values)
        actions = np.where(legal, keys, -1.0).argmax(1)
        after, rewards, dones, infos = self.env.step(actions)
        legal_after = self.batch.legal()
        ended = np.zeros(n, np.float32)
        for i in np.flatnonzero(dones):
            after[i] = infos[i]["terminal_observation"]
            # A truncated episode's last state has a value, but its legal actions are not kept;
            # the environments end by termination wherever DQN is used.
            ended[i] = 1.0
            returns.append(infos[i]["episode"]["r"])
        self.replay.add(
            before=before,
            after=after,
            legal=legal_after,
            action=actions,
            reward=rewards,
            ended=ended,
        )
        self.steps += n
        if self.steps >= max(s.warm_up, s.minibatch):
            for _ in range(max(1, n // s.train_every)):
                losses.append(self._gradient_step())

    def _gradient_step(self) -> float:
        s = self.settings
        rows = self.replay.sample(s.minibatch, self.rng)
        with torch.no_grad():
            targets = double_q_target(
                self.online(rows["after"]),
                self.target(rows["after"]),
                rows["legal"],
                rows["reward"],
                rows["ended"],
                s.gamma,
            )
        values = self.online(rows["before"]).gather(1, rows["action"][:, None])[:, 0]
        loss = nn.functional.smooth_l1_loss(values, targets)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.online.parameters(), s.grad_norm)
        self.optimizer.step()
        self.gradient_steps += 1
        if self.gradient_steps % s.sync == 0:
            self.target.load_state_dict(self.online.state_dict())
        return float(loss.detach())

    def _epsilon(self) -> float:
        s = self.settings
        if self.steps < s.warm_up:
            return 1.0
        gone = min(1.0, self.steps / (s.explore_share * self.total_steps))
        return 1.0 - (1.0 - s.explore) * gone

    def _watch(self, returns: list[float], losses: list[float]) -> CurvePoint:
        loss = float(np.mean(losses)) if losses else 0.0
        finite = all(bool(p.isfinite().all()) for p in self.online.parameters())
        if not math.isfinite(loss) or abs(loss) > EXPLODED or not finite:
            raise RunFailed(f"{self.name}: training failed after {self.steps} steps, loss {loss}")
        policy = self.probabilities(self.batch.observe(), self.batch.legal())
        logs = np.log(policy, where=policy > 0, out=np.zeros_like(policy))
        return CurvePoint(
            steps=self.steps,
            queries=self.queries,
            episode_return=float(np.mean(returns)) if returns else None,
            entropy=float(-(policy * logs).sum(1).mean()),
            loss=loss,
            seconds=self.seconds,
        )


@Info(
    title="Masked double DQN",
    family="Reinforcement learning",
    paper="van Hasselt et al. 2016",
    link="https://arxiv.org/abs/1509.06461",
    needs=("training",),
)
@dataclass
class DQNHeadDiscovery(LearningAgent[DQNTraining]):
    """``rl-dqn``: double DQN (van Hasselt et al. 2016, arXiv 1509.06461) with illegal heads masked.

    Args:
        discovery, training: see :class:`circuitbench_agents.learner.LearningAgent`.
        dqn: how it learns.
        network: what it learns with.
        search: the environment, HeadDiscovery.
    """

    dqn: DQNSettings = DQNSettings()
    network: MLP = MLP()
    search: SearchRules = SearchRules()

    name: ClassVar[str] = "rl-dqn"

    @property
    def observation(self) -> Observation:
        """What the network sees."""
        return self.network.observation

    def start(self, batch: EpisodeBatch, seed: int, origin: Mapping[str, Any]) -> DQNTraining:
        """A DQN run."""
        steps = self.training.total_steps
        return DQNTraining(batch, self.dqn, self.network, steps, seed, self.name, origin)

    def rules(self) -> Rules:
        """HeadDiscovery's."""
        return self.search


def _network(n_in: int, n_out: int, width: int, rng: np.random.Generator) -> nn.Module:
    """A two-layer ReLU network, initialised from ``rng`` (He et al. 2015, arXiv 1502.01852)."""
    sizes = [n_in, width, width, n_out]
    layers: list[nn.Module] = []
    for k, (a, b) in enumerate(pairwise(sizes)):
        layer = nn.utils.skip_init(nn.Linear, a, b)
        scale = math.sqrt(2 / a) if k < 2 else 0.01
        with torch.no_grad():
            layer.weight.copy_(torch.as_tensor(rng.standard_normal((b, a)) * scale))
            layer.bias.zero_()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
