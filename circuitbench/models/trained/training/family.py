"""The metric of every subset of heads, and all minimal ones that are enough.

For attention-only models without normalisation. What the last layer's heads add to the metric is
then a sum over heads, so that 2^18 subsets of 3 x 6 heads take 2^12 runs of the last layer, on
what it reads and nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import Head
from circuitbench.core.errors import InvalidSpec
from circuitbench.models.forward import forward
from circuitbench.models.trained.prompts import AnsweredPrompts
from circuitbench.models.trained.training.network import REPLACEMENTS
from circuitbench.models.transformer import LayerWeights, Transformer

MOST_HEADS = 20


@torch.no_grad()
def metric_of_subsets(model: Transformer, prompts: AnsweredPrompts, ablation: str) -> np.ndarray:
    """The mean metric of every subset of kept heads, ``[2^heads]``.

    Bit ``layer * n_heads + head`` of the index says whether a head is kept; the others are
    ablated (one of :data:`~circuitbench.models.trained.training.network.REPLACEMENTS`).

    Raises:
        InvalidSpec: the model has MLPs, norms or one layer only, or more heads than
            :data:`MOST_HEADS`.
    """
    cfg = model.config
    heads = cfg.n_layers * cfg.n_heads
    if cfg.d_mlp or cfg.normalization != "none" or cfg.n_layers < 2 or heads > MOST_HEADS:
        raise InvalidSpec(
            f"all subsets are tried of attention-only models without normalisation, of two layers "
            f"or more and at most {MOST_HEADS} heads"
        )
    given = [REPLACEMENTS[ablation](z) for z in forward(model, prompts.counterfactual).z]
    read = model.W_U.T[prompts.right] - model.W_U.T[prompts.wrong]
    at = torch.arange(len(prompts))[:, None], prompts.positions
    per_layer = 2**cfg.n_heads
    bits = torch.arange(per_layer)[:, None] >> torch.arange(cfg.n_heads) & 1
    last = model.layers[-1]
    off = torch.einsum("bkhe,hed,bkd->h", given[-1][at], last.W_O, read) / read[..., 0].numel()
    table = torch.empty((per_layer,) * cfg.n_layers)
    for chosen, x in _streams(model, prompts.tokens, given, bits.bool()):
        on = _added(last, x, at, read, cfg.attn_scale)
        direct = torch.einsum("sbkd,bkd->s", x[:, at[0], at[1]], read) / read[..., 0].numel()
        choice = torch.where(bits.bool()[:, None], on, off)  # [subsets, streams, n_heads]
        place: Any = (..., *chosen[::-1])
        table[place].copy_(direct + choice.sum(-1))
    if model.b_U is not None:
        table += (model.b_U[prompts.right] - model.b_U[prompts.wrong]).mean()
    return table.double().numpy().ravel()


def _streams(
    model: Transformer, tokens: Tensor, given: list[Tensor], bits: Tensor
) -> Iterator[tuple[list[int], Tensor]]:
    """The last layer's input for all subsets of the layers below it.

    Yields the subsets of all but the last of those layers, and the streams ``[2^n_heads, batch,
    pos, d_model]`` for every subset of that one.
    """
    length, depth = tokens.shape[1], model.config.n_layers - 1
    start = model.W_E[tokens] + (0 if model.W_pos is None else model.W_pos[:length])

    def walk(x: Tensor, chosen: list[int]) -> Iterator[tuple[list[int], Tensor]]:
        layer = len(chosen)
        weights = model.layers[layer]
        z = _outputs(weights, x, model.config.attn_scale)
        on, off = (torch.einsum("bphe,hed->hbpd", y, weights.W_O) for y in (z, given[layer]))
        base = x + off.sum(0)
        if layer == depth - 1:
            change = (on - off).flatten(1)
            yield chosen, base + (bits.float() @ change).view(-1, *x.shape)
            return
        for subset, kept in enumerate(bits):
            yield from walk(base + (on - off)[kept].sum(0), [*chosen, subset])

    return walk(start, [])


def _outputs(weights: LayerWeights, x: Tensor, scale: float) -> Tensor:
    """The heads' outputs z ``[batch, pos, n_heads, d_head]`` on a stream ``[batch, pos, d_model]``.

    A key's bias adds the same to all scores of a query and so does nothing.
    """
    q = torch.einsum("bpd,hde->bhpe", x, weights.W_Q)
    q = q if weights.b_Q is None else q + weights.b_Q[:, None]
    k = torch.einsum("bpd,hde->bhpe", x, weights.W_K)
    v = torch.einsum("bpd,hde->bhpe", x, weights.W_V)
    length = x.shape[1]
    future = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
    scores = (q @ k.transpose(-1, -2) * scale).masked_fill(future, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


def _added(
    weights: LayerWeights, x: Tensor, at: tuple[Tensor, Tensor], read: Tensor, scale: float
) -> Tensor:
    """What each head of the last layer adds to the metric, ``[streams, n_heads]``.

    Only the queries that are read are asked, and of the values only what the metric sees.
    """
    positions, length = at[1], x.shape[2]
    q = torch.einsum("sbkd,hde->sbkhe", x[:, at[0], positions], weights.W_Q)
    q = q if weights.b_Q is None else q + weights.b_Q
    asked = torch.einsum("sbkhe,hde->sbkhd", q, weights.W_K)
    seen = torch.einsum("hde,hem,bkm->bkhd", weights.W_V, weights.W_O, read)
    streams = x.transpose(-1, -2)  # [streams, batch, d_model, pos]
    scores = asked.flatten(2, 3) @ streams * scale
    values = seen.flatten(1, 2) @ streams
    later = torch.arange(length) > positions[..., None, None]
    later = later.expand(-1, -1, weights.W_Q.shape[0], -1).flatten(1, 2)
    pattern = scores.masked_fill(later, -torch.inf).softmax(-1)
    added = (pattern * values).sum(-1).unflatten(2, (positions.shape[1], -1))
    mean: Tensor = added.mean((1, 2))
    return mean


def faithfulness(metric: np.ndarray) -> np.ndarray:
    """``(m(S) - m(nothing)) / (m(everything) - m(nothing))`` for every subset S."""
    return np.asarray((metric - metric[0]) / (metric[-1] - metric[0]))


def minimal(sufficient: np.ndarray) -> np.ndarray:
    """Of sufficient subsets ``[2^heads]`` bool those of which no proper subset is sufficient.

    Complete whatever the metric does: whether a subset suffices need not be monotone, so every
    one is looked at.
    """
    below = np.zeros_like(sufficient)  # whether some proper subset suffices
    index = np.arange(len(sufficient))
    reached = sufficient.copy()  # it or some subset of it
    for bit in range(len(sufficient).bit_length() - 1):
        without = index[index >> bit & 1 == 0]
        reached[without | 1 << bit] |= reached[without]
    for bit in range(len(sufficient).bit_length() - 1):
        without = index[index >> bit & 1 == 0]
        below[without | 1 << bit] |= reached[without]
    return np.flatnonzero(sufficient & ~below)


def heads_in(index: int, n_heads: int) -> frozenset[Head]:
    """The heads of an index of :func:`metric_of_subsets`."""
    return frozenset(
        Head(*divmod(bit, n_heads)) for bit in range(index.bit_length()) if index >> bit & 1
    )
