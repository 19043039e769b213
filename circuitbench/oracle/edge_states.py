"""Runs edge masks by what they change: one known run, and of others only what differs from it.

A mask that differs from a known run in what a few receivers hear changes nothing before them. Of
what comes after, only those are run again that hear a changed sender. Masks that differ from the
same run by the same receivers' inputs go through the layers together.

Head outputs are kept as ``z`` (``d_head`` wide) and written out when a receiver does without
them, so memory does not grow with heads times ``d_model``. After the last layer's attention only
the positions that are read are run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuitbench.models.forward import normalize, rotate
from circuitbench.oracle.attention import attention
from circuitbench.oracle.engine.layers import Forward, at_positions


class Layout:
    """Where receivers and senders stand, in the order of :class:`circuitbench.core.edges.Graph`.

    Args:
        n_layers, n_heads: of the model.
        mlps: whether layers have an MLP.
        pairs: ``(receiver, sender)`` of every edge.
    """

    def __init__(
        self, n_layers: int, n_heads: int, mlps: bool, pairs: Sequence[tuple[int, int]]
    ) -> None:
        self.n_layers, self.n_heads, self.mlps = n_layers, n_heads, mlps
        self.receivers = n_layers * (3 * n_heads + mlps) + 1
        self.senders = n_layers * (n_heads + mlps) + 1
        self.logits = self.receivers - 1
        receiver, sender = np.array(pairs).T
        self.pairs = receiver, sender
        self._starts = np.flatnonzero(np.diff(receiver, prepend=-1))

    def inputs(self, layer: int) -> slice:
        """Receivers: queries, keys and values of a layer's heads, head by head."""
        start = layer * (3 * self.n_heads + self.mlps)
        return slice(start, start + 3 * self.n_heads)

    def mlp(self, layer: int) -> int:
        """The receiver that is a layer's MLP."""
        return int(self.inputs(layer).stop)

    def heads(self, layer: int) -> slice:
        """Senders: a layer's heads; its MLP sends after them."""
        start = 1 + layer * (self.n_heads + self.mlps)
        return slice(start, start + self.n_heads)

    def layer_of(self, receiver: int) -> int:
        """The layer a receiver is in; the logits are behind the last."""
        return receiver // (3 * self.n_heads + self.mlps)

    def rows(self, masks: np.ndarray) -> np.ndarray:
        """Masks ``[n, n_edges]`` as ``[n, receivers, senders]``; what is no edge counts as kept."""
        keep = np.ones((len(masks), self.receivers, self.senders), bool)
        keep[:, self.pairs[0], self.pairs[1]] = masks
        return keep

    def changed(self, masks: np.ndarray, other: np.ndarray) -> np.ndarray:
        """``[n, receivers]``: who hears by another rule under a mask than under ``other``."""
        rows = np.logical_or.reduceat(masks != other, self._starts, axis=1)
        return np.asarray(rows)


class Written(NamedTuple):
    """What senders write, or what takes its place.

    Args:
        embed: ``[rows or 1, pos, d_model]``.
        z: per layer ``[n_heads, rows or 1, pos, d_head]``, before the output projection.
        mlps: per layer ``[rows or 1, pos, d_model]``; none in an attention-only model.
    """

    embed: Tensor
    z: list[Tensor]
    mlps: list[Tensor]

    def take(self, rows: slice) -> Written:
        """Of some rows; what is the same for all of them stays as it is."""

        def some(x: Tensor, dim: int) -> Tensor:
            return x if x.shape[dim] == 1 else x[(slice(None),) * dim + (rows,)]

        z, mlps = [some(z, 1) for z in self.z], [some(m, 0) for m in self.mlps]
        return Written(some(self.embed, 0), z, mlps)


class _Layer(NamedTuple):
    """What is known of a layer of a run.

    Args:
        x: stream before it ``[rows, pos, d_model]``.
        heard: what receivers hear instead, where edges to them are cut.
        q, k, v: ``[n_heads, rows, pos, d_head]``.
        z: ``[n_heads, rows, pos or k, d_head]``; the last layer's at the read positions.
        mid: stream before its MLP ``[rows, pos or k, d_model]``.
        mlp: what the MLP writes, or None.
    """

    x: Tensor
    heard: dict[int, Tensor]
    q: Tensor
    k: Tensor
    v: Tensor
    z: Tensor
    mid: Tensor
    mlp: Tensor | None


class Known(NamedTuple):
    """A run under a mask.

    Args:
        mask: ``[n_edges]`` bool.
        keep: the same, ``[receivers, senders]``.
        layers: see :class:`_Layer`.
        end: stream after the last layer ``[rows, pos or k, d_model]``.
        final: what the logits hear of it.
    """

    mask: np.ndarray
    keep: np.ndarray
    layers: tuple[_Layer, ...]
    end: Tensor
    final: Tensor

    def heard(self, layout: Layout, receiver: int) -> Tensor:
        """What a receiver hears."""
        if receiver == layout.logits:
            return self.final
        layer = self.layers[layout.layer_of(receiver)]
        plain = layer.x if receiver < layout.inputs(layout.layer_of(receiver)).stop else layer.mid
        return layer.heard.get(receiver, plain)

    @property
    def bytes(self) -> int:
        """Memory of its tensors, those it shares with other runs counted too."""
        tensors = [self.end, self.final]
        for layer in self.layers:
            tensors += [layer.x, layer.q, layer.k, layer.v, layer.z, layer.mid]
            tensors += [*layer.heard.values(), *([] if layer.mlp is None else [layer.mlp])]
        return sum(t.numel() * t.element_size() for t in tensors)


class States:
    """Some sequences, and how they are run under edge masks.

    Args:
        forward: the layers.
        layout: of the model's edges.
        tokens: ``[rows, pos]``.
        reads: ``[rows, k]`` positions read after the last layer; None reads all of them.
        ablated: what a receiver hears of a sender it does without, at all positions; None is
            zero.
    """

    def __init__(
        self,
        forward: Forward,
        layout: Layout,
        tokens: Tensor,
        reads: Tensor | None,
        ablated: Written | None,
    ) -> None:
        self.f, self.layout, self.tokens, self.reads = forward, layout, tokens, reads
        self.embed = forward.embed(tokens)
        if ablated is not None and reads is not None:  # as in runs, see _Layer
            z, mlps = list(ablated.z), list(ablated.mlps)
            for last in (z, mlps):
                last[-1:] = [self.at_reads(x) for x in last[-1:]]
            ablated = Written(ablated.embed, z, mlps)
        self.ablated = ablated

    def written(self) -> tuple[Written, Tensor]:
        """What the intact model's senders write at all positions, and its final stream."""
        f, x = self.f, self.embed
        found = Written(x, [], [])
        for layer in range(f.n_layers):
            z = f.heads(layer, x)
            found.z.append(z.permute(2, 0, 1, 3))
            x = f.add_attention(layer, x, z)
            if self.layout.mlps:
                after = f.add_mlp(layer, x)
                found.mlps.append(after - x)
                x = after
        return found, self.at_reads(x)

    def run(self, mask: np.ndarray, like: Known | None = None) -> Known:
        """The model under a mask ``[n_edges]``; layers that agree with ``like`` are taken over."""
        layout = self.layout
        keep = layout.rows(mask[None])[0]
        first = 0
        if like is not None:
            differs = np.flatnonzero((keep != like.keep).any(1))
            if len(differs) == 0:
                return like
            first = layout.layer_of(int(differs[0]))
        layers = [] if like is None else list(like.layers[:first])
        if like is None or first == 0:
            x = self.embed
        else:
            x = like.end if first == layout.n_layers else like.layers[first].x
        written = Written(
            self.embed,
            [s.z for s in layers],
            [s.mlp for s in layers if s.mlp is not None],
        )
        for layer in range(first, layout.n_layers):
            layers.append(self._layer(layer, x, keep, written))
            x = layers[-1].mid
            mlp = layers[-1].mlp
            x = x if mlp is None else x + mlp
        missing = self._missing(written, (~keep[layout.logits]).astype(np.float32), True)
        return Known(mask, keep, tuple(layers), x, x if missing is None else x + missing)

    def finals(self, known: Known, masks: np.ndarray, changed: np.ndarray) -> Tensor:
        """What the logits hear under masks, ``[n, rows, pos or k, d_model]``.

        Args:
            known: a run that the masks' runs differ little from.
            masks: ``[n, n_edges]``.
            changed: ``[n, receivers]``, by :meth:`Layout.changed` from ``known``.
        """
        if not changed.any():
            return known.final.expand(len(masks), *known.final.shape)
        return _Different(self, known, self.layout.rows(masks), changed).run()

    def at_reads(self, x: Tensor) -> Tensor:
        """``[..., rows, pos, d]`` at the read positions, ``[..., rows, k, d]``."""
        if self.reads is None:
            return x
        rows = torch.arange(len(self.reads), device=x.device)[:, None]
        if x.shape[-3] == 1:
            x = x.expand(*x.shape[:-3], len(self.reads), *x.shape[-2:])
        return x[..., rows, self.reads, :]

    def _is_last(self, layer: int) -> bool:
        return layer == self.layout.n_layers - 1

    def _layer(self, layer: int, x: Tensor, keep: np.ndarray, written: Written) -> _Layer:
        """A layer under ``keep [receivers, senders]``; what it writes is added to ``written``."""
        f, layout = self.f, self.layout
        inputs, last = layout.inputs(layer), self._is_last(layer)
        cut = ~keep
        which = np.flatnonzero(cut[inputs].any(1))
        heard: dict[int, Tensor] = {}
        q, k, v = self._fused(layer, x)
        missing = self._missing(written, cut[inputs][which].astype(np.float32), False)
        if missing is not None:
            missing += x
            heard = {inputs.start + int(r): h for r, h in zip(which, missing, strict=True)}
            own = self.projected(layer, which, missing)
            for letter, whole in enumerate((q, k, v)):
                mine = which % 3 == letter
                whole[_index(which[mine] // 3, x)] = own[_index(np.flatnonzero(mine), x)]
        z = self.attention(q, k, v, last)
        before = self.at_reads(x) if last else x
        mid = f.add_attention(layer, before, z.permute(1, 2, 0, 3))
        written.z.append(z)
        mlp = None
        if layout.mlps:
            row, hears = layout.mlp(layer), mid
            missing = self._missing(written, cut[row].astype(np.float32), last)
            if missing is not None:
                heard[row] = hears = mid + missing
            mlp = f.add_mlp(layer, hears) - hears
            written.mlps.append(mlp)
        return _Layer(x, heard, q, k, v, z, mid, mlp)

    def _missing(self, written: Written, weights: np.ndarray, at_reads: bool) -> Tensor | None:
        """What senders' replacements change, ``[..., rows, pos or k, d_model]``; None is nothing.

        The sum over senders of ``weights [..., senders]`` times the replacement minus what is
        written.
        """
        flat, total = weights.reshape(-1, weights.shape[-1]), None
        used = np.flatnonzero(flat.any(0))
        if len(used) == 0:
            return None
        for senders, change in self._replaced(written, used, at_reads):
            share = torch.from_numpy(np.ascontiguousarray(flat[:, senders])).to(change.device)
            part = share @ change.flatten(1)
            self.f.flops += 2.0 * share.shape[0] * change.numel()
            total = part if total is None else total.add_(part)
        assert total is not None  # some sender is used
        return total.view(*weights.shape[:-1], *change.shape[1:])

    def _replaced(
        self, written: Written, used: np.ndarray, at_reads: bool
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Senders, and their replacements minus what they write, ``[senders, rows, pos, d]``."""
        layout, other = self.layout, self.ablated

        def change(x: Tensor, replacement: Tensor | None, short: bool = False) -> Tensor:
            if at_reads and not short:
                x = self.at_reads(x)
                replacement = None if replacement is None else self.at_reads(replacement)
            return -x if replacement is None else replacement - x

        if used[0] == 0:
            embed = change(written.embed, None if other is None else other.embed)
            yield used[:1], embed[None]
        for layer, z in enumerate(written.z):
            mine, last = layout.heads(layer), self._is_last(layer)
            heads = used[(used >= mine.start) & (used < mine.stop)] - mine.start
            if len(heads):
                index = _index(heads, z)
                z = change(z[index], None if other is None else other.z[layer][index], last)
                yield heads + mine.start, self.output(layer, index, z)
            if layer < len(written.mlps) and mine.stop in used:
                mlp = written.mlps[layer]
                mlp = change(mlp, None if other is None else other.mlps[layer], last)
                yield np.array([mine.stop]), mlp[None]

    def output(self, layer: int, heads: Tensor, z: Tensor) -> Tensor:
        """What heads write, ``[..., heads, rows, pos, d_head]`` to ``[..., d_model]``."""
        cfg, out = self.f.config, self.f.weights.layers[layer].out
        weight = out.weight.float().T.unflatten(0, (cfg.n_heads, cfg.d_head))[heads]
        self.f.flops += 2.0 * z.numel() * cfg.d_model
        written: Tensor = torch.matmul(z.flatten(-3, -2), weight).unflatten(-2, z.shape[-3:-1])
        return written

    def _fused(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of heads that all hear ``x [rows, pos, d_model]``."""
        cfg, qkv = self.f.config, self.f.weights.layers[layer].qkv
        out = qkv(normalize(x, cfg.normalization, cfg.norm_eps)).float()
        self.f.flops += x.shape[0] * x.shape[1] * qkv.flops
        sizes = [n * cfg.d_head for n in (cfg.n_heads, cfg.n_kv_heads, cfg.n_kv_heads)]
        q, k, v = (
            part.unflatten(-1, (-1, cfg.d_head)).permute(2, 0, 1, 3).contiguous()
            for part in out.split(sizes, -1)
        )
        if cfg.positions == "rotary":
            angles = self.f.angles(x.shape[1])
            q, k = rotate(q, *angles), rotate(k, *angles)
        k, v = (t.repeat_interleave(cfg.n_heads // cfg.n_kv_heads, 0) for t in (k, v))
        return q, k, v

    def projected(self, layer: int, which: np.ndarray, heard: Tensor) -> Tensor:
        """The query, key or value of some of a layer's inputs, each by what it hears.

        Args:
            layer: which.
            which: ``[n]``, places among the layer's inputs.
            heard: ``[..., n, rows, pos, d_model]``.

        Returns:
            ``[..., n, rows, pos, d_head]``.
        """
        cfg, qkv = self.f.config, self.f.weights.layers[layer].qkv
        head, letter = which // 3, which % 3
        shared = cfg.n_heads // cfg.n_kv_heads
        row = np.where(
            letter == 0, head, cfg.n_heads + (letter == 2) * cfg.n_kv_heads + head // shared
        )
        index = _index(row, heard)
        assert qkv.bias is not None
        weight = qkv.weight.float().unflatten(0, (-1, cfg.d_head))[index].transpose(1, 2)
        bias = qkv.bias.float().unflatten(0, (-1, cfg.d_head))[index][:, None]
        n = normalize(heard, cfg.normalization, cfg.norm_eps)
        out: Tensor = (torch.matmul(n.flatten(-3, -2), weight) + bias).unflatten(-2, n.shape[-3:-1])
        self.f.flops += 2.0 * heard.numel() * cfg.d_head
        if cfg.positions == "rotary" and (letter < 2).any():
            turned = _index(np.flatnonzero(letter < 2), heard)
            angles = self.f.angles(out.shape[-2])
            out[..., turned, :, :, :] = rotate(out[..., turned, :, :, :], *angles)
        return out

    def attention(self, q: Tensor, k: Tensor, v: Tensor, last: bool) -> Tensor:
        """``z`` of queries, keys and values ``[..., rows, pos, d_head]``."""
        allowed = None
        if last and self.reads is not None:
            positions = torch.arange(q.shape[-2], device=q.device)
            q = self.at_reads(q)
            allowed = positions <= self.reads[..., None]
        self.f.flops += 4.0 * q.numel() * k.shape[-2]
        if allowed is not None:
            scores = (q @ k.transpose(-1, -2)).masked_fill(~allowed, -torch.inf)
            z: Tensor = scores.softmax(-1) @ v
            return z
        shape, flat = q.shape, (-1, *q.shape[-3:])
        return attention(q.reshape(flat), k.reshape(flat), v.reshape(flat), None).view(shape)


class _Different:
    """Masks on their way through the layers from the first one that differs from a known run.

    ``x [n, rows, pos or k, d_model]`` is the stream under the masks (None while it is the known
    one), ``moved [n, senders]`` says who writes something else than there, and ``kept`` has by
    how much, of those that a later receiver does without.
    """

    def __init__(
        self, states: States, known: Known, keeps: np.ndarray, changed: np.ndarray
    ) -> None:
        self.s, self.known, self.keeps, self.changed = states, known, keeps, changed
        self.cut = ~keeps
        self.someone_lacks: NDArray[np.bool_] = np.asarray(self.cut.any((0, 1)))
        self.moved = np.zeros((len(keeps), states.layout.senders), bool)
        self.kept: list[tuple[np.ndarray, Tensor, bool]] = []  # the last: at the read positions?
        self.x: Tensor | None = None
        self.known_written = Written(
            states.embed,
            [layer.z for layer in known.layers],
            [layer.mlp for layer in known.layers if layer.mlp is not None],
        )

    def run(self) -> Tensor:
        """What the logits hear."""
        layout = self.s.layout
        first = layout.layer_of(int(np.flatnonzero(self.changed.any(0))[0]))
        for layer in range(first, layout.n_layers):
            self._heads(layer)
            if layout.mlps:
                self._mlp(layer)
        row = np.array([layout.logits])
        if not self._hears(row).any():
            return self.known.final.expand(len(self.keeps), *self.known.final.shape)
        if self._plain(row) and self.x is not None:
            return self.x
        return self._heard(row, self.known.end, at_reads=True)[:, 0]

    def _hears(self, rows: np.ndarray | slice) -> NDArray[np.bool_]:
        """``[n, len(rows)]``: who hears something else than in the known run."""
        through = (self.keeps[:, rows] & self.moved[:, None]).any(-1)
        return np.asarray(self.changed[:, rows] | through, bool)

    def _plain(self, rows: np.ndarray | slice) -> bool:
        """Whether they all hear the stream as it is, here and in the known run."""
        return not (self.cut[:, rows].any() or (~self.known.keep[rows]).any())

    def _heard(self, rows: np.ndarray, known_x: Tensor, at_reads: bool) -> Tensor:
        """What receivers hear under each mask, ``[n, receivers, rows, pos or k, d_model]``.

        What they hear in the known run, plus what the mask changes of it, plus what the stream
        has gained, less the gains of senders they do without.
        """
        s, known = self.s, self.known
        before = torch.stack([known.heard(s.layout, int(r)) for r in rows])
        heard = before.expand(len(self.keeps), *before.shape)
        switched = known.keep[rows].astype(np.float32) - self.keeps[:, rows]
        missing = s._missing(self.known_written, switched, at_reads)
        if missing is not None:
            heard = missing.add_(heard)
        if self.x is None:
            return heard
        heard = heard + (self.x - known_x)[:, None]
        for senders, gain, short in self.kept:
            lacks = self.cut[:, rows][:, :, senders] & self.moved[:, None, senders]
            if lacks.any():
                gain = s.at_reads(gain) if at_reads and not short else gain
                weights = torch.from_numpy(lacks.astype(np.float32)).to(gain.device)
                heard.flatten(2).baddbmm_(weights, gain.flatten(2), alpha=-1)
                s.f.flops += 2.0 * lacks.shape[1] * gain.numel()
        return heard

    def _heads(self, layer: int) -> None:
        """From before a layer's attention to after it."""
        s, f, layout, known = self.s, self.s.f, self.s.layout, self.known.layers[layer]
        inputs, senders, last = layout.inputs(layer), layout.heads(layer), self.s._is_last(layer)
        hears = self._hears(inputs)
        which = np.flatnonzero(hears.any(0))
        known_x = s.at_reads(known.x) if last else known.x
        n = len(self.keeps)
        if self.x is not None and len(which) == hears.shape[1] and self._plain(inputs):
            reads = s.reads.repeat(n, 1) if last and s.reads is not None else None
            z = f.heads(layer, self.x.flatten(0, 1), reads)
            x = self.x.flatten(0, 1)
            x = x if reads is None else at_positions(x, reads)
            self.x = f.add_attention(layer, x, z).unflatten(0, (n, -1))
            heads = np.arange(layout.n_heads)
            gain = None
            if self.someone_lacks[senders].any():
                gain = z.unflatten(0, (n, -1)).permute(0, 3, 1, 2, 4) - known.z
        else:
            if self.x is not None:
                after = s.at_reads(self.x) if last else self.x
                after = after + (known.mid - known_x)
            else:
                after = known.mid
            if len(which) == 0:
                self.x = None if self.x is None else after
                return
            heads = np.unique(which // 3)
            gain = self._some_heads(layer, which, heads)
            index = _index(heads, gain)
            self.x = after + self._summed(layer, index, gain)
        self.moved[:, senders] = hears.reshape(n, -1, 3).any(-1)
        lacked = self.someone_lacks[senders][heads]
        if gain is not None and lacked.any():
            places = _index(np.flatnonzero(lacked), gain)
            out = s.output(layer, _index(heads[lacked], gain), gain[:, places])
            self.kept.append((heads[lacked] + senders.start, out, last))

    def _some_heads(self, layer: int, which: np.ndarray, heads: np.ndarray) -> Tensor:
        """By how much ``z`` of some heads changes, ``[n, heads, rows, pos or k, d_head]``."""
        s, known = self.s, self.known.layers[layer]
        rows = which + s.layout.inputs(layer).start
        own = s.projected(layer, which, self._heard(rows, known.x, at_reads=False))
        index = _index(heads, own)

        def mixed(letter: int, whole: Tensor) -> Tensor:
            part = whole[index].expand(len(self.keeps), -1, -1, -1, -1)
            mine = which % 3 == letter
            if not mine.any():
                return part
            new = own[:, _index(np.flatnonzero(mine), own)]
            if mine.sum() == len(heads):
                return new
            part = part.clone()
            part[:, _index(np.searchsorted(heads, which[mine] // 3), own)] = new
            return part

        q, k, v = mixed(0, known.q), mixed(1, known.k), mixed(2, known.v)
        return s.attention(q, k, v, s._is_last(layer)) - known.z[index]

    def _summed(self, layer: int, heads: Tensor, z: Tensor) -> Tensor:
        """What some heads write together, ``[n, heads, rows, pos, d_head]`` to ``d_model``."""
        f, cfg = self.s.f, self.s.f.config
        weight = f.weights.layers[layer].out.weight.float().T.unflatten(0, (-1, cfg.d_head))[heads]
        f.flops += 2.0 * z.numel() * cfg.d_model
        total: Tensor = z.permute(0, 2, 3, 1, 4).flatten(-2) @ weight.flatten(0, 1)
        return total

    def _mlp(self, layer: int) -> None:
        """From before a layer's MLP to after it."""
        s, f, known = self.s, self.s.f, self.known.layers[layer]
        assert known.mlp is not None
        receiver, sender = s.layout.mlp(layer), s.layout.heads(layer).stop
        row, last = np.array([receiver]), s._is_last(layer)
        hears = self._hears(row)
        if not hears.any():
            self.x = None if self.x is None else self.x + known.mlp
            return
        n, plain = len(self.keeps), self._plain(row) and self.x is not None
        x = known.mid if self.x is None else self.x
        heard = x if plain else self._heard(row, known.mid, at_reads=last)[:, 0]
        flat = heard.flatten(0, 1)
        after = f.add_mlp(layer, flat).unflatten(0, (n, -1))
        lacked = self.someone_lacks[sender]
        if plain and not lacked:
            self.x = after
        else:
            out = after - heard
            self.x = x + out
            if lacked:
                self.kept.append((np.array([sender]), (out - known.mlp)[:, None], last))
        self.moved[:, sender] = hears[:, 0]


def _index(places: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(places)).to(like.device)
