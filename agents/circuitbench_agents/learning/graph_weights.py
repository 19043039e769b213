"""Keeps what was trained on a family of models: both networks, what it took, and on what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from circuitbench_agents.environments.edge_candidates import edge_features, node_features
from circuitbench_agents.environments.edge_rules import EdgePruningRules, observation_shapes
from circuitbench_agents.learning import checkpoint
from circuitbench_agents.learning.graph_network import GraphPolicy, GraphScorer, GraphSizes

SHIPPED = Path(__file__).parent.parent / "weights" / "rl-edges"
"""Where the weights lie that come with the package."""

AGAIN = ("pi_features_extractor.", "vf_features_extractor.")
"""Names under which stable-baselines3 lists a policy's one extractor once more each."""


@dataclass(frozen=True)
class Trained:
    """Two networks, and where they come from.

    Args:
        scorer: says what edges and nodes are worth.
        policy: prunes.
        models, tasks: that they were trained on.
        spent: what that cost, by the counters of a meter.
        facts: what else is to be shown, JSON-able.
    """

    scorer: GraphScorer
    policy: GraphPolicy
    models: tuple[str, ...]
    tasks: tuple[str, ...]
    spent: Mapping[str, float]
    facts: Mapping[str, Any]


def new_scorer(rules: EdgePruningRules, sizes: GraphSizes) -> GraphScorer:
    """A scorer for what ``rules`` let be known of edges and nodes."""
    a = len(rules.attributions)
    features = edge_features(a), node_features(a, rules.probes) + 1, 1
    return GraphScorer(*features, sizes.width, sizes.layers, sizes.heads)


def new_policy(rules: EdgePruningRules, sizes: GraphSizes) -> GraphPolicy:
    """A policy for the environment of ``rules``, on graphs of any size."""
    box, bound = gymnasium.spaces.Box, rules.bound
    shapes = observation_shapes(rules, 1)
    space = gymnasium.spaces.Dict({n: box(-bound, bound, s, np.float32) for n, s in shapes.items()})
    actions = gymnasium.spaces.Discrete(rules.n_actions(1))
    groups = len(rules.groups)
    return GraphPolicy(space, actions, lambda _: 0.0, sizes=sizes, n_groups=groups)


def layout(rules: EdgePruningRules, sizes: GraphSizes) -> dict[str, Any]:
    """What weights must agree in with what they are used for."""
    shown = "attributions", "probes", "batches"
    settings = asdict(rules)
    return {"network": asdict(sizes), **{name: _plain(settings[name]) for name in shown}}


def save(folder: Path, trained: Trained, rules: EdgePruningRules, sizes: GraphSizes) -> None:
    """Write both networks into ``folder``."""
    tensors = {
        f"{part}.{name}": tensor
        for part, network in (("scorer", trained.scorer), ("policy", trained.policy))
        for name, tensor in network.state_dict().items()
        if not name.startswith(AGAIN)
    }
    state = {
        "models": list(trained.models),
        "tasks": list(trained.tasks),
        "spent": dict(trained.spent),
        "facts": dict(trained.facts),
    }
    found = checkpoint.Checkpoint(layout(rules, sizes), tensors, state)
    checkpoint.save(folder, found, "rl-edges")


def load(folder: Path, rules: EdgePruningRules, sizes: GraphSizes) -> Trained:
    """Read what :func:`save` wrote.

    Raises:
        CorruptRecord: missing, truncated or edited.
        InvalidSpec: weights for other attributions, probes, batches or sizes.
    """
    found = checkpoint.load(folder, layout(rules, sizes))
    parts = checkpoint.parts(found.tensors)
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and thrown away
        scorer, policy = new_scorer(rules, sizes), new_policy(rules, sizes)
    scorer.load_state_dict(parts["scorer"])
    policy.load_state_dict(parts["policy"] | _again(parts["policy"]))
    scorer.eval()
    state = found.state
    return Trained(
        scorer,
        policy,
        tuple(state["models"]),
        tuple(state["tasks"]),
        state["spent"],
        state["facts"],
    )


def _again(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The extractor of a policy under its further names."""
    first = "features_extractor."
    return {
        again + name.removeprefix(first): tensor
        for name, tensor in tensors.items()
        if name.startswith(first)
        for again in AGAIN
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
