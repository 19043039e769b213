"""How much of what a receiver hears comes from each sender, by closeness alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from circuitbench.oracle.edge_states import Known, States


def proximities(states: States, known: Known) -> Tensor:
    """Each sender's share of each stream of a run, ``[streams, senders]``, summed over rows.

    A sender that writes ``x`` to the stream ``y`` is as close to it as
    ``max(0, ||y||_1 - ||y - x||_1)``, as a share of what all senders before have there (0 where
    none has any); the mean over positions (Ferrando and Voita 2024, arXiv 2403.00824,
    section 2.2). The streams are in order: before each layer's attention, before its MLP if it
    has one, and before the logits; the ones behind the last layer's attention count at the read
    positions only. All edges into a layer's heads have the same stream.
    """
    layout = states.layout
    streams = [(layer.x, False) for layer in known.layers] + [(known.end, True)]
    if layout.mlps:
        last = layout.n_layers - 1
        mids = [(layer.mid, i == last) for i, layer in enumerate(known.layers)]
        pairs = zip(streams, mids, strict=False)  # the logits have none behind them
        streams = [stream for pair in pairs for stream in pair] + streams[-1:]
    close: list[list[Tensor]] = [[] for _ in streams]
    for begins, out, short in _written(states, known):
        for place in range(begins, len(streams)):
            y, at_reads = streams[place]
            x = states.at_reads(out) if at_reads and not short else out
            near = torch.linalg.vector_norm(y, 1, -1) - torch.linalg.vector_norm(y - x, 1, -1)
            close[place].append(near.clamp_min_(0))
    shares = torch.zeros(len(streams), layout.senders, device=known.end.device)
    for place, parts in enumerate(close):
        near = torch.stack(parts)  # [senders before, rows, pos or k]
        total = near.sum(0)
        share = torch.where(total > 0, near / total.clamp_min(torch.finfo(near.dtype).tiny), 0)
        shares[place, : len(near)] = share.mean(-1).sum(-1)
    return shares


def _written(states: States, known: Known) -> Iterator[tuple[int, Tensor, bool]]:
    """Every sender in order: the first stream it is in, what it writes, whether where read only."""
    layout = states.layout
    each = 1 + layout.mlps
    yield 0, states.embed, False
    for layer, found in enumerate(known.layers):
        last = layer == layout.n_layers - 1
        for head in range(layout.n_heads):
            index = torch.tensor([head], device=found.z.device)
            yield each * layer + 1, states.output(layer, index, found.z[index])[0], last
        if found.mlp is not None:
            yield each * (layer + 1), found.mlp, last
