"""What is measured on a model once it is trained: the JSON that ships beside its weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from circuitbench.core.circuit import Head
from circuitbench.models.forward import forward
from circuitbench.models.trained.algorithms import Algorithm
from circuitbench.models.trained.prompts import induction_prompts, puzzle_prompts
from circuitbench.models.trained.puzzles import Puzzle
from circuitbench.models.trained.skipgrams import SkipGrams
from circuitbench.models.trained.training.exhaustive import (
    attention_scores,
    effects,
    search,
    subset_table,
)
from circuitbench.models.trained.training.family import (
    faithfulness,
    heads_in,
    metric_of_subsets,
    minimal,
)
from circuitbench.models.trained.training.network import REPLACEMENTS, keep, swap
from circuitbench.models.trained.training.siit import Interventions, node_mask, read
from circuitbench.models.transformer import Transformer

PROMPTS = 256
TOLERANCE = 0.15
"""The truth of the induction model is the smallest set sufficient up to this, zero ablation."""

FAITHFULNESS = 0.9
"""The share of the metric that a sufficient set of heads keeps, under every ablation."""


def text_loss(model: Transformer, text: Tensor, mask: Tensor | None = None) -> float:
    """Next-token loss on text (nats/token), with the heads of ``mask`` kept."""
    logits, _, _ = forward(model, text, None if mask is None else keep(mask))
    return float(functional.cross_entropy(logits[:, :-1].transpose(1, 2), text[:, 1:]))


def text_damages(model: Transformer, text: Tensor) -> dict[str, float]:
    """For each head, how much zeroing it alone raises :func:`text_loss`."""
    grid = (model.config.n_layers, model.config.n_heads)
    clean, damages = text_loss(model, text), {}
    for layer in range(grid[0]):
        for head in range(grid[1]):
            mask = torch.ones(grid, dtype=torch.bool)
            mask[layer, head] = False
            damages[str(Head(layer, head))] = round(text_loss(model, text, mask) - clean, 4)
    return damages


@torch.no_grad()
def siit_report(
    model: Transformer,
    algorithm: Algorithm,
    language: SkipGrams,
    seed: int = 1000,
    contexts: int = 200,
) -> dict[str, Any]:
    """Behaviour, interchange accuracy, and what heads outside the circuit can do at most.

    Effects are moves of the metric (logit of the right answer minus that of the counterfactual's
    answer) as a share of its clean value. ``alone``: replace one outside head. ``in_context``:
    replace one outside head after a random set of other heads, of the circuit or not, has been
    replaced alike; the largest over ``contexts`` draws. ``answers_changed``: with random sets of
    outside heads replaced on each prompt, the share of answers that are no longer the algorithm's.
    """
    rng = np.random.default_rng(seed)
    grid = (model.config.n_layers, model.config.n_heads)
    pairs = algorithm.draw(PROMPTS, rng)
    last = list(algorithm.nodes)[-1]
    right, wrong = (
        algorithm.values(x)[last].gather(1, pairs.positions)
        for x in (pairs.tokens, pairs.counterfactual)
    )
    apart = (right != wrong).float()
    rows = torch.arange(PROMPTS)[:, None]

    def metric(logits: Tensor) -> float:
        at = logits[rows, pairs.positions]
        gap = at.gather(-1, right[..., None]) - at.gather(-1, wrong[..., None])
        return float((gap[..., 0] * apart).sum() / apart.sum())

    def hits(logits: Tensor, answers: Tensor, positions: Tensor) -> float:
        top = read(algorithm, logits, positions).argmax(-1) + 1
        return float((top == answers).float().mean())

    clean, _, _ = forward(model, pairs.tokens)
    other = forward(model, pairs.counterfactual).z
    interchange = {}
    for node, (layer, head) in algorithm.nodes.items():
        swaps = {node: torch.ones(PROMPTS, dtype=torch.bool)}
        answers = algorithm.values(pairs.tokens, pairs.counterfactual, swaps)[last]
        logits, _, _ = forward(model, pairs.tokens, swap([(layer, head)], other))
        interchange[node] = hits(logits, answers.gather(1, pairs.positions), pairs.positions)

    changes = Interventions(algorithm, pairs, grid, rng)
    twice = torch.cat([pairs.tokens, pairs.tokens])
    changed, _, _ = forward(model, twice, changes.edit(other))
    halves = list(zip(changed.split(PROMPTS), changes.answers.split(PROMPTS), strict=True))
    together, strict = (hits(x, y, pairs.positions) for x, y in halves)

    inside = node_mask(algorithm, grid)
    alone, in_context = _outside_effects(model, pairs.tokens, other, inside, metric, contexts, rng)
    text = language.text(PROMPTS, model.config.n_ctx, algorithm.n_symbols + 2, rng)
    return {
        "roles": {
            node: {"heads": [str(head)], "shows": "alone it destroys the answer"}
            for node, head in algorithm.nodes.items()
        },
        "ablations": list(REPLACEMENTS),
        "source": "trained by strict interchange-intervention training (arXiv 2407.14494)",
        "blind_spots": [
            "the truth is what training imposed and tests found no exception to, not a proof",
        ],
        "accuracy": hits(clean, right, pairs.positions),
        "metric": round(metric(clean), 4),
        "interchange_accuracy": interchange,
        "interchange_accuracy_with_others_replaced": together,
        "strict_answers_changed": 1 - strict,
        "strict_effect_alone": alone,
        "strict_effect_in_context": in_context,
        "text_loss": round(text_loss(model, text), 4),
        "text_loss_uniform": round(float(np.log(model.config.d_vocab)), 4),
        "text_damage_zero": text_damages(model, text),
    }


def _outside_effects(
    model: Transformer,
    tokens: Tensor,
    counterfactual: list[Tensor],
    inside: Tensor,
    metric: Callable[[Tensor], float],
    contexts: int,
    rng: np.random.Generator,
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Per ablation and outside head: the effect alone, and the largest in random contexts."""
    outside = [(int(i), int(j)) for i, j in torch.argwhere(~inside)]
    every = [(int(i), int(j)) for i, j in torch.argwhere(torch.ones_like(inside))]
    whole = metric(forward(model, tokens)[0])
    alone: dict[str, dict[str, float]] = {}
    in_context: dict[str, dict[str, float]] = {}
    for ablation, replace in REPLACEMENTS.items():
        given = [replace(z) for z in counterfactual]

        def without(heads: set[tuple[int, int]], given: list[Tensor] = given) -> float:
            return metric(forward(model, tokens, swap(heads, given))[0])

        alone[ablation] = {
            str(Head(*head)): round((whole - without({head})) / whole, 5) for head in outside
        }
        largest = dict.fromkeys(alone[ablation], 0.0)
        for i in range(contexts):
            head = outside[i % len(outside)]
            rate = rng.choice([0.15, 0.5])
            context = {h for h in every if h != head and rng.random() < rate}
            effect = abs(without(context) - without(context | {head})) / whole
            largest[str(Head(*head))] = max(largest[str(Head(*head))], round(effect, 5))
        in_context[ablation] = largest
    return alone, in_context


@torch.no_grad()
def induction_report(model: Transformer, language: SkipGrams, seed: int = 1000) -> dict[str, Any]:
    """Exhaustive search over all subsets of heads, and what the heads attend to."""
    rng = np.random.default_rng(seed)
    prompts = induction_prompts(PROMPTS, rng)
    tables = {a: subset_table(model, prompts, a) for a in REPLACEMENTS}
    logits, _, patterns = forward(model, prompts.tokens)
    previous, matching = attention_scores(prompts.tokens, patterns)
    text = language.text(PROMPTS, model.config.n_ctx, 1, rng)
    sets = {a: search(t) for a, t in tables.items()}
    changes = {a: effects(t) for a, t in tables.items()}
    return {
        "roles": _induction_roles(
            sets["zero"][str(TOLERANCE)]["heads"], previous, matching, changes["zero"]
        ),
        "tolerance": TOLERANCE,
        "ablations": list(REPLACEMENTS),
        "source": "exhaustive search over all 65,536 subsets of heads of a model trained here",
        "blind_spots": [
            "the edge is gradual: heads just outside matter a little (see the exhaustive effects)",
            "heads that match prefixes but write nothing look like induction heads",
        ],
        "health": {
            "accuracy": 0.95,
            "sufficiency": 0.3,
            "tolerance": 0.12,
            "together": 0.3,
            "damaged": 0.3,
        },
        "accuracy": float(prompts.correct(logits, torch.arange(1, 32)).float().mean()),
        "metric": round(float(prompts.metric(logits).mean()), 4),
        "previous_token_score": previous,
        "prefix_matching_score": matching,
        "effects": changes,
        "search": sets,
        "text_loss": round(text_loss(model, text), 4),
        "text_loss_uniform": round(float(np.log(model.config.d_vocab)), 4),
        "text_damage_zero": text_damages(model, text),
    }


def _induction_roles(
    heads: list[str],
    previous: dict[str, float],
    matching: dict[str, float],
    changes: dict[str, dict[str, float]],
) -> dict[str, dict[str, Any]]:
    """Sort the heads found by what they attend to (scores of at least one half)."""
    roles: dict[str, list[str]] = {"previous-token": [], "induction": [], "support": []}
    for head in heads:
        if previous[head] >= 0.5:
            roles["previous-token"].append(head)
        elif matching[head] >= 0.5:
            roles["induction"].append(head)
        else:
            roles["support"].append(head)
    return {
        name: {
            "heads": group,
            "shows": "alone it costs "
            + ", ".join(f"{changes[head]['alone']:.0%} ({head})" for head in group),
        }
        for name, group in roles.items()
        if group
    }


@torch.no_grad()
def family_report(
    model: Transformer, puzzle: Puzzle, language: SkipGrams, seed: int = 1000
) -> dict[str, Any]:
    """Behaviour, and the family of all minimal sufficient sets of heads.

    A set is sufficient if it keeps :data:`FAITHFULNESS` of the metric under every ablation. All
    subsets are looked at, on :data:`PROMPTS` prompts. ``searched`` says the same of each ablation
    alone: how many subsets are sufficient, how many of them minimal, the sizes of the smallest
    and the largest of these, of their union and of their intersection.
    """
    rng = np.random.default_rng(seed)
    n_heads = model.config.n_heads
    prompts = puzzle_prompts(puzzle, PROMPTS, rng)
    logits = forward(model, prompts.tokens).logits
    start = time.process_time()
    tables = {name: metric_of_subsets(model, prompts, name) for name in REPLACEMENTS}
    kept = {name: faithfulness(table) for name, table in tables.items()}
    enough = {name: values >= FAITHFULNESS for name, values in kept.items()}
    enough["all"] = np.logical_and.reduce(list(enough.values()))
    searched, family = {}, []
    for name, sufficient in enough.items():
        family = [heads_in(int(index), n_heads) for index in minimal(sufficient)]
        sizes = [len(heads) for heads in family]
        searched[name] = {
            "sufficient": int(sufficient.sum()),
            "minimal": len(family),
            "smallest": min(sizes),
            "largest": max(sizes),
            "union": len(frozenset().union(*family)),
            "core": len(frozenset.intersection(*family)),
        }
    seconds = round(time.process_time() - start)
    core, union = frozenset.intersection(*family), frozenset().union(*family)
    choices = torch.arange(1, puzzle.n_symbols + 2)
    text = language.text(PROMPTS, model.config.n_ctx, puzzle.n_symbols + 2, rng)
    found = (
        f"exhaustive search over all {len(enough['all']):,} subsets of heads of a model trained "
        "here without a prescribed circuit"
    )
    return {
        "source": found,
        "ablations": list(REPLACEMENTS),
        "faithfulness": FAITHFULNESS,
        "blind_spots": _not_identifiable(len(family), len(core), len(union)),
        "accuracy": float(prompts.correct(logits, choices).float().mean()),
        "metric": round(float(prompts.metric(logits).mean()), 4),
        "text_loss": round(text_loss(model, text), 4),
        "uniform_loss": round(float(np.log(model.config.d_vocab)), 4),
        "prompts": PROMPTS,
        "search_cpu_seconds": seconds,
        "searched": searched,
        "family": sorted(" ".join(map(str, sorted(heads))) for heads in family),
    }


def _not_identifiable(sets: int, core: int, union: int) -> list[str]:
    """What the search leaves open, in words."""
    if sets == 1:
        return []
    spots = [
        f"{sets} minimal sets of heads are enough; which of them the model uses is not "
        f"identifiable, so {union - core} heads are optional"
    ]
    if not core:
        spots.append("no head is in every minimal set: the circuit is not identifiable")
    return spots
