"""Who takes part: methods with their settings, and whether they learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from circuitbench import InvalidSpec, load_method, method_class
from circuitbench.plugins.method import Method, TrainableMethod
from circuitbench.runs.spec import dotted, setting_names
from circuitbench_experiments.folder import identity_of
from circuitbench_experiments.mechrl_edges.settings import FROZEN, POLICIES, WARM, Edges

Learning = Literal["none", "frozen", "warm"]


@dataclass(frozen=True)
class Arm:
    """A method with settings.

    Args:
        name: for tables.
        method: its registered name.
        hyperparameters: that differ from its own.
        learning: ``frozen`` learns on the training tasks and plantings and stays as it is,
            ``warm`` goes on learning, for a short time, on every target.
        steps: of that short time.
    """

    name: str
    method: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    learning: Learning = "none"
    steps: int = 0

    @property
    def key(self) -> str:
        """A name for files; other settings have another."""
        said = identity_of([self.method, dict(self.hyperparameters), self.learning, self.steps])
        return f"{self.name.replace(' ', '-')}-{said}"

    @property
    def training_key(self) -> str:
        """The same of its training, which all arms of the policy share."""
        return f"{self.method}-{identity_of([self.method, self.shaping])}"

    @property
    def shaping(self) -> dict[str, Any]:
        """The hyperparameters of its training: all but how it discovers."""
        said = self.hyperparameters.items()
        return {k: v for k, v in said if not k.startswith("discovery.")}

    def make(self, n_edges: int | None = None) -> Method:
        """The method, which lists ``n_edges`` edges if it lists any and nothing else is said."""
        changes = dict(self.hyperparameters)
        if n_edges is not None and "listed" in setting_names(method_class(self.method)):
            changes.setdefault("listed", n_edges)
        return load_method(self.method, **changes)


def arms(settings: Edges) -> list[Arm]:
    """The arms of the settings, several of one method where it has a threshold.

    Raises:
        UnknownName: a method that does not exist, or a hyperparameter it does not have.
        InvalidSpec: the policy is a method that does not learn; a value of the wrong type.
    """
    found = []
    for name in settings.arms:
        if name in POLICIES:
            found.append(_policy(settings, name))
        elif name == "acdc-edges":
            for threshold in settings.acdc_thresholds:
                found.append(Arm(f"acdc-edges {threshold:g}", name, {"threshold": threshold}))
        elif name in ("eap-ig", "eap-ig-kl"):
            of = "kl" if name == "eap-ig-kl" else "task"
            found.append(Arm(name, "eap-ig-inputs", {"of": of}))
        elif name == "edge-pruning":
            steps, sparsity = settings.pruning_steps, settings.pruning_sparsity
            found.append(Arm(name, name, {"steps": steps, "sparsity": sparsity}))
        else:
            learns = isinstance(load_method(name), TrainableMethod)
            found.append(Arm(name, name, learning="frozen" if learns else "none"))
    more = settings.hyperparameters
    merged = [
        replace(arm, hyperparameters={**arm.hyperparameters, **dotted(more.get(arm.method, {}))})
        for arm in found
    ]
    for arm in merged:
        arm.make()
    return merged


def _policy(settings: Edges, name: str) -> Arm:
    """An arm of the policy; ``rl-edges`` is trained here, unless it is to be taken as it comes."""
    method = settings.policy
    own: dict[str, Any] = {}
    if not isinstance(load_method(method), TrainableMethod):
        raise InvalidSpec(f"{method} does not learn, so it is no policy")
    if method == "rl-edges" and not settings.hyperparameters.get(method, {}).get("frozen"):
        own = {
            "frozen": False,
            "training.batches": settings.policy_batches,
            "training.total_steps": settings.policy_steps,
        }
    if name == WARM:
        return Arm(name, method, own, "warm", settings.warm_steps)
    if name == FROZEN:
        return Arm(name, method, own, "frozen")
    known = setting_names(method_class(method))
    if "discovery.rollouts" not in known:
        raise InvalidSpec(f"{method} plays no rollouts; leave {name} out of arms")
    best = {
        "discovery.rollouts": 16,
        "discovery.greedy": False,
        "discovery.candidates": 1,
        "discovery.queries": 640,  # 40 for each, as for one
    }
    return Arm(name, method, {**own, **best}, "frozen")
