"""``rl-dqn``: masked double deep Q-learning. Own code: stable-baselines3's DQN knows no masks."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from circuitbench.core.errors import InvalidSpec, RunFailed
from circuitbench.core.info import Info
from circuitbench_agents.environments.batch import EpisodeBatch, OracleVecEnv
from circuitbench_agents.learner import LearningAgent
from circuitbench_agents.learning import checkpoint
from circuitbench_agents.learning.training import EXPLODED, CurvePoint, Progress, event_writer


@dataclass(frozen=True)
class DQNSettings:
    """Hyperparameters of a DQN run.

    Args:
        total_steps, n_envs: environment steps in all, and episodes side by side.
        learning_rate, gamma, minibatch, grad_norm, width: as usual; Adam, Huber loss.
        buffer: transitions remembered.
        warm_up: steps of random play before learning.
        train_every: environment steps per gradient step.
        sync: gradient steps between two copies to the target network.
        explore, explore_share: epsilon falls linearly from 1 to ``explore`` over the first
            ``explore_share`` of the run.
        temperature: of the policy ``softmax(Q / temperature)`` left by training, reward units.
    """

    total_steps: int = 40_000
    n_envs: int = 8
    learning_rate: float = 5e-4
    gamma: float = 0.9
    minibatch: int = 64
    grad_norm: float = 10.0
    width: int = 256
    buffer: int = 20_000
    warm_up: int = 1_000
    train_every: int = 8
    sync: int = 250
    explore: float = 0.05
    explore_share: float = 0.5
    temperature: float = 0.05

    def __post_init__(self) -> None:
        for name in ("total_steps", "n_envs", "minibatch", "buffer", "train_every", "sync"):
            if getattr(self, name) < 1:
                raise InvalidSpec(f"{name} must be 1 or more, not {getattr(self, name)}")
        for name in ("learning_rate", "temperature", "explore_share"):
            if not getattr(self, name) > 0:
                raise InvalidSpec(f"{name} must be above 0, not {getattr(self, name)}")


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
    """One DQN run on an :class:`EpisodeBatch`; resumable like a ``PolicyTraining``."""

    report_every = 50  # vector steps between two points of the curve

    def __init__(self, batch: EpisodeBatch, settings: DQNSettings, seed: int, name: str) -> None:
        self.batch, self.settings, self.name = batch, settings, name
        self.env = OracleVecEnv(batch)
        self.rng = np.random.default_rng(seed)
        observation, actions = int(batch.observation_space.shape[0]), int(batch.action_space.n)
        self.online = _network(observation, actions, settings.width, self.rng)
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
        progress: Progress | None = None,
        folder: Path | None = None,
        checkpoint_every: int = 25,
        tensorboard: Path | None = None,
    ) -> None:
        """Run what is left, as :meth:`PolicyTraining.learn` does.

        Raises:
            RunFailed: the loss or the weights stopped being numbers, or exploded.
        """
        if folder is not None and checkpoint.exists(folder):
            self.load(folder)
        if not self.begun:
            self.env.reset()
            self.begun = True
        began = time.perf_counter() - self.seconds
        with event_writer(tensorboard) as write:
            while self.steps < self.settings.total_steps:
                returns: list[float] = []
                losses: list[float] = []
                before = self.batch.queries
                for _ in range(self.report_every):
                    if self.steps < self.settings.total_steps:
                        self._step(returns, losses)
                self.queries += self.batch.queries - before
                self.seconds = time.perf_counter() - began
                self.curve.append(self._watch(returns, losses))
                write(self.curve[-1])
                last = self.steps >= self.settings.total_steps
                if folder is not None and (last or len(self.curve) % checkpoint_every == 0):
                    self.save(folder)
                if progress is not None:
                    fraction = min(1.0, self.steps / self.settings.total_steps)
                    progress(fraction, self.curve[-1].line(fraction))

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
            "width": self.settings.width,
        }

    def save(self, folder: Path) -> None:
        """Write a checkpoint from which :meth:`learn` goes on exactly."""
        tensors = {f"online.{k}": v for k, v in self.online.state_dict().items()}
        tensors |= {f"target.{k}": v for k, v in self.target.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in moments.items()}
        tensors |= {f"replay.{k}": torch.from_numpy(v) for k, v in self.replay.arrays.items()}
        state = {
            "settings": asdict(self.settings),
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
        checkpoint.same_settings(folder, found, asdict(self.settings))
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
        s = self.settings
        before, legal = self.batch.observe(), self.batch.legal()
        values = self.probabilities(before, legal)
        random = self.rng.random(s.n_envs) < self._epsilon()
        keys = np.where(random[:, None], self.rng.random(legal.shape), values)
        actions = np.where(legal, keys, -1.0).argmax(1)
        after, rewards, dones, infos = self.env.step(actions)
        legal_after = self.batch.legal()
        ended = np.zeros(s.n_envs, np.float32)
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
        self.steps += s.n_envs
        if self.steps >= max(s.warm_up, s.minibatch):
            for _ in range(max(1, s.n_envs // s.train_every)):
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
        gone = min(1.0, self.steps / (s.explore_share * s.total_steps))
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
class DQNHeadDiscovery(LearningAgent):
    """``rl-dqn``: double DQN (van Hasselt et al. 2016, arXiv 1509.06461) with illegal heads masked.

    Args:
        episodes ... train_pool: see :class:`circuitbench_agents.learner.LearningAgent`.
        total_steps ... temperature: see :class:`DQNSettings`.
    """

    total_steps: int = 40_000
    n_envs: int = 8
    learning_rate: float = 5e-4
    gamma: float = 0.9
    minibatch: int = 64
    grad_norm: float = 10.0
    width: int = 256
    buffer: int = 20_000
    warm_up: int = 1_000
    train_every: int = 8
    sync: int = 250
    explore: float = 0.05
    explore_share: float = 0.5
    temperature: float = 0.05

    name: ClassVar[str] = "rl-dqn"

    def start(self, batch: EpisodeBatch, seed: int) -> DQNTraining:
        """A DQN run."""
        return DQNTraining(batch, self.settings(), seed, self.name)

    def side_by_side(self) -> int:
        """Episodes that training plays at once."""
        return self.settings().n_envs

    def settings(self) -> DQNSettings:
        """The hyperparameters of the training run."""
        known = DQNSettings.__dataclass_fields__
        return DQNSettings(**{k: v for k, v in vars(self).items() if k in known})


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
