"""The health gate: is this task on this model a fair question with a true answer?

Every check gives a number and the limit it is held against. Effects are in units of the *gap*:
the metric of the intact model minus that of the model with every head ablated.

A truth is tested both ways. A head it names must matter in *some* context: alone, with the rest
of its role gone, or with another role (or part of one) gone. A head it does not name must matter
in *none*: alone, and inside random subsets of other ablated heads. A truth that is a family of
minimal sets promises something else, and is tested for that
(:mod:`circuitbench.checks.family_health`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitbench.checks.edge_health import edge_checks
from circuitbench.checks.family_health import family_checks
from circuitbench.checks.health_card import Card, Check, RoleReport, figure, render
from circuitbench.core.circuit import Circuit, Head
from circuitbench.core.errors import InvalidSpec
from circuitbench.core.seeding import generator
from circuitbench.models.base import Model
from circuitbench.models.limits import Limits
from circuitbench.oracle import Oracle
from circuitbench.oracle.ablations import ABLATIONS, ablation_named
from circuitbench.tasks.base import Prompts, Task
from circuitbench.tasks.text.task import TextTask

__all__ = [
    "Card",
    "Check",
    "Limits",
    "RoleReport",
    "figure",
    "groups_while_damaged",
    "render",
    "validate_task",
]

Context = frozenset[Head]
EDGE_PROMPTS = 8
DAMAGED_PROMPTS = 32  # at least: what a broken circuit still does varies with the prompt
FAMILY_PROMPTS = 256  # what a family states is a share of the metric, to a few percent
UNTOLD = Circuit({}, "nobody knows one", "ambiguous", tuple(ABLATIONS))
SAMPLE = 24  # prompts, and control spans, over which accuracy and control loss are taken


def validate_task(
    task_name: str,
    model: Model,
    task: Task,
    *,
    ablation: str | None = None,
    limits: Limits | None = None,
    prompts: int = 32,
    subsets: int = 24,
    edge_sets: int = 6,
    others: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Card:
    """Put a task on a model through the gate.

    Args:
        task_name: as in the registry; seeds the draws.
        model, task: what is tested.
        ablation: one of those the truth claims to be valid under; by default the first.
        limits: by default those of the model.
        prompts: prompts and control spans per batch.
        subsets: random subsets in which heads outside the truth are tried.
        edge_sets: random sets of edges outside the truth; 0 leaves the edges out. They are tested
            under the ablations that the truth claims its edges for, on a few prompts.
        others: how many heads outside the truth are tried alone (a random choice); all by
            default.
        seed: of all draws.
        device: where to compute.

    Raises:
        InvalidSpec: for an ablation the truth does not claim, or a task the model can't do.

    Of a task whose circuit nobody knows, only what needs none is checked.
    """
    limits = model.limits if limits is None else limits
    if isinstance(task, TextTask) and task.file.limits:
        limits = replace(limits, **task.file.limits)
    known = task.truth(model)
    truth = UNTOLD if known is None else known
    if not truth.ablations:
        raise InvalidSpec(
            f"the truth of {task_name} on {model.name} lists no ablation it was verified under; "
            f"list them in Circuit(ablations=...), of: {', '.join(ABLATIONS)}"
        )
    ablation = truth.ablations[0] if ablation is None else ablation_named(ablation).name
    if ablation not in truth.ablations:
        raise InvalidSpec(
            f"the truth of {task_name} on {model.name} is not claimed under {ablation} ablation; "
            f"valid: {', '.join(truth.ablations)}"
        )
    drawn = task.prompts(model, prompts, generator(seed, task_name, "health"))

    def oracle(batch_size: int) -> Oracle:
        return Oracle(
            model,
            task,
            task_name=task_name,
            seed=seed,
            ablation=ablation,
            batch_size=batch_size,
            device=device,
        )

    bench = _Bench(oracle(prompts), truth)
    tried = sorted(truth.heads) + bench.choose(others, generator(seed, task_name, "others"))
    singles = bench.effects([frozenset({head}) for head in tried])
    effects = dict(zip(tried, singles, strict=True))
    in_context = _truth_in_context(bench, effects, limits.matters)
    edges: tuple[Check, ...] = ()
    if known is not None and edge_sets:
        few, rng = oracle(min(prompts, EDGE_PROMPTS)), generator(seed, task_name, "edges")
        edges = edge_checks(few, truth, limits, edge_sets, rng)
    checks: tuple[Check, ...] = (
        *_behaviour(bench, model, drawn, limits),
        *_shape(model, drawn),
        *_faithfulness(bench, limits, known is not None and not truth.family),
    )
    if truth.family:
        many, rng = oracle(FAMILY_PROMPTS), generator(seed, task_name, "family")
        checks += (
            *family_checks(many, truth, limits, rng),
            _stability(bench, effects, limits),
            *edges,
        )
    elif known is not None:
        rng = generator(seed, task_name, "damaged")
        checks += (
            *_truth_matters(bench, in_context, limits),
            *_others_do_not(bench, effects, limits, subsets, generator(seed, task_name, "subsets")),
            *_damaged(_Bench(oracle(max(prompts, DAMAGED_PROMPTS)), truth), limits, subsets, rng),
            _stability(bench, effects, limits),
            *edges,
        )
    roles = tuple(
        RoleReport(
            name,
            tuple(str(head) for head in role.heads),
            role.needed,
            role.sign,
            role.shows,
            tuple(effects[head] for head in role.heads),
            tuple(in_context[head] for head in role.heads),
        )
        for name, role in truth.roles.items()
    )
    return Card(
        task=task_name,
        model=model.name,
        ablation=ablation,
        prompts=prompts,
        seed=seed,
        checks=checks,
        roles=roles,
        effects=_grid(model, effects),
        truth=_grid(model, {head: int(head in truth.heads) for head in bench.all_heads}),
        source=truth.source,
        kind=truth.kind,
        valid_under=truth.ablations,
        blind_spots=truth.blind_spots,
        dials=model.dials,
        provenance=dict(model.provenance),
    )


class _Bench:
    """An oracle and a truth, asked about sets of ablated heads."""

    def __init__(self, oracle: Oracle, truth: Circuit) -> None:
        self.oracle, self.truth = oracle, truth
        layers, heads = oracle.shape
        self.all_heads = [Head(layer, head) for layer in range(layers) for head in range(heads)]
        self.others = [head for head in self.all_heads if head not in truth.heads]
        self.everything: Context = frozenset(self.all_heads)
        self.clean = oracle.clean_metric
        self.gap = float(self._damage([self.everything])[0])

    def choose(self, n: int | None, rng: np.random.Generator) -> list[Head]:
        """``n`` heads outside the truth, or all of them."""
        if n is None or n >= len(self.others):
            return self.others
        return [self.others[i] for i in sorted(rng.choice(len(self.others), n, replace=False))]

    def _damage(self, ablated: Iterable[Context]) -> Tensor:
        sets = list(ablated)
        if not sets:
            return torch.zeros(0)
        masks = torch.ones(len(sets), *self.oracle.shape, dtype=torch.bool)
        for i, context in enumerate(sets):
            for layer, head in context:
                masks[i, layer, head] = False
        return self.oracle.query(masks, control=False).task

    def effects(self, ablated: Iterable[Context]) -> list[float]:
        """Metric lost by ablating each set, in units of the gap (0 where there is no gap)."""
        damage = self._damage(ablated)
        return [float(x) / self.gap if self.gap else 0.0 for x in damage]

    def marginals(self, pairs: list[tuple[Head, Context]]) -> list[float]:
        """Metric lost by ablating each head too, given that its context is ablated already."""
        contexts = list(dict.fromkeys(context for _, context in pairs))
        before = dict(zip(contexts, self.effects(contexts), strict=True))
        after = self.effects(context | {head} for head, context in pairs)
        return [b - before[context] for b, (_, context) in zip(after, pairs, strict=True)]


def _truth_in_context(
    bench: _Bench, alone: Mapping[Head, float], enough: float
) -> dict[Head, float]:
    """The effect of every truth head in its best context.

    A head that matters ``enough`` alone is not tried further; any other is tried with more and
    more of its role gone, and with another role, or a head of one, gone too.
    """
    roles = bench.truth.roles
    pairs = []
    for name, role in roles.items():
        for head in role.heads:
            if abs(alone[head]) >= enough:
                continue
            rest = frozenset(role.heads) - {head}
            contexts = {frozenset(sorted(rest)[:n]) for n in range(1, len(rest) + 1)}
            for other_name, other in roles.items():
                if other_name != name:
                    group = frozenset(other.heads) - {head}
                    contexts |= {group, group | rest, frozenset(other.heads[:1]) - {head}}
            pairs += [(head, context) for context in sorted(contexts, key=sorted)]
    best = {head: alone[head] for head in bench.truth.heads}
    for (head, _), effect in zip(pairs, bench.marginals(pairs), strict=True):
        if abs(effect) > abs(best[head]):
            best[head] = effect
    return best


def _behaviour(bench: _Bench, model: Model, drawn: Prompts, limits: Limits) -> list[Check]:
    """The model does the task, the counterfactual undoes it, and the language is one."""
    draws = range(max(1, SAMPLE // bench.oracle.batch_size))
    batches = [bench.oracle.draw(i) for i in draws]
    accuracy = float(np.mean([batch.accuracy for batch in batches]))
    control = float(np.mean([batch.control_loss for batch in batches]))
    vocabulary = int(max(drawn.tokens.max(), drawn.token_ids.max())) + 1
    transformer = model.transformer
    if transformer is not None:
        vocabulary = transformer.config.d_vocab
    uniform = model.uniform_loss or math.log(vocabulary)
    flipped = torch.zeros(1, *bench.oracle.shape, dtype=torch.bool)
    restored_none = bench.oracle.query(flipped, direction="denoising").task
    counterfactual = bench.clean - float(restored_none[0])
    return [
        Check("accuracy", accuracy, ">=", limits.accuracy, "top choice is right"),
        Check(
            "counterfactual metric / clean metric",
            counterfactual / bench.clean if bench.clean else math.nan,
            "<=",
            limits.counterfactual,
            f"clean {bench.clean:.2f}, counterfactual {counterfactual:.2f}",
        ),
        Check(
            "control loss / uniform",
            control / uniform,
            "<=",
            limits.control,
            f"{control:.2f} of {uniform:.2f} nats/token",
        ),
    ]


def _shape(model: Model, drawn: Prompts) -> list[Check]:
    """Single-token answers inside the vocabulary that are not wrong answers at the same time."""
    answers = drawn.token_ids.masked_fill(drawn.weights <= 0, -1)
    wrong = drawn.token_ids.masked_fill(drawn.weights >= 0, -2)
    both = int((answers[..., :, None] == wrong[..., None, :]).sum())
    size = model.transformer.config.d_vocab if model.transformer is not None else None
    highest = int(torch.stack([drawn.tokens.max(), drawn.token_ids.max()]).max())
    outside = 0 if size is None else max(0, highest + 1 - size)
    lengths = f"all of {drawn.tokens.shape[1]} tokens"
    if drawn.lengths is not None:
        lengths = f"{' '.join(map(str, drawn.lengths.unique().tolist()))} tokens"
    return [
        Check("prompt lengths", 1, "==", 1, lengths),
        Check("answers that are wrong answers too", both, "==", 0),
        Check("token ids outside the vocabulary", outside, "==", 0),
    ]


def _faithfulness(bench: _Bench, limits: Limits, told: bool) -> list[Check]:
    """All heads keep the metric, none lose it, the truth alone keeps it."""
    none_off, others_off = bench.effects([frozenset(), frozenset(bench.others)])
    left = (bench.clean - bench.gap) / bench.clean if bench.clean else math.nan
    if ablation_named(bench.oracle.ablation).leaves_nothing:
        nothing = Check("metric left with no head", abs(left), "<=", limits.nothing)
    else:  # what is left is the counterfactual's metric, which may be as far below zero
        nothing = Check("metric left with no head", left, "<=", limits.counterfactual)
    return [
        Check("faithfulness of all heads - 1", abs(none_off), "<=", 1e-4),
        nothing,
        *[
            Check(
                "faithfulness of the truth alone - 1",
                abs(others_off),
                "<=",
                limits.sufficiency,
                f"{1 - others_off:.3f}",
            )
        ][: int(told)],
    ]


def _truth_matters(bench: _Bench, in_context: dict[Head, float], limits: Limits) -> list[Check]:
    """Every truth head matters somewhere, and in the direction its role says."""
    weakest = min(in_context, key=lambda head: abs(in_context[head]))
    against = [
        head
        for role in bench.truth.roles.values()
        for head in role.heads
        if role.sign * in_context[head] < 0
    ]
    return [
        Check(
            "weakest truth head in its best context",
            abs(in_context[weakest]),
            ">=",
            limits.matters,
            f"head {weakest}",
        ),
        Check(
            "truth heads against their sign",
            len(against),
            "<=",
            limits.against,
            ", ".join(map(str, against)),
        ),
    ]


def _others_do_not(
    bench: _Bench,
    effects: dict[Head, float],
    limits: Limits,
    subsets: int,
    rng: np.random.Generator,
) -> list[Check]:
    """Heads outside the truth matter neither alone nor among random other ablated heads."""
    if not bench.others or not subsets:
        return []
    tried = [head for head in bench.others if head in effects]
    strongest = max(tried, key=lambda head: abs(effects[head]))
    truth = sorted(bench.truth.heads)
    halves, pairs = [], []
    for i in range(subsets):
        half = _some(bench.others, 0.5, rng)
        broken = _some(truth, 0.15, rng)
        halves.append(half)
        head = bench.others[int(rng.integers(len(bench.others)))]
        # every other subset also damages the circuit, so that dormant heads would show
        context = half | broken if i % 2 else half
        pairs.append((head, context - {head}))
    shared = bench.effects(halves)
    marginal = [abs(x) for x in bench.marginals(pairs)]
    return [
        Check(
            "strongest other head, alone",
            abs(effects[strongest]),
            "<=",
            limits.tolerance,
            f"head {strongest}; {len(tried)} of {len(bench.others)} tried",
        ),
        Check(
            "strongest other head, in random subsets",
            max(marginal),
            "<=",
            limits.tolerance,
            f"{subsets} subsets",
        ),
        Check(
            "random half of the other heads, together",
            max(abs(x) for x in shared),
            "<=",
            limits.together,
            f"{subsets} subsets",
        ),
    ]


def _damaged(bench: _Bench, limits: Limits, subsets: int, rng: np.random.Generator) -> list[Check]:
    """Groups of heads outside the truth do nothing for a circuit that is broken."""
    if not bench.others or not subsets:
        return []
    return [
        Check(
            "groups of the other heads, the circuit damaged",
            max(map(abs, _groups_while_damaged(bench, subsets, rng))),
            "<=",
            limits.damaged,
            f"{subsets} subsets, {len(bench.truth.roles)} roles gone",
        )
    ]


def groups_while_damaged(
    oracle: Oracle, truth: Circuit, subsets: int, rng: np.random.Generator
) -> list[float]:
    """What groups of heads outside the truth lose beyond what damage to the circuit lost.

    Groups may stand in for a circuit that is broken, which none of their members does alone.
    Random halves of the others are ablated on top of ``subsets`` random sets of truth heads (three
    in ten), and all of the others on top of every role.

    Returns:
        ``subsets`` effects and one per role, in units of the gap; below 0 the metric rises.
    """
    return _groups_while_damaged(_Bench(oracle, truth), subsets, rng)


def _groups_while_damaged(bench: _Bench, subsets: int, rng: np.random.Generator) -> list[float]:
    heads, roles = sorted(bench.truth.heads), bench.truth.roles.values()
    broken = [_some(heads, 0.3, rng) for _ in range(subsets)]
    groups = [_some(bench.others, 0.5, rng) for _ in range(subsets)]
    broken += [frozenset(role.heads) for role in roles]
    groups += [frozenset(bench.others)] * len(roles)
    before = bench.effects(broken)
    after = bench.effects(b | g for b, g in zip(broken, groups, strict=True))
    return [a - b for a, b in zip(after, before, strict=True)]


def _some(heads: list[Head], p: float, rng: np.random.Generator) -> Context:
    """Each head with probability ``p``."""
    return frozenset(head for head, x in zip(heads, rng.random(len(heads)), strict=True) if x < p)


def _stability(bench: _Bench, effects: dict[Head, float], limits: Limits) -> Check:
    """Truth heads have the same single effects on other prompts."""
    truth = sorted(bench.truth.heads)
    first = bench.oracle.batch
    bench.oracle.resample(1)
    again = bench.effects([frozenset({head}) for head in truth])
    bench.oracle.batch = first
    worst = max(abs(a - effects[head]) for a, head in zip(again, truth, strict=True))
    return Check("effect change on other prompts", worst, "<=", limits.stability)


def _grid(model: Model, values: Mapping[Head, Any]) -> tuple[tuple[Any, ...], ...]:
    return tuple(
        tuple(values.get(Head(layer, head)) for head in range(model.n_heads))
        for layer in range(model.n_layers)
    )
