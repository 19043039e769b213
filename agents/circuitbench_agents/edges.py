"""``rl-edges``: a policy over edges that is trained on a family of models, and transfers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from circuitbench import Curriculum, Discovery, Head, Info, InvalidSpec, TrainingTools
from circuitbench_agents.environments.edge_episodes import EdgeEpisodes
from circuitbench_agents.environments.edge_rules import EdgeEpisode, EdgePruningRules
from circuitbench_agents.environments.episode_batch import Place
from circuitbench_agents.learning.graph_network import GraphScorer, GraphSizes
from circuitbench_agents.learning.graph_play import (
    ImitationSettings,
    chances_of,
    demonstrate,
    imitate_graphs,
    merit,
    play_graphs,
)
from circuitbench_agents.learning.graph_scorer import (
    LearntJudge,
    Lesson,
    ScorerSettings,
    fit,
    lesson_of,
    taught_by,
)
from circuitbench_agents.learning.graph_training import GraphNetwork, GraphTraining
from circuitbench_agents.learning.graph_weights import SHIPPED, Trained, load, new_scorer
from circuitbench_agents.learning.policy_training import PPOSettings
from circuitbench_agents.learning.rollouts import Acting
from circuitbench_agents.learning.settings import require_at_least_1

if TYPE_CHECKING:
    from circuitbench import Oracle


@dataclass(frozen=True)
class EdgeDiscoverySettings(Acting):
    """How a learnt policy prunes (see :class:`Acting`), and what it commits to.

    Args:
        candidates: actions looked at before one is taken; each is a query.
        queries: at most so many for pruning, over all rollouts.
        rollouts: episodes side by side, for which actions are better sampled than taken
            greedily; the best graph of all is committed to.
        threshold: commits to heads whose chance to be in the circuit is above this.
        listed: edges reported, the best; the rest ranks below them, tied.
    """

    greedy: bool = True
    candidates: int = 3
    queries: int = 40
    rollouts: int = 1
    threshold: float = 0.5
    listed: int = 1_000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least_1(self, "queries", "rollouts", "listed")


@dataclass(frozen=True)
class FamilySettings:
    """What a policy over edges is trained on, and for how long.

    Args:
        models: other models, whose true circuits are told; none trains on the model that is
            scored, whose circuit is not.
        tasks: of these models; none means the one that is to be discovered.
        pool: prompts in the pool that training batches are drawn from; None draws them afresh.
        batches: different batches of every task and model.
        total_steps: environment steps of PPO, over all episodes side by side; 0 leaves it out.
        n_envs: episodes side by side.
    """

    models: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    pool: int | None = None
    batches: int = 4
    total_steps: int = 4_096
    n_envs: int = 8

    def __post_init__(self) -> None:
        require_at_least_1(self, "batches", "n_envs")
        if self.total_steps < 0:
            raise InvalidSpec(f"total_steps must be 0 or more, not {self.total_steps}")


@Info(
    title="PPO on edges",
    family="Reinforcement learning",
    paper="Khadka 2026",
    link="https://arxiv.org/abs/2605.26343",
    granularity="edges",
    needs=("counterfactuals", "edges", "gradients", "rules", "training"),
)
@dataclass
class EdgePolicyDiscovery:
    """``rl-edges``: masked PPO on EdgePruning, after MechRL's second version (Khadka 2026).

    By default it is frozen: the weights come with the package. They were trained on other models,
    which :meth:`curriculum` names, and what that cost counts as training. With ``frozen=false`` it
    is trained in the run, on ``training.models`` or on the model that is scored.

    Attributions and slopes describe every edge and head (arXiv 2605.26343 describes edges by
    EAP-IG and their place). A network that attends over the graph's nodes learns what they are
    worth from the circuits of other models, or, on the model that is scored, from EAP-IG and
    ``cut-search``. Another of the same form learns to prune: first it imitates episodes that look
    ahead, then PPO (Schulman et al. 2017, arXiv 1707.06347) goes on from there. Both fit any
    graph, so what was trained on other models is frozen and used as it is.

    An edge and a head score what they are worth; the edges committed to are those of the best
    graph that was met, by
    :func:`circuitbench_agents.learning.graph_play.merit`.

    Args:
        discovery: how the learnt policy discovers.
        frozen: use the weights that come with the package.
        training: what it learns on, and for how long; this and what follows, but the environment's
            constants, shape a training and are refused where it is frozen.
        pruning: the environment; frozen weights fit any number of candidates.
        scorer: how what edges are worth is learnt.
        imitation: of episodes that look ahead.
        ppo: how the policy learns.
        network: sizes of both networks.
    """

    discovery: EdgeDiscoverySettings = EdgeDiscoverySettings()
    frozen: bool = True
    training: FamilySettings = FamilySettings()
    pruning: EdgePruningRules = EdgePruningRules(
        attributions=("eap-ig", "eap-gp", "eap", "gim"), probes=("gates", "atp-star"), steps=40
    )
    scorer: ScorerSettings = ScorerSettings()
    imitation: ImitationSettings = ImitationSettings()
    ppo: PPOSettings = PPOSettings(
        n_steps=32, learning_rate=3e-4, gamma=1.0, minibatch=64, entropy=0.01
    )
    network: GraphSizes = GraphSizes()

    # What training leaves behind.
    learnt: Trained | None = field(default=None, init=False, repr=False, compare=False)

    name: ClassVar[str] = "rl-edges"

    def curriculum(self) -> Curriculum:
        """The family, with its truths; or the model that is scored, without.

        Raises :class:`InvalidSpec` for settings of a training where there is none.
        """
        if self.frozen:
            shipped = self._shipped()
            return Curriculum(
                shipped.tasks, models=shipped.models, labelled=True, spent=shipped.spent
            )
        t = self.training
        return Curriculum(t.tasks, t.pool, t.models, labelled=bool(t.models))

    def train(
        self,
        oracles: Sequence[Oracle],
        rng: np.random.Generator,
        tools: TrainingTools = TrainingTools(),
    ) -> None:
        """Learn what edges are worth, then to imitate, then by PPO.

        Raises:
            InvalidSpec: bad hyperparameters, or a checkpoint of another training.
            CorruptRecord: a checkpoint that cannot be read.
            RunFailed: training diverged.
        """
        if self.frozen:
            self.learnt = self._shipped()
            return
        if not oracles:
            raise InvalidSpec(f"{self.name} needs at least one training oracle")
        seed = int(rng.integers(2**31))
        batch = EdgeEpisodes(
            oracles,
            self.pruning,
            self.training.n_envs,
            np.random.default_rng(rng.integers(2**63)),
            pool=self.training.batches,
        )
        places = [Place(i, s) for s in range(self.training.batches) for i in range(len(oracles))]
        lessons = self._lessons(batch, places, rng, tools)
        scorer = self.learn_worth(lessons, rng)
        batch.judge_again(LearntJudge(scorer))
        tools.report(0.5, "imitates")
        run = self.imitating(batch, places, seed, rng, tools)
        if self.training.total_steps:
            run.learn(tools)
        self.learnt = Trained(
            scorer,
            run.model.policy,
            self.training.models,
            tuple(dict.fromkeys(oracle.task_name for oracle in oracles)),
            {},
            {"learning_curve": [asdict(point) for point in run.curve]},
        )

    def learn_worth(self, lessons: Sequence[Lesson], rng: np.random.Generator) -> GraphScorer:
        """The first part of a training: what edges and nodes are worth."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            scorer = new_scorer(self.pruning, self.network)
        return fit(scorer, lessons, self.scorer, rng)

    def imitating(
        self,
        batch: EdgeEpisodes,
        places: Sequence[Place],
        seed: int,
        rng: np.random.Generator,
        tools: TrainingTools = TrainingTools(),
    ) -> GraphTraining:
        """The second part: a run of PPO that has not begun, and imitates what looks ahead."""
        network = GraphNetwork(self.network.width, self.network, len(self.pruning.groups))
        steps = max(self.training.total_steps, 1)
        run = GraphTraining(batch, self.ppo, network, steps, seed, self.name, dict(tools.run))
        if self.imitation.epochs:
            imitate_graphs(run.model.policy, demonstrate(batch, places), self.imitation, rng)
        return run

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """Describe edges and heads, then prune: one query per step and rollout (K with planning).

        Raises:
            InvalidSpec: not trained, or a model without edges to ask about.
            BudgetExceeded: the budget does not cover the descriptions.
        """
        learnt = self.learnt
        if learnt is None:
            raise InvalidSpec(
                f"{self.name} has not been trained; call train() with oracles of the training tasks"
            )
        rollouts = self.discovery.rollouts
        judge = LearntJudge(learnt.scorer)
        batch = EdgeEpisodes([oracle], self.pruning, rollouts, rng, judge=judge)
        places = [Place(0, oracle.batch.seed)] * rollouts
        batch.survey(places)
        before = oracle.meter.queries

        def left() -> int:
            mine = self.discovery.queries - (oracle.meter.queries - before)
            return mine if oracle.remaining is None else min(mine, oracle.remaining)

        actor = partial(chances_of, learnt.policy)
        episodes = play_graphs(batch, places, actor, self.discovery, rng, left)
        return self._answer(oracle, episodes, learnt.facts)

    def _shipped(self) -> Trained:
        shaping = "training", "scorer", "imitation", "ppo"
        changed = [name for name in shaping if getattr(self, name) != getattr(type(self), name)]
        if changed:
            raise InvalidSpec(
                f"{self.name} is frozen, so {', '.join(changed)} would change nothing; "
                "set frozen=false to train"
            )
        return load(SHIPPED, self.pruning, self.network)

    def _lessons(
        self,
        batch: EdgeEpisodes,
        places: Sequence[Place],
        rng: np.random.Generator,
        tools: TrainingTools,
    ) -> list[Lesson]:
        lessons = []
        for done, place in enumerate(places):
            oracle = batch.oracles[place.oracle]
            tools.report(0.4 * done / len(places), f"on {oracle.task_name}")
            (found,) = batch.survey([place])
            if tools.truths:
                lessons.append(lesson_of(found, tools.truths[place.oracle]))
            else:
                lessons.append(taught_by(self.scorer.teacher, oracle, found, rng))
        return lessons

    def _answer(
        self, oracle: Oracle, episodes: Sequence[EdgeEpisode], facts: Mapping[str, Any]
    ) -> Discovery:
        edges, found = oracle.edges.edges, episodes[0].found
        best = max(episodes, key=merit)
        heads = np.zeros(oracle.shape)
        for name, worth in zip(oracle.edges.graph.senders, found.node_worth, strict=True):
            if "." in name:
                heads[Head.parse(name)] = worth
        order = np.argsort(-found.worth, kind="stable")[: self.discovery.listed]
        kept = found.edges[best.kept]
        info: dict[str, object] = {
            "kept": int(best.kept.sum()),
            "faithfulness": best.faithfulness,
            "tau": best.tau,
            "potential": best.potential,
            "steps": [episode.steps for episode in episodes],
            **facts,
        }
        return Discovery(
            heads,
            frozenset(
                Head(int(h[0]), int(h[1])) for h in np.argwhere(heads > self.discovery.threshold)
            ),
            {edges[found.edges[i]]: float(found.worth[i]) for i in order},
            info=info,
            selected_edges=frozenset(edges[i] for i in kept),
        )
