"""MechRL's second version (Khadka 2026, arXiv 2605.26343v2), its evaluation repaired.

One policy that removes edges is trained on some behaviours, frozen, and transferred: to behaviours,
plantings and sizes it never saw. What is repaired: the truth is known; every arm answers on the
same prompts and is judged on others, and whatever is chosen among several circuits is chosen on
prompts of neither; every figure is over several seeds, each with a training, a planting and prompts
of its own; training is paid for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from circuitbench import (
    CircuitBenchError,
    Curriculum,
    InvalidSpec,
    Meter,
    Oracle,
    RunFailed,
    TrainingTools,
    derive_seed,
    generator,
    load_method,
    load_task,
)
from circuitbench.plugins.method import Learner, Method, Report, TrainableMethod, unreported
from circuitbench_experiments.folder import claim, read_json, write_json
from circuitbench_experiments.mechrl_edges.arms import Arm, arms
from circuitbench_experiments.mechrl_edges.circuits import circuits_of, faithfulness, judge
from circuitbench_experiments.mechrl_edges.contest import contest, rivals
from circuitbench_experiments.mechrl_edges.cost import passes
from circuitbench_experiments.mechrl_edges.policy import asked_for, warmed, with_memory_of
from circuitbench_experiments.mechrl_edges.recovery import recovery
from circuitbench_experiments.mechrl_edges.settings import FROZEN, POLICIES, Edges
from circuitbench_experiments.mechrl_edges.targets import Target, model_of, targets, training_models


def reproduce(settings: Edges, out: Path, tell: Report = unreported) -> dict[str, Any]:
    """Run what is not yet done in ``out`` and return everything that was measured.

    A finished arm on a target is kept in ``out/cells`` and not run again.

    Returns:
        JSON-able: ``settings``; ``targets`` with their ``tau``, or why they are left out;
        ``cells``, one for every arm on a target and seed; ``training``, the cost of every training;
        ``contest``, see :mod:`.contest`, and ``contest_training`` of its policy.

    Raises:
        UnknownName, InvalidSpec, ModelUnavailable: the request is wrong, or ``out`` holds a run
            of other settings or cannot be written.
    """
    chosen = arms(settings)
    rivals(settings)
    models = _models(settings, chosen)
    for task in (*settings.train_tasks, *settings.held_out_tasks, *settings.head_tasks):
        load_task(task)
    claim(out, settings.identity, settings.stated())
    lab = Lab(settings, models, out)
    places = [(s, t) for s in settings.seeds for t in targets(settings, s, models) if chosen]
    found: list[dict[str, Any]] = []
    aims: list[dict[str, Any]] = []
    for done, (seed, target) in enumerate(places):
        aims.append(lab.aim(seed, target))
        if aims[-1]["failed"]:
            continue
        for k, arm in enumerate(chosen):
            share = (done + k / len(chosen)) / len(places)
            found.append(lab.cell(seed, target, arm, partial(_at, tell, share)))
    players: list[dict[str, Any]] = []
    policy = Arm(FROZEN, settings.policy, learning="frozen")  # as it comes
    if settings.presets:
        players = contest(settings, policy, lab.frozen, out, tell)
    tell(1.0, "done")
    return {
        "settings": settings.stated(),
        "targets": aims,
        "cells": found,
        "training": lab.costs(chosen),
        "contest": players,
        "contest_training": lab.costs([policy]) if players else [],
    }


class Lab:
    """Everything that is made once and kept: trainings, what a target asks for, cells."""

    def __init__(self, settings: Edges, models: Sequence[str], out: Path) -> None:
        self.settings, self.models, self.out = settings, models, out
        self.learnt: dict[str, TrainableMethod] = {}

    def oracle(
        self,
        model: str,
        task: str,
        seed: int,
        purpose: str,
        meter: Meter | None = None,
        pool: int | None = None,
    ) -> Oracle:
        """An oracle whose prompts are a function of all that is named; the same for every arm."""
        s = self.settings
        return Oracle(
            model_of(model),
            load_task(task),
            task_name=task,
            seed=derive_seed(seed, "mechrl-edges", model, task, purpose),
            ablation="resample",
            batch_size=s.prompts,
            device=s.device,
            pool=pool,
            meter=meter,
        )

    def cell(self, seed: int, target: Target, arm: Arm, tell: Report) -> dict[str, Any]:
        """What an arm does on a target; read if it was run before and gave an answer."""
        path = self.out / "cells" / f"{target.key(seed)}-{arm.key}.json"
        if path.is_file():
            found: dict[str, Any] = read_json(path)
            if not found["failed"]:
                return found
        tell(0.0, f"{arm.name} on seed {seed}, {target.place} of {target.model}")
        place = {"seed": seed, **vars(target), "arm": arm.name}
        place |= {"learning": arm.learning, "method": arm.training_key}
        aim = self.aim(seed, target)
        cell = {**place, "n_edges": aim["n_edges"], "failed": ""}
        try:
            cell |= self._measure(seed, target, arm, aim, tell)
        except CircuitBenchError as error:
            cell["failed"] = str(error)
        write_json(path, cell)
        return cell

    def aim(self, seed: int, target: Target) -> dict[str, Any]:
        """What is asked of every arm on a target: ``tau``, from the candidates' faithfulness.

        Khadka 2026: that of the best 3,000 edges by EAP-IG (of the KL divergence where the
        metric's misses), less a margin, within limits. On the prompts of the discovery. ``failed``
        says why a target asks for nothing: cutting every edge changes nothing there.
        """
        path = self.out / "targets" / f"{target.key(seed)}.json"
        if path.is_file():
            found: dict[str, Any] = read_json(path)
            return found
        s = self.settings
        oracle = self.oracle(target.model, target.task, seed, "discovery")
        place = {edge: i for i, edge in enumerate(oracle.edges.edges)}
        n = min(s.candidates, len(place))
        masks = np.zeros((2, len(place)), dtype=bool)
        for mask, of in zip(masks, ("task", "kl"), strict=True):
            eap_ig = load_method("eap-ig-inputs", of=of, listed=n)
            listed = eap_ig.discover(oracle, generator(seed, "mechrl-edges", "aim")).edges or {}
            mask[[place[edge] for edge in listed]] = True
        ceiling, failed = 0.0, ""
        try:
            ceiling = float(faithfulness(oracle, masks).max())
        except RunFailed as error:
            failed = str(error)
        truth = load_task(target.task).truth(model_of(target.model))
        aim = {
            "seed": seed,
            **vars(target),
            "n_edges": len(place),
            "failed": failed,
            "ceiling": ceiling,
            "tau": float(np.clip(ceiling - s.margin, s.least, s.most)),
            "true_heads": None if truth is None else len(truth.heads),
            "true_edges": None if truth is None or truth.edges is None else len(truth.edges),
        }
        write_json(path, aim)
        return aim

    def costs(self, chosen: Sequence[Arm]) -> list[dict[str, Any]]:
        """What the trainings of some arms have cost: ``seed``, ``key`` and the counts."""
        keys = dict.fromkeys(arm.training_key for arm in chosen if arm.learning != "none")
        paths = [
            self.out / "training" / f"{seed}-{key}.json"
            for key in keys
            for seed in self.settings.seeds
        ]
        return [read_json(path) for path in paths if path.is_file()]

    def _measure(
        self, seed: int, target: Target, arm: Arm, aim: Mapping[str, Any], tell: Report
    ) -> dict[str, Any]:
        spent, choosing, training = Meter(), Meter(), Meter()
        oracle = self.oracle(target.model, target.task, seed, "discovery", spent)
        method = self._method(seed, target, arm, aim, training, tell)
        rng = generator(seed, "mechrl-edges", target.model, target.task, arm.name)
        started = time.perf_counter()
        discovery = method.discover(oracle, rng)
        seconds = time.perf_counter() - started
        graph = oracle.edges.graph
        judged = judge(
            circuits_of(discovery, graph),
            aim["tau"],
            self.oracle(target.model, target.task, seed, "choosing", choosing),
            self.oracle(target.model, target.task, seed, "judging"),
        )
        truth = load_task(target.task).truth(model_of(target.model))
        return {
            "tau": aim["tau"],
            "queries": spent.queries,
            "passes": passes(spent.as_dict()),
            "choosing_queries": choosing.queries,
            "choosing_passes": passes(choosing.as_dict()),
            "training_queries": training.queries,
            "training_passes": passes(training.as_dict()),
            "seconds": seconds,
            **judged,
            **recovery(discovery, truth, graph),
        }

    def _method(
        self,
        seed: int,
        target: Target,
        arm: Arm,
        aim: Mapping[str, Any],
        meter: Meter,
        tell: Report,
    ) -> Method:
        if arm.learning == "none":
            return arm.make(aim["n_edges"])
        method = asked_for(self.frozen(seed, arm, tell), aim["tau"])
        if arm.learning == "frozen":
            return method
        oracle = self.oracle(target.model, target.task, seed, "warm", meter)
        rng = generator(seed, "mechrl-edges", target.model, target.task, "warm")
        return warmed(method, oracle, arm.steps, rng, tell)

    def frozen(self, seed: int, arm: Arm, tell: Report) -> Method:
        """An arm that learns, ready to discover."""
        return with_memory_of(arm.make(), self.trained(seed, arm, tell))

    def trained(self, seed: int, arm: Arm, tell: Report) -> TrainableMethod:
        """The method after its training with a seed, on the training tasks and plantings."""
        name = f"{seed}-{arm.training_key}"
        if name not in self.learnt:
            method = Arm(arm.name, arm.method, arm.shaping).make()
            assert isinstance(method, TrainableMethod)  # arms() refuses others
            meter = Meter()
            started = time.perf_counter()
            self._train(method, seed, arm.method, meter, self.out / "training" / name, tell)
            cost = {
                "seed": seed,
                "key": arm.training_key,
                "queries": meter.queries,
                "passes": passes(meter.as_dict()),
                "seconds": time.perf_counter() - started,
            }
            path = self.out / "training" / f"{name}.json"
            if path.is_file():  # taken up from a checkpoint, it costs less than it did
                before = read_json(path)
                cost |= {k: max(cost[k], before[k]) for k in ("queries", "passes", "seconds")}
            write_json(path, cost)
            self.learnt[name] = method
        return self.learnt[name]

    def _train(
        self,
        method: TrainableMethod,
        seed: int,
        name: str,
        meter: Meter,
        folder: Path,
        tell: Report,
    ) -> None:
        rng = generator(seed, "mechrl-edges", name, "training")
        curriculum = method.curriculum() if isinstance(method, Learner) else Curriculum()
        if curriculum.spent:  # it brings what it learnt
            meter.at_least(curriculum.spent)
            method.train([], rng)
            return
        lessons = [(model, task) for model in self.models for task in self.settings.train_tasks]
        oracles = [
            self.oracle(model, task, seed, "training", meter, curriculum.pool)
            for model, task in lessons
        ]
        if not isinstance(method, Learner):
            method.train(oracles, rng)
            return
        truths = [load_task(task).truth(model_of(model)) for model, task in lessons]
        method.train(
            oracles,
            rng,
            TrainingTools(
                lambda f, text: tell(f, f"training {name}, {f:.0%} {text}"),
                folder,
                run={"seed": seed, "settings": self.settings.identity},
                truths=tuple(truth for truth in truths if truth is not None),
            ),
        )


def _at(tell: Report, share: float, fraction: float, text: str) -> None:
    """Tell the share of the whole that is done, whatever fraction of a training is."""
    tell(share, text)


def _models(settings: Edges, chosen: Sequence[Arm]) -> list[str]:
    """The models that are learnt on: of the settings, or those a policy that is ready was taught.

    Raises :class:`InvalidSpec` for a held-out task that such a policy has seen, or another preset.
    """
    for arm in chosen:
        method = arm.make() if arm.name in POLICIES else None
        if not isinstance(method, Learner) or not (known := method.curriculum()).spent:
            continue
        seen = [task for task in settings.held_out_tasks if task in known.tasks]
        if seen:
            raise InvalidSpec(f"{arm.method} comes trained on {', '.join(seen)}: nothing held out")
        models = [m for m in known.models if m.partition("@")[0] == settings.model]
        if not models:
            raise InvalidSpec(f"{arm.method} comes trained on no model of {settings.model}")
        return models
    return training_models(settings)
