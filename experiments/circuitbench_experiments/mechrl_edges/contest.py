"""The contest of heads: the frozen policy against every method that does not learn.

All ask the same number of queries, on the same prompts of plantings that no setting was tuned on
and no training saw; the tasks and presets are those of the hard tier.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from circuitbench import (
    CircuitBenchError,
    Oracle,
    UnknownName,
    derive_seed,
    generator,
    list_plugins,
    load_task,
    method_class,
)
from circuitbench.plugins.method import Method, Report, unreported
from circuitbench.plugins.tiers import planting
from circuitbench_experiments.folder import read_json, write_json
from circuitbench_experiments.mechrl_edges.arms import Arm
from circuitbench_experiments.mechrl_edges.cost import passes
from circuitbench_experiments.mechrl_edges.recovery import recovery
from circuitbench_experiments.mechrl_edges.settings import Edges
from circuitbench_experiments.mechrl_edges.targets import Target, model_of

GROUP = "contest of heads"


def rivals(settings: Edges) -> list[str]:
    """Methods that do not learn: those of the settings, or all.

    Raises :class:`UnknownName` for one that does not exist or learns.
    """
    known = [
        plugin.name
        for plugin in list_plugins("method")
        if not hasattr(method_class(plugin.name), "train")
    ]
    for name in settings.rivals or ():
        if name not in known:
            raise UnknownName("method that does not learn", name, known)
    return known if settings.rivals is None else list(settings.rivals)


def places(settings: Edges, seed: int) -> list[Target]:
    """The tasks on the models of a seed."""
    fresh = planting("hard", seed)
    return [
        Target(GROUP, task, f"{preset}@{fresh}", task)
        for preset in settings.presets
        for task in settings.head_tasks
    ]


def contest(
    settings: Edges,
    policy: Arm,
    frozen: Callable[[int, Arm, Report], Method],
    out: Path,
    tell: Report = unreported,
) -> list[dict[str, Any]]:
    """Every rival and the policy on every place; what ``out`` holds is not run again.

    Args:
        settings: of the experiment.
        policy: an arm that learns.
        frozen: makes it with what it learnt with a seed.
        out: the experiment's folder.
        tell: progress.

    Returns:
        JSON-able, one for each: ``seed``, ``task``, ``model``, ``arm``, ``failed`` (why there is no
        answer, or empty), ``queries``, ``passes``, and what :func:`.recovery.recovery` finds.
    """
    more = settings.hyperparameters
    players = [policy, *(Arm(name, name, more.get(name, {})) for name in rivals(settings))]
    asked = [(s, p, a) for s in settings.seeds for p in places(settings, s) for a in players]
    found = []
    s = settings
    folder = out / f"contest-{s.head_queries}-{s.head_prompts}-{s.head_ablation}"
    for done, (seed, place, arm) in enumerate(asked):
        path = folder / f"{place.key(seed)}-{arm.key}.json"
        if not path.is_file() or read_json(path)["failed"]:
            tell(done / len(asked), f"{arm.name} on seed {seed}, {place.task} of {place.model}")
            cell = {"seed": seed, **vars(place), "arm": arm.name, "failed": ""}
            try:
                method = frozen(seed, arm, tell) if arm is policy else arm.make()
                cell |= _play(settings, seed, place, method)
            except CircuitBenchError as error:
                cell["failed"] = str(error)
            write_json(path, cell)
        found.append(read_json(path))
    return found


def _play(settings: Edges, seed: int, place: Target, method: Method) -> dict[str, Any]:
    model, task = model_of(place.model), load_task(place.task)
    oracle = Oracle(
        model,
        task,
        task_name=place.task,
        seed=derive_seed(seed, "mechrl-edges", place.model, place.task, "contest"),
        ablation=settings.head_ablation,
        batch_size=settings.head_prompts,
        budget=settings.head_queries,
        device=settings.device,
    )
    started = time.perf_counter()
    # The method's name is no axis: a policy and its rivals differ in what they do with the draws.
    discovery = method.discover(oracle, generator(seed, "mechrl-edges", place.model, place.task))
    spent = oracle.meter
    return {
        "queries": spent.queries,
        "passes": passes(spent.as_dict()),
        "seconds": time.perf_counter() - started,
        **recovery(discovery, task.truth(model)),
    }
