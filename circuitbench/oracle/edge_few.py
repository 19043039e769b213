"""Runs graphs of few edges: what nobody hears is not run, and what is cut is not subtracted.

In a graph of a few hundred edges most heads have no way to the logits. The others hear the stream
that is left when every edge is cut, which is the same for all masks, plus what each kept edge
brings: its sender's output less what stands for it elsewhere. So the work grows with the edges
that are kept, and many masks go through the layers together.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from circuitbench.oracle.edge_states import States


class FewEdges:
    """What the logits hear under masks that keep few edges; exact for any mask.

    Args:
        states: the sequences, and what stands for senders.
    """

    def __init__(self, states: States) -> None:
        self.s, self.layout = states, states.layout
        self._bare = list(self._streams())

    def heard_by_someone(self, masks: np.ndarray) -> np.ndarray:
        """``[n, senders]``: whose output has a way to the logits under masks ``[n, n_edges]``."""
        layout, keep = self.layout, self._keeps(masks)
        needed = keep[:, layout.logits].copy()
        for layer in reversed(range(layout.n_layers)):
            heads, inputs = layout.heads(layer), layout.inputs(layer)
            if layout.mlps:
                needed |= keep[:, layout.mlp(layer)] & needed[:, heads.stop, None]
            hears = np.repeat(needed[:, heads], 3, axis=1)
            needed |= (keep[:, inputs] & hears[:, :, None]).any(1)
        return needed

    def bytes_each(self, needed: np.ndarray) -> int:
        """Memory that a mask takes, ``needed [n, senders]`` being those asked together."""
        layout, who = self.layout, np.asarray(needed.any(0))
        widest = max(int(who[layout.heads(i)].sum()) for i in range(layout.n_layers))
        return 4 * self.s.embed.numel() * (int(who.sum()) + 6 * widest + 4)

    def finals(self, masks: np.ndarray, needed: np.ndarray) -> Tensor:
        """``[n, rows, pos or k, d_model]`` for masks ``[n, n_edges]``.

        Args:
            masks: bool, True = kept.
            needed: of :meth:`heard_by_someone`.
        """
        layout = self.layout
        brought = _Brought(self.s, self._keeps(masks), needed)
        if needed[:, 0].any():
            embed, other = self.s.embed, self.s.ablated
            change = embed if other is None else embed - other.embed
            brought.add(np.array([0]), change[None, None], short=False)
        for layer in range(layout.n_layers):
            self._heads(layer, brought)
            if layout.mlps and needed[:, layout.heads(layer).stop].any():
                self._mlp(layer, brought)
        return brought.heard(np.array([layout.logits]), self._bare[-1], short=True)[:, 0]

    def _keeps(self, masks: np.ndarray) -> np.ndarray:
        """``[n, receivers, senders]``; what is no edge is not kept."""
        keep = np.zeros((len(masks), self.layout.receivers, self.layout.senders), bool)
        receiver, sender = self.layout.pairs
        keep[:, receiver, sender] = masks
        return keep

    def _streams(self) -> Iterator[Tensor]:
        """What is heard when every edge is cut: before each layer, and at the end.

        With MLPs also before each of them. The last layer's MLP and the end are at the read
        positions.
        """
        s, layout, other = self.s, self.layout, self.s.ablated
        x = torch.zeros_like(s.embed) if other is None else other.embed.expand_as(s.embed)
        for layer in range(layout.n_layers):
            yield x
            last = layer == layout.n_layers - 1
            x = s.at_reads(x) if last else x
            bias = s.f.weights.layers[layer].out.bias
            x = x if bias is None else x + bias.float()
            if other is not None:
                everyone = torch.arange(layout.n_heads, device=x.device)
                x = x + s.output(layer, everyone, other.z[layer]).sum(0)
            if layout.mlps:
                yield x
                x = x if other is None else x + other.mlps[layer]
        yield x

    def _is_last(self, layer: int) -> bool:
        return layer == self.layout.n_layers - 1

    def _heads(self, layer: int, brought: _Brought) -> None:
        s, layout = self.s, self.layout
        senders = layout.heads(layer)
        heads = np.flatnonzero(brought.needed[:, senders].any(0))
        if len(heads) == 0:
            return
        which = (3 * heads[:, None] + np.arange(3)).ravel()
        rows = which + layout.inputs(layer).start
        bare = self._bare[layer * (1 + layout.mlps)]
        heard = brought.heard(rows, bare, short=False)
        q, k, v = s.projected(layer, which, heard).unflatten(1, (len(heads), 3)).unbind(2)
        z = s.attention(q, k, v, self._is_last(layer))
        index = torch.from_numpy(heads).to(z.device)
        if s.ablated is not None:
            z = z - s.ablated.z[layer][index]
        out = s.output(layer, index, z)
        brought.add(senders.start + heads, out, short=self._is_last(layer))

    def _mlp(self, layer: int, brought: _Brought) -> None:
        s, layout = self.s, self.layout
        row, last = np.array([layout.mlp(layer)]), self._is_last(layer)
        heard = brought.heard(row, self._bare[2 * layer + 1], short=last)[:, 0]
        flat = heard.flatten(0, 1)
        out = (s.f.add_mlp(layer, flat) - flat).unflatten(0, (len(heard), -1))
        if s.ablated is not None:
            out = out - s.ablated.mlps[layer]
        brought.add(np.array([layout.heads(layer).stop]), out[:, None], short=last)


class _Brought:
    """What senders write less what stands for them, by mask; and what receivers hear of it.

    The last layer's senders are known at the read positions only (*short*).
    """

    def __init__(self, states: States, keep: np.ndarray, needed: np.ndarray) -> None:
        self.s, self.keep, self.needed = states, keep, needed
        self.parts: list[tuple[np.ndarray, Tensor, bool]] = []

    def add(self, senders: np.ndarray, change: Tensor, *, short: bool) -> None:
        """``change [n or 1, senders, rows, pos or k, d_model]``."""
        self.parts.append((senders, change, short))

    def heard(self, rows: np.ndarray, bare: Tensor, *, short: bool) -> Tensor:
        """What receivers hear, ``[n, receivers, rows, pos or k, d_model]``.

        ``bare`` is what they hear without any edge, at as many positions as are wanted.
        """
        n, s = len(self.keep), self.s
        total = bare.expand(n, len(rows), *bare.shape).clone(memory_format=torch.contiguous_format)
        flat = total.flatten(2)
        for senders, change, is_short in self.parts:
            kept = self.keep[:, rows][:, :, senders]
            used = np.flatnonzero(kept.any((0, 1)))
            if len(used) == 0:
                continue
            part = change[:, torch.from_numpy(used).to(change.device)]
            if short and not is_short:
                part = s.at_reads(part)
            weights = torch.from_numpy(kept[:, :, used].astype(np.float32)).to(part.device)
            flat.baddbmm_(weights, part.flatten(2).expand(n, -1, -1))
            s.f.flops += 2.0 * len(rows) * n * part[0].numel()
        return total
