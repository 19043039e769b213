"""Exhaustive search for the circuit of a two-layer attention-only model without normalisation.

With no normalisation the logits are linear in what the last layer's heads write, so the metric of
all ``2^(2 n)`` subsets of heads follows from one forward pass for each subset of the first layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import Head
from circuitbench.models.forward import forward
from circuitbench.models.trained.prompts import AnsweredPrompts
from circuitbench.models.trained.training.network import REPLACEMENTS
from circuitbench.models.transformer import Transformer

TOLERANCES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)


@torch.no_grad()
def subset_table(model: Transformer, prompts: AnsweredPrompts, ablation: str) -> np.ndarray:
    """The mean metric of every subset of kept heads, ``[2^n, 2^n]``.

    The index of a row is the subset of layer 0 (bit ``h`` is head ``h``), of a column that of
    layer 1; the other heads are ablated (one of :data:`REPLACEMENTS`).
    """
    n = model.config.n_heads
    clean = forward(model, prompts.tokens).z
    given = [REPLACEMENTS[ablation](z) for z in forward(model, prompts.counterfactual).z]
    bits = torch.tensor([[bool(i >> h & 1) for h in range(n)] for i in range(2**n)])
    rows = torch.arange(len(prompts))[:, None]
    read = model.W_U.T[prompts.right] - model.W_U.T[prompts.wrong]

    def writes(layer: int, z: Tensor) -> Tensor:
        """What each head adds to the metric directly, ``[n_heads]``."""
        at = z[rows, prompts.positions]
        added = torch.einsum("bkhe,hed,bkd->bkh", at, model.layers[layer].W_O, read)
        return added.mean((0, 1))

    bare = forward(model, prompts.tokens, lambda layer, z: torch.zeros_like(z))
    floor = prompts.metric(bare.logits).mean()
    off = writes(1, given[1])
    table = torch.empty(2**n, 2**n)
    for i, kept in enumerate(bits):
        first = torch.where(kept[:, None], clean[0], given[0])
        _, zs, _ = forward(model, prompts.tokens, partial(_first_layer, first))
        on = writes(1, zs[1])
        base = floor + writes(0, first).sum()
        table[i] = base + torch.where(bits, on, off).sum(-1)
    return table.double().numpy()


def _first_layer(given: Tensor, layer: int, z: Tensor) -> Tensor:
    """The edit that puts ``given`` in place of the first layer's outputs."""
    return z if layer else given


def faithfulness(table: np.ndarray) -> np.ndarray:
    """``(m(S) - m(nothing)) / (m(everything) - m(nothing))`` for every subset S, flattened."""
    return np.ravel((table - table[0, 0]) / (table[-1, -1] - table[0, 0]))


def members(index: int, n_heads: int) -> list[Head]:
    """The heads of a flattened index of the table."""
    layers = (index >> n_heads, index & (2**n_heads - 1))
    return [
        Head(i, h) for i, subset in enumerate(layers) for h in range(n_heads) if subset >> h & 1
    ]


def effects(table: np.ndarray) -> dict[str, dict[str, float]]:
    """For each head, the change of faithfulness from keeping it too: least, mean and greatest
    over all subsets of the others, and ``alone`` where all others are kept.
    """
    n = len(table).bit_length() - 1
    values = faithfulness(table)
    index = np.arange(len(values))
    out = {}
    for bit in reversed(range(2 * n)):
        without = index[index >> bit & 1 == 0]
        change = values[without | 1 << bit] - values[without]
        (head,) = members(1 << bit, n)
        out[str(head)] = {
            "least": round(float(change.min()), 4),
            "mean": round(float(change.mean()), 4),
            "greatest": round(float(change.max()), 4),
            "alone": round(float(change[-1]), 4),
        }
    return dict(sorted(out.items()))


def enclosing(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every subset the least and the greatest faithfulness of any set that contains it."""
    least = faithfulness(table)
    greatest = least.copy()
    index = np.arange(len(least))
    for bit in range(len(least).bit_length() - 1):
        without = index[index >> bit & 1 == 0]
        least[without] = np.minimum(least[without], least[without | 1 << bit])
        greatest[without] = np.maximum(greatest[without], greatest[without | 1 << bit])
    return least, greatest


def search(
    table: np.ndarray, tolerances: Sequence[float] = TOLERANCES
) -> dict[str, dict[str, Any]]:
    """For each tolerance, the smallest sets that are sufficient whatever else is kept or ablated.

    A set S is sufficient up to t if every set that contains it has a faithfulness within t of 1:
    then no head outside S matters by more than 2 t in any context that holds S.
    """
    n = len(table).bit_length() - 1
    least, greatest = enclosing(table)
    size = np.array([int(i).bit_count() for i in range(len(least))])
    found: dict[str, dict[str, Any]] = {}
    for tolerance in tolerances:
        enough = np.flatnonzero((least >= 1 - tolerance) & (greatest <= 1 + tolerance))
        smallest = size[enough].min()
        best = [int(i) for i in enough if size[i] == smallest]
        # Of several, the one whose worst superset is least wrong.
        best.sort(key=lambda i: max(1 - least[i], greatest[i] - 1))
        found[str(tolerance)] = {
            "size": int(smallest),
            "number_of_that_size": len(best),
            "heads": [str(h) for h in members(best[0], n)],
        }
    return found


def attention_scores(
    tokens: Tensor, patterns: Sequence[Tensor]
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean attention to the previous token; and, where the current token was seen before, to the
    token after its last occurrence (the prefix-matching score of Olsson et al. 2022).
    """
    length = tokens.shape[1]
    place = torch.arange(length)
    seen = (tokens[:, :, None] == tokens[:, None, :]) & (place[None, :] < place[:, None])
    last = torch.where(seen, place, -1).amax(-1)
    repeated = last >= 0
    previous, matching = {}, {}
    for layer, pattern in enumerate(patterns):
        for head in range(pattern.shape[1]):
            name = str(Head(layer, head))
            at = pattern[:, head]
            previous[name] = round(float(at[:, place[1:], place[:-1]].mean()), 4)
            after = at.gather(-1, (last + 1).clamp(max=length - 1)[..., None])[..., 0]
            matching[name] = round(float(after[repeated].mean()), 4)
    return previous, matching
