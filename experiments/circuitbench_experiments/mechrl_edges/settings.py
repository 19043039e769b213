"""What is run of the second version's experiment, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from circuitbench import AblationName, InvalidSpec, UnknownName, list_plugins
from circuitbench.models.planted.presets import PRESETS
from circuitbench_experiments.folder import identity_of

FROZEN, BEST, WARM = "policy-frozen", "policy-best-of-16", "policy-warm"
POLICIES = (FROZEN, BEST, WARM)
ARMS = (
    *POLICIES,
    "acdc-edges",
    "eap-ig",
    "eap-ig-kl",
    "edge-pruning",
    "random-edges",
    "cut-search",
    "descriptor-forest",
)
"""Who takes part: see :func:`.arms.arms`."""


@dataclass(frozen=True)
class Edges:
    """What is run; the defaults are for planted models.

    Args:
        model: a planted preset (``planted-hard``, ``planted-hard-10x10``), planted anew for
            training, for every seed, and in other sizes; or a model that is what it is (``gpt2``),
            where there are no other plantings.
        train_tasks, held_out_tasks: those the policy learns on, and those it never sees.
        seeds: each with a training, a planting and prompts of its own.
        train_plantings: models that are learnt on, ``PRESET@101`` on.
        sizes: of held-out models, layers and heads (``10x10``).
        prompts: per discovery, and as many others for choosing and for judging.
        candidates: edges, the best by EAP-IG, whose faithfulness gives ``tau``.
        margin, least, most: ``tau`` is that faithfulness less the margin, within these.
        arms: who takes part, of :data:`ARMS`.
        policy: the method that is the policy.
        policy_batches: of prompts, on every training task and planting.
        policy_steps, warm_steps: of the environment in its training, and in the short one on a
            target. The first two say nothing of a policy that comes trained
            (``rl-edges.frozen=true``).
        acdc_thresholds: nats; each is an arm.
        pruning_steps, pruning_sparsity: of edge pruning.
        hyperparameters: more of them, by method.
        presets: of the contest of heads, planted anew for every seed; none leaves it out.
        head_tasks: its tasks.
        head_queries: that every method there may ask; as many as a sweep of 12 x 12 heads.
        head_prompts: per batch there.
        head_ablation: of the heads there, where a method does not choose its own.
        rivals: who takes part beside the policy; None: every method that does not learn.
        device: where the oracle computes.
    """

    model: str = "planted-hard"
    train_tasks: tuple[str, ...] = ("induction", "ioi", "docstring", "greater-than")
    held_out_tasks: tuple[str, ...] = ("two-hop",)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    train_plantings: int = 8
    sizes: tuple[str, ...] = ("10x10", "16x12")
    prompts: int = 16
    candidates: int = 3_000
    margin: float = 0.05
    least: float = 0.5
    most: float = 0.98
    arms: tuple[str, ...] = ARMS
    policy: str = "rl-edges"
    policy_batches: int = 2
    policy_steps: int = 4_096
    warm_steps: int = 512
    acdc_thresholds: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    pruning_steps: int = 200
    pruning_sparsity: float = 0.99
    hyperparameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    presets: tuple[str, ...] = ("planted-hard", "planted-graded", "planted-diffuse")
    head_tasks: tuple[str, ...] = ("induction", "ioi", "docstring", "greater-than", "two-hop")
    head_queries: int = 144
    head_prompts: int = 16
    head_ablation: AblationName = "zero"
    rivals: tuple[str, ...] | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in (
            "train_plantings",
            "candidates",
            "warm_steps",
            "pruning_steps",
            "head_queries",
        ):
            if getattr(self, name) < 1:
                raise InvalidSpec(f"{name} must be 1 or more, not {getattr(self, name)}")
        for name in ("prompts", "head_prompts"):
            if getattr(self, name) < 2:
                raise InvalidSpec(f"{name} must be 2 or more, not {getattr(self, name)}")
        if (
            not self.seeds
            or not self.train_tasks
            or set(self.train_tasks) & set(self.held_out_tasks)
        ):
            raise InvalidSpec(
                "there must be seeds and training tasks, and the held-out tasks none of them"
            )
        if not 0 <= self.least <= self.most <= 1 or self.margin < 0:
            raise InvalidSpec(
                f"expected 0 <= least <= most <= 1 and margin >= 0, not {self.least}, {self.most}, "
                f"{self.margin}"
            )
        for arm in self.arms:
            if arm not in ARMS:
                raise UnknownName("arm", arm, ARMS)
        for preset in self.presets:
            if preset not in PRESETS:
                raise UnknownName("planted preset", preset, list(PRESETS))
        for size in self.sizes:
            shape_of(size)
        if self.planted:
            preset_of(self.model)
        elif self.sizes:
            raise InvalidSpec(f"sizes are of planted models; {self.model} has one")

    @property
    def planted(self) -> bool:
        """Whether there are other plantings of the model."""
        return self.model.startswith("planted")

    def stated(self) -> dict[str, Any]:
        """All settings, JSON-able."""
        return asdict(self)

    @property
    def identity(self) -> str:
        """A hash of what shapes every target; seeds, arms and rivals can be added later."""
        return identity_of({name: getattr(self, name) for name in SHAPING})


SHAPING = (
    "model",
    "train_tasks",
    "train_plantings",
    "prompts",
    "candidates",
    "margin",
    "least",
    "most",
)

TEXT: dict[str, Any] = {
    "train_tasks": ("ioi-wang", "greater-than-years", "docstring-styles"),
    "held_out_tasks": (
        "copy-suppression",
        "gendered-pronoun",
        "subject-verb-agreement",
        "acronyms",
    ),
    "sizes": (),
    "presets": (),
}
"""The paper's behaviours. It takes each template of the first three as a task of its own; here a
task draws from all its templates."""


def on_model(model: str) -> dict[str, Any]:
    """Settings for another model: a planted one has the tasks of the default, others text."""
    return {"model": model} if model.startswith("planted") else {"model": model, **TEXT}


QUICK: dict[str, Any] = {
    "seeds": (0, 1),
    "train_plantings": 6,
    "prompts": 8,
    "acdc_thresholds": (0.01, 0.1),
    "pruning_steps": 40,
    "warm_steps": 256,
    "policy_batches": 1,
    "policy_steps": 1_024,
    "head_prompts": 8,
}
"""Small enough for one busy core; what docs/mechrl.md reports."""
QUICK_PLANTED: dict[str, Any] = {
    "train_tasks": ("induction", "ioi"),
    "held_out_tasks": ("two-hop",),
    "sizes": ("10x10",),
    "presets": ("planted-hard",),
    # The best of all on planted-hard@103, IOI, with 288 queries: the policy has to be above each.
    "rivals": (
        "acdc",
        "activation-patching",
        "atp-star",
        "cut-search",
        "eap-gp",
        "eap-ig-inputs",
        "edge-integer-programme",
        "greedy-backward",
        "integrated-gradients",
    ),
}


def quick(model: str) -> dict[str, Any]:
    """What ``--quick`` changes on a model."""
    return {**QUICK, **(QUICK_PLANTED if model.startswith("planted") else {})}


def by_method(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name, where ``METHOD.KEY`` is a hyperparameter of a method."""
    known = {plugin.name for plugin in list_plugins("method")}
    found: dict[str, Any] = {}
    methods = {k: dict(v) for k, v in overrides.get("hyperparameters", {}).items()}
    for name, value in overrides.items():
        method, dot, key = name.partition(".")
        if dot and method in known:
            methods.setdefault(method, {})[key] = value
        else:
            found[name] = value
    return {**found, "hyperparameters": methods}


def preset_of(model: str) -> tuple[str, str]:
    """A planted preset and its size: ``planted-hard``, or ``planted-hard-10x10``.

    The size is empty where it is the preset's own. Raises :class:`UnknownName`.
    """
    if model in PRESETS:
        return model, ""
    preset, _, size = model.rpartition("-")
    if preset not in PRESETS or not size[:1].isdecimal():
        raise UnknownName("planted preset", model, list(PRESETS))
    shape_of(size)
    return preset, size


def shape_of(size: str) -> tuple[int, int]:
    """Layers and heads of ``10x10``; raises :class:`InvalidSpec` for anything else."""
    layers, _, heads = size.partition("x")
    if not (layers.isdecimal() and heads.isdecimal() and layers.isascii() and heads.isascii()):
        raise InvalidSpec(f"a size is layers x heads, e.g. 10x10, not {size!r}")
    return int(layers), int(heads)
