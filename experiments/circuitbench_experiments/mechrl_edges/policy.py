"""The policy as an arm: told what a target asks for, and warmed up on it."""

from __future__ import annotations

import copy
from dataclasses import fields, replace

import numpy as np

from circuitbench import InvalidSpec, Oracle
from circuitbench.plugins.method import Method, Report, TrainingTools
from circuitbench_agents.edges import EdgePolicyDiscovery
from circuitbench_agents.environments.edge_episodes import EdgeEpisodes
from circuitbench_agents.learning.graph_scorer import LearntJudge
from circuitbench_agents.learning.graph_training import GraphNetwork, GraphTraining


def with_memory_of(method: Method, trained: Method) -> Method:
    """A method as it was made, with what another of its kind learnt."""
    for field in fields(method):  # type: ignore[arg-type]  # methods are dataclasses
        if not field.init:
            setattr(method, field.name, getattr(trained, field.name))
    return method


def asked_for(method: Method, tau: float) -> Method:
    """The same, to be as faithful as every arm on a target; what it learnt is shared."""
    if not isinstance(method, EdgePolicyDiscovery):
        return method
    told = copy.copy(method)
    told.pruning = replace(method.pruning, tau=tau)
    return told


def warmed(
    method: Method, oracle: Oracle, steps: int, rng: np.random.Generator, tell: Report
) -> Method:
    """The same after a short PPO on one target, from the weights it has.

    What edges are worth it does not learn anew: that takes a circuit that is known.

    Args:
        method: trained; it is left as it is.
        oracle: of the target, with prompts that nothing else sees.
        steps: of the environment.
        rng: draws the episodes.
        tell: progress.

    Raises:
        InvalidSpec: a method that cannot go on learning.
    """
    if not isinstance(method, EdgePolicyDiscovery) or method.learnt is None:
        raise InvalidSpec(f"{type(method).__name__} cannot go on learning on a target")
    learnt = method.learnt
    batch = EdgeEpisodes(
        [oracle],
        method.pruning,
        method.training.n_envs,
        np.random.default_rng(rng.integers(2**63)),
        pool=1,
        judge=LearntJudge(learnt.scorer),
    )
    network = GraphNetwork(method.network.width, method.network, len(method.pruning.groups))
    seed = int(rng.integers(2**31))
    run = GraphTraining(batch, method.ppo, network, steps, seed, method.name)
    run.model.policy.load_state_dict(learnt.policy.state_dict())
    run.learn(TrainingTools(tell))
    warm = copy.copy(method)
    warm.learnt = replace(learnt, policy=run.model.policy)
    return warm
