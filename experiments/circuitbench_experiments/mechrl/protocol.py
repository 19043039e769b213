"""MechRL's experiment (Khadka 2026, arXiv 2605.26343), with its evaluation repaired.

One policy is trained on several tasks and judged on each of them, on a task it never saw (shown
as unknown and pretending each training task) and, as a policy over head tokens trained on other
plantings, on models it never saw. What is repaired: policy and oracle play the same seeded
episodes; planning is on where it is claimed, and pays for every candidate; steps are counted to
90 % of the *oracle's* best head; recovery of the true circuit stands beside the running maximum;
training cost is reported; every figure is over several training seeds with an interval.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from circuitbench import (
    InvalidSpec,
    Model,
    Oracle,
    TrainingTools,
    derive_seed,
    generator,
    load_model,
    load_task,
)
from circuitbench.evaluation.against_truth.ranking import (
    auroc,
    average_precision,
    recall_at,
    tied_ranking,
)
from circuitbench.oracle.engine.fast import FastEngine
from circuitbench.plugins.method import Report, unreported
from circuitbench_agents.learner import LearningAgent
from circuitbench_agents.learning.policy_training import PPOSettings
from circuitbench_agents.learning.rehearsal import RehearsalSettings
from circuitbench_agents.learning.settings import DiscoverySettings, TrainingSettings
from circuitbench_agents.policy_gradient import TransformerHeadDiscovery
from circuitbench_agents.ppo import PPOHeadDiscovery
from circuitbench_baselines.episodes.rules import HIT, SearchRules
from circuitbench_experiments.folder import claim, identity_of, read_json, write_json
from circuitbench_experiments.mechrl.matched_episodes import (
    Contender,
    Score,
    Stage,
    bandit_control,
    count_control,
    fixed_control,
    layer_control,
    oracle_control,
    play,
    random_control,
)

SMALL_CACHE = 16 * 2**20  # bytes
# The first of the plantings that are held out, that the token policy learns on, that the policy
# over addresses learns on and is judged on.
HELD_OUT, TOKENS, JUDGED = 1, 101, 201


@dataclass(frozen=True)
class MechRL:
    """What is run; the defaults are MechRL's protocol on the embedded model, with five seeds.

    Args:
        model: trained and judged on; ``@seed`` variants of it are the held-out models.
        plantings: variants of the model that training seeds are spread over; 1 keeps to itself.
        train_tasks, held_out_task: names of tasks.
        seeds: training runs, each judged on episodes of its own.
        total_steps: environment steps of the flat policy.
        steps: length of an episode.
        episodes: judged per task and seed.
        candidates: values of K.
        batch_size, pool: prompts per episode, and in the pool they are drawn from.
        token_models: other plantings the token policy learns on; 0 leaves that part out.
        token_start: the method whose ranking it rehearses first (see
            :mod:`circuitbench_agents.learning.rehearsal`).
        token_rehearsal: rounds of that rehearsal.
        token_steps: environment steps of PPO on the token policy after it.
        held_out_models: plantings it is judged on.
        token_batch: prompts per episode in the part on held-out models (there the pool holds
            as many: the prompts vary less, the models more).
        device: where the oracle computes.
    """

    model: str = "planted"
    plantings: int = 5
    train_tasks: tuple[str, ...] = ("induction", "ioi")
    held_out_task: str = "docstring"
    seeds: int = 5
    total_steps: int = 200_000
    steps: int = 50
    episodes: int = 16
    candidates: tuple[int, ...] = (1, 5)
    batch_size: int = 32
    pool: int = 128
    token_models: int = 64
    token_start: str = "head-ablation"
    token_rehearsal: int = 100
    token_steps: int = 20_000
    held_out_models: int = 32
    token_batch: int = 16
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("seeds", "plantings", "total_steps", "steps", "episodes"):
            if getattr(self, name) < 1:
                raise InvalidSpec(f"{name} must be 1 or more, not {getattr(self, name)}")
        if not self.train_tasks or self.held_out_task in self.train_tasks:
            raise InvalidSpec("there must be training tasks, and the held-out task none of them")
        if self.token_models and not self.held_out_models:
            raise InvalidSpec("token_models without held_out_models: nothing to judge on")
        if "@" in self.model and (self.plantings > 1 or self.token_models):
            raise InvalidSpec(
                f"{self.model} is one planting; name the preset, or set plantings=1 and "
                "token_models=0"
            )

    def judged_on(self, seed: int) -> str:
        """The model that a training seed's policy over addresses learns on and is judged on."""
        if self.plantings == 1:
            return self.model
        return f"{self.model}@{JUDGED + seed % self.plantings}"

    def flat_agent(self) -> PPOHeadDiscovery:
        """The policy over addresses, untrained."""
        return PPOHeadDiscovery(
            training=TrainingSettings(total_steps=self.total_steps),
            search=SearchRules(self.steps),
        )

    def token_agent(self) -> TransformerHeadDiscovery:
        """The policy over head tokens, untrained."""
        return TransformerHeadDiscovery(
            discovery=DiscoverySettings(greedy=True),
            training=TrainingSettings(total_steps=self.token_steps),
            # What was rehearsed is polished, so PPO goes gently; its value network starts from
            # nothing and shares the encoder, so it must not speak too loudly.
            ppo=PPOSettings(
                learning_rate=5e-5,
                gamma=0.9,
                gae_lambda=0.9,
                minibatch=100,
                epochs=2,
                entropy=0.0,
                value=0.01,
            ),
            warm_start=self.token_start,
            search=SearchRules(self.steps),
            rehearsal=RehearsalSettings(self.token_rehearsal),
        )

    @property
    def identity(self) -> str:
        """A hash of everything that can change a number, the agents' hyperparameters included."""
        agents = [asdict(agent) for agent in (self.flat_agent(), self.token_agent())]
        return identity_of([asdict(self), agents])


# What the paper trained and judged on; the token policy needs many plantings of a model.
PUBLISHED: dict[str, Any] = {
    "train_tasks": ("mechrl-induction", "mechrl-ioi"),
    "held_out_task": "mechrl-docstring",
    "token_models": 0,
    "plantings": 1,
}


def on_model(model: str) -> dict[str, Any]:
    """Settings for another model: a planted one has the tasks of the default, others text."""
    planted = model.startswith("planted")
    return {"model": model} if planted else {"model": model, **PUBLISHED}


# Small enough for two busy cores.
QUICK = MechRL(
    total_steps=40_000,
    episodes=4,
    batch_size=8,
    pool=16,
    token_models=48,
    token_rehearsal=80,
    token_steps=4_000,
    held_out_models=24,
    token_batch=4,
)


def reproduce(settings: MechRL, out: Path, tell: Report = unreported) -> dict[str, Any]:
    """Run what is not yet done in ``out`` and return everything that was measured.

    Finished seeds are kept in ``out/seed-<n>.json`` and not run again; a training that was
    killed goes on from its last checkpoint.

    Raises:
        InvalidSpec: ``out`` holds a run of other settings, or cannot be written.
    """
    claim(out, settings.identity, asdict(settings))
    seeds = []
    lab = Lab(settings)
    for seed in range(settings.seeds):
        path = out / f"seed-{seed}.json"
        if not path.is_file():
            done = seed / settings.seeds

            def step(fraction: float, text: str, seed: int = seed, done: float = done) -> None:
                tell(done + fraction / settings.seeds, f"seed {seed}: {text}")

            write_json(path, lab.run(seed, out / f"seed-{seed}", step))
        seeds.append(read_json(path))
    tell(1.0, "done")
    return {"settings": asdict(settings), "seeds": seeds}


class Lab:
    """Models of the experiment, kept for all seeds, and the oracles of one seed."""

    def __init__(self, settings: MechRL) -> None:
        self.settings = settings
        self.models: dict[str, Model] = {}
        self.engines: dict[str, FastEngine] = {}
        self.oracles: dict[tuple[str, str, str], Oracle] = {}
        self.seed = 0

    def run(self, seed: int, folder: Path, progress: Report) -> dict[str, Any]:
        """Train and judge with one seed, on prompts of its own; JSON-able."""
        s = self.settings
        model = s.judged_on(seed)
        self.seed, self.oracles = seed, {}
        part = 0.5 if s.token_models else 1.0
        agent = s.flat_agent()
        training = [self.oracle(model, task, "training") for task in s.train_tasks]
        spent = self._train(
            agent, training, seed, folder / "rl-ppo",
            lambda f, text: progress(part * f * 0.8, f"rl-ppo {text}"),
        )  # fmt: skip
        controls = self._controls(training)
        rows: list[dict[str, Any]] = []
        tasks = (*s.train_tasks, s.held_out_task)
        for k, task in enumerate(tasks):
            progress(part * (0.8 + 0.2 * k / len(tasks)), f"judging on {task}")
            stage = self.stage(model, task, "judging")
            contenders = [*self._agents(agent, task), *controls]
            rows += self._judge("tasks", model, contenders, stage)
        result = {
            "training": {"rl-ppo": {"queries": spent, "curve": _curve(agent)}},
            "preference": self._preferences(agent, model),
        }
        if s.token_models:
            tokens = s.token_agent()
            models = [f"{s.model}@{TOKENS + k}" for k in range(s.token_models)]
            training = [self.oracle(m, t, "tokens") for m in models for t in s.train_tasks]
            spent = self._train(
                tokens, training, seed, folder / "rl-transformer",
                lambda f, text: progress(0.5 + 0.4 * f, f"rl-transformer {text}"),
            )  # fmt: skip
            result["training"]["rl-transformer"] = {"queries": spent, "curve": _curve(tokens)}
            players = [
                *(self._agent("rl-transformer", tokens, k) for k in s.candidates),
                self._agent("rl-ppo", agent, 1),
                *self._controls(training),
            ]
            for k in range(s.held_out_models):
                model = f"{s.model}@{HELD_OUT + k}"
                progress(0.9 + 0.1 * k / s.held_out_models, f"judging on {model}")
                for task in s.train_tasks:
                    stage = self.stage(model, task, "tokens")
                    rows += self._judge("models", model, players, stage)
        return {"seed": seed, **result, "rows": rows}

    def oracle(self, model: str, task: str, purpose: str) -> Oracle:
        """The oracle of a purpose; its prompts are a function of all that and of the seed."""
        key = model, task, purpose
        if key not in self.oracles:
            s = self.settings
            small = purpose == "tokens"
            if model not in self.models:
                self.models[model] = load_model(model)
            self.oracles[key] = Oracle(
                self.models[model],
                load_task(task),
                task_name=task,
                seed=derive_seed(self.seed, "mechrl", model, task, purpose),
                batch_size=s.token_batch if small else s.batch_size,
                pool=s.token_batch if small else s.pool,
                device=s.device,
                engine=self._engine(self.models[model]) if small else None,
            )
        return self.oracles[key]

    def _engine(self, model: Model) -> FastEngine | None:
        """One engine for a planting's oracles, with little cache: there are many plantings.

        Oracles make engines of their own, sized for the one model that is usually studied.
        """
        if model.transformer is None:
            return None
        if model.name not in self.engines:
            self.engines[model.name] = FastEngine(
                model.transformer, self.settings.device, SMALL_CACHE
            )
        return self.engines[model.name]

    def stage(self, model: str, task: str, purpose: str) -> Stage:
        """Where this seed is judged on a task of a model."""
        rng = generator(self.seed, "mechrl", model, task, "episodes")
        n = self.settings.episodes if purpose == "judging" else 1
        oracle = self.oracle(model, task, purpose)
        truth = load_task(task).truth(self.models[model])
        return Stage(oracle, truth, tuple(int(x) for x in rng.integers(2**31, size=n)))

    def _train(
        self,
        agent: LearningAgent[Any],
        oracles: Sequence[Oracle],
        seed: int,
        folder: Path,
        progress: Report,
    ) -> int:
        """Queries spent on training."""
        agent.train(oracles, generator(seed, "mechrl", agent.name), TrainingTools(progress, folder))
        return int(agent.trained.queries)

    def _controls(self, training: Sequence[Oracle]) -> list[Contender]:
        """Those who learn from one sweep of every training oracle, or from nothing."""
        values: dict[str, list[np.ndarray]] = {}
        hits: dict[str, list[np.ndarray]] = {}
        for oracle in training:
            batch = oracle.draw(1)
            rewards = oracle.query(oracle.head_masks(), batch=batch).reward.double().numpy()
            values.setdefault(oracle.task_name, []).append(rewards)
            good = (rewards > HIT * abs(float(batch.metric))).reshape(oracle.shape)
            hits.setdefault(oracle.task_name, []).append(good)
        known = {task: np.asarray(np.mean(found, axis=0)) for task, found in values.items()}
        return [
            random_control(),
            *(random_control(k) for k in self.settings.candidates if k > 1),
            layer_control(known, training[0].n_layers),
            count_control(hits),
            fixed_control(known),
            bandit_control(thompson=True),
            bandit_control(thompson=False),
            oracle_control(),
        ]

    def _agents(self, agent: LearningAgent[Any], task: str) -> Iterator[Contender]:
        for k in self.settings.candidates:
            yield self._agent("rl-ppo", agent, k)
            if task not in agent.tasks:
                for pretended in agent.tasks:
                    contender = self._agent(f"rl-ppo as {pretended}", agent, k)
                    yield dataclasses.replace(contender, shown_as=pretended)

    def _agent(self, name: str, agent: LearningAgent[Any], candidates: int) -> Contender:
        return Contender(f"{name} (K={candidates})", agent=agent, candidates=candidates)

    def _judge(
        self,
        part: str,
        model: str,
        contenders: Sequence[Contender],
        stage: Stage,
    ) -> list[dict[str, Any]]:
        rows = []
        place = {"part": part, "model": model, "task": stage.oracle.task_name}
        for contender in contenders:
            rng = generator(self.seed, "mechrl", *place.values(), contender.name)
            steps = self.settings.steps
            scores = [play(contender, stage, steps, s, rng) for s in stage.seeds]
            rows.append({**place, "contender": contender.name, **_mean(scores)})
        if stage.truth is None:
            return rows
        sweeps = [tied_ranking(stage.rewards(s), stage.relevant.ravel()) for s in stage.seeds]
        rows.append(
            {
                **place,
                "contender": "head-ablation (144 queries)".replace("144", str(stage.relevant.size)),
                "auroc": float(np.mean([auroc(r) for r in sweeps])),
                "average_precision": float(np.mean([average_precision(r) for r in sweeps])),
                "recall": float(np.mean([recall_at(r, r.n_relevant) for r in sweeps])),
                "queries": float(stage.relevant.size),
            }
        )
        return rows

    def _preferences(self, agent: LearningAgent[Any], model: str) -> dict[str, Any]:
        """For every task what the policy would try first, beside the truth."""
        s = self.settings
        found = {}
        for task in (*s.train_tasks, s.held_out_task):
            stage = self.stage(model, task, "judging")
            batch = agent.seat(stage.oracle, np.random.default_rng(0))
            grid = agent.preference(batch).reshape(stage.oracle.shape)
            found[task] = {"policy": grid.tolist(), "truth": stage.relevant.tolist()}
        return found


def _curve(agent: LearningAgent[Any]) -> list[dict[str, Any]]:
    return [asdict(point) for point in agent.trained.curve]


def _mean(scores: Sequence[Score]) -> dict[str, Any]:
    """Means over episodes, JSON-able."""
    plain = [
        f.name
        for f in dataclasses.fields(Score)
        if f.name not in ("curve", "roles") and getattr(scores[0], f.name) is not None
    ]
    length = max(len(score.curve) for score in scores)
    curves = [np.pad(s.curve, (0, length - len(s.curve)), mode="edge") for s in scores]
    return {
        **{name: float(np.mean([getattr(s, name) for s in scores])) for name in plain},
        "curve": np.mean(curves, axis=0).round(6).tolist(),
        "roles": {
            role: float(np.mean([s.roles[role] for s in scores])) for role in scores[0].roles
        },
    }
