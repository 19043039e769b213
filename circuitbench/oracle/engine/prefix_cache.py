"""Which layers must be run for which mask: shared prefixes, cached states, bounded memory.

The residual stream before layer ``l`` depends only on the mask's bits below ``l``. Masks that
agree there share one state, so a set of masks is a tree: attention runs once per node, the
output projection and the MLP once per branch. A byte-budgeted cache keeps states between
questions, so that sweeps, greedy removal and episodes all start at the first layer not known yet.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from circuitbench.oracle.engine.layers import Forward, at_positions
from circuitbench.oracle.engine.limits import halving, state_bytes

_serial = itertools.count()
_SPARSE = 0.5  # share of heads kept under which pruning beats batching on a CPU
_SPARSE_TOKENS = 512
_PRUNE_BELOW = 0.8  # share of heads needed under which only those are computed


# (serial number of the stream, its rows or None for all, serial number of the swap or None)
RunKey = tuple[int, tuple[int, ...] | None, int | None]
# (run, layer, the mask's bits below it)
StateKey = tuple[RunKey, int, bytes]


@dataclass(eq=False)
class Stream:
    """Sequences that are run together.

    Args:
        tokens: ``[rows, pos]`` long, on the engine's device.
        reads: ``[rows, k]`` positions read after the last layer; None reads all of them.
    """

    tokens: Tensor
    reads: Tensor | None = None
    serial: int = field(default_factory=lambda: next(_serial))


@dataclass(eq=False)
class Swap:
    """What takes the place of an ablated head's output: one ``z [rows or 1, pos, n_heads,
    d_head]`` per layer (the last layer's at the read positions only)."""

    z: Sequence[Tensor]
    serial: int = field(default_factory=lambda: next(_serial))

    def rows(self, layer: int, rows: Tensor | None) -> Tensor:
        """The replacement at ``layer`` for some of the stream's rows."""
        z = self.z[layer]
        return z if rows is None or z.shape[0] == 1 else z[rows]


@dataclass(eq=False)
class Run:
    """A stream, or some rows of it, together with what replaces ablated heads (None: zero)."""

    stream: Stream
    rows: Tensor | None = None
    swap: Swap | None = None

    @cached_property
    def key(self) -> RunKey:
        """Equal for runs whose states are equal under equal masks."""
        rows = None if self.rows is None else tuple(self.rows.tolist())
        return self.stream.serial, rows, None if self.swap is None else self.swap.serial

    @property
    def n_rows(self) -> int:
        """How many sequences."""
        return len(self.stream.tokens if self.rows is None else self.rows)

    @property
    def tokens(self) -> Tensor:
        """``[rows, pos]``."""
        return self.stream.tokens if self.rows is None else self.stream.tokens[self.rows]

    @property
    def reads(self) -> Tensor | None:
        """``[rows, k]`` or None."""
        reads = self.stream.reads
        return reads if reads is None or self.rows is None else reads[self.rows]


class State(NamedTuple):
    """What is known before a layer.

    Args:
        x: residual stream ``[rows, pos, d_model]``.
        z: the layer's head outputs, of the heads ``only`` (ascending indices; None: all).
    """

    x: Tensor
    z: Tensor
    only: np.ndarray | None

    def serves(self, keep: np.ndarray) -> bool:
        """Whether all heads that ``keep [n_heads]`` leaves on are here."""
        return self.only is None or bool(np.isin(np.flatnonzero(keep), self.only).all())

    def aligned(self, only: Tensor | None, n_heads: int) -> Tensor:
        """``z`` of the heads ``only``; zero where it is not known (and not needed)."""
        z = self.z
        if self.only is not None:
            z = z.new_zeros(*z.shape[:2], n_heads, z.shape[3])
            z[:, :, torch.from_numpy(self.only)] = self.z
        return z if only is None else z[:, :, only]


class StateCache:
    """Least recently used states, never more than ``limit`` bytes.

    ``dead`` collects sets of stream serials nobody can ask about any more (the garbage
    collector appends to it at any moment, so they are dropped at the next :meth:`put`).
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.dead: list[set[int]] = []
        self.bytes = 0
        self._states: OrderedDict[StateKey, State] = OrderedDict()

    def get(self, key: StateKey) -> State | None:
        """The state, or None; counts as a use."""
        state = self._states.get(key)
        if state is not None:
            self._states.move_to_end(key)
        return state

    def put(self, key: StateKey, state: State) -> None:
        """Keep a state, dropping the least recently used ones to make room."""
        self.forget_dead()
        old = self._states.pop(key, None)
        self.bytes -= 0 if old is None else _bytes(old)
        size = _bytes(state)
        if size > self.limit:
            return
        while self.bytes + size > self.limit:
            _, dropped = self._states.popitem(last=False)
            self.bytes -= _bytes(dropped)
        self._states[key] = state
        self.bytes += size

    def forget_dead(self) -> None:
        """Drop all states of the streams in ``dead``."""
        while self.dead:
            streams = self.dead.pop()
            for key in [key for key in self._states if key[0][0] in streams]:
                self.bytes -= _bytes(self._states.pop(key))

    def clear(self) -> None:
        """Forget everything."""
        self._states.clear()
        self.bytes = 0


def _bytes(state: State) -> int:
    return sum(t.numel() * t.element_size() for t in (state.x, state.z))


class Runner:
    """Runs masked forward passes with all sharing the cache allows.

    Args:
        forward: the layers.
        cache_bytes: memory for states kept between calls.
        chunk_tokens: positions run at once; bounds the working memory whatever is asked.
    """

    def __init__(self, forward: Forward, cache_bytes: int, chunk_tokens: int) -> None:
        self.forward = forward
        self.cache = StateCache(cache_bytes)
        self.chunk_tokens = chunk_tokens

    def finals(
        self,
        runs: Sequence[Run],
        keeps: np.ndarray,
        read: Callable[[list[int], Tensor], None],
    ) -> None:
        """Run all masks, a chunk at a time; chunks shrink when memory does not suffice.

        Args:
            runs: one per mask; all of the same number of rows, positions and reads.
            keeps: ``[n_masks, n_layers, n_heads]`` bool.
            read: takes the indices of some masks and their final residual streams
                ``[len(indices) * rows, pos or k, d_model]``, before the final norm. It may be
                called again for the same masks if it runs out of memory itself.
        """
        size = runs[0].n_rows * runs[0].stream.tokens.shape[1]
        first = np.where(keeps.all(-1), keeps.shape[1], np.arange(keeps.shape[1])).min(-1)
        # Masks that branch off late share the longest prefixes: keep neighbours together.
        order = sorted(range(len(runs)), key=lambda i: (first[i], keeps[i].tobytes()))
        remember = self._remember(runs, keeps)

        def run(at_once: int) -> int:
            index = order[start : start + at_once]
            chunk = _Chunk(
                self.forward, self.cache, [runs[i] for i in index], keeps[index], remember
            )
            read(index, chunk.run())
            return len(index)

        tokens = self.chunk_tokens
        if self.forward.device.type == "cpu" and keeps.mean() < _SPARSE:
            tokens = min(tokens, _SPARSE_TOKENS)  # masks of a chunk only prune what none needs
        start, at_once = 0, max(1, tokens // size)
        while start < len(order):
            done, enough = halving(run, min(at_once, len(order) - start), self.recover)
            if enough < min(at_once, len(order) - start):
                at_once, self.chunk_tokens = enough, enough * size
            start += done

    def recover(self) -> None:
        """Give memory back after running out of it."""
        self.cache.clear()
        if self.forward.device.type == "cuda":
            torch.cuda.empty_cache()

    def _remember(self, runs: Sequence[Run], keeps: np.ndarray) -> bool:
        """Whether this question's own states fit the cache without washing out the rest."""
        size = runs[0].tokens.numel() * state_bytes(self.forward.config)
        return size * len(runs) <= self.cache.limit // 3


class _Chunk:
    """Masks on their way through the layers; equal prefixes of equal runs are one state.

    ``x`` holds the dirty states before the current layer, one block of rows each; ``blocks``
    says which block a state key has, ``owner`` which mask (of possibly many) a block is of.
    """

    def __init__(
        self,
        forward: Forward,
        cache: StateCache,
        runs: list[Run],
        keeps: np.ndarray,
        remember: bool,
    ) -> None:
        self.forward, self.cache, self.runs = forward, cache, runs
        self.keeps, self.remember = keeps, remember
        self.rows = runs[0].n_rows
        self.last = keeps.shape[1] - 1
        self.keys: list[list[StateKey]] = [
            [(run.key, layer, keep[:layer].tobytes()) for layer in range(self.last + 2)]
            for run, keep in zip(runs, keeps, strict=True)
        ]
        self.begins = [self._deepest(keys) for keys in self.keys]
        self.blocks: dict[StateKey, int] = {}
        self.owner: list[int] = []
        self.x: Tensor | None = None

    def _deepest(self, keys: list[StateKey]) -> int:
        """The deepest layer whose input is in the cache; 0 if there is none."""
        for layer in range(self.last, 0, -1):
            if self.cache.get(keys[layer]) is not None:
                return layer
        return 0

    def run(self) -> Tensor:
        """The states after the last layer, one block per mask."""
        for layer in range(min(self.begins), self.last + 1):
            x, z, only = self._enter(layer)
            self.x = self._branch(layer, x, z, only)
        assert self.x is not None  # the loop runs at least once: begins are at most the last layer
        return _take(self.x, [self.blocks[keys[-1]] for keys in self.keys], self.rows)

    def _enter(self, layer: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """All distinct states before ``layer``, their head outputs, and which heads those are."""
        plain = [] if self.x is None else [self.x]
        known: dict[StateKey, tuple[int, State]] = {}
        for i, begin in enumerate(self.begins):
            key = self.keys[i][layer]
            if begin != layer or key in self.blocks or key in known:
                continue
            state = self.cache.get(key)
            if state is None:
                self._add(key, i)
                plain.append(self.forward.embed(self.runs[i].tokens))
            elif all(
                state.serves(self.keeps[j, layer])
                for j, keys in enumerate(self.keys)
                if keys[layer] == key
            ):
                known[key] = i, state
            else:
                self._add(key, i)
                plain.append(state.x)
        pruned = bool(plain) or any(state.only is not None for _, state in known.values())
        only = self._needed(layer) if pruned else None
        n_heads = self.keeps.shape[2]
        parts = [(state.x, state.aligned(only, n_heads)) for _, state in known.values()]
        if plain:
            x = plain[0] if len(plain) == 1 else torch.cat(plain)
            reads = self._reads(self.owner) if layer == self.last else None
            z = self.forward.heads(layer, x, reads, only)
            self._store(layer, x, z, only)
            parts.insert(0, (x, z))
        for key, (i, _) in known.items():
            self._add(key, i)
        if len(parts) == 1:
            return *parts[0], only
        return torch.cat([x for x, _ in parts]), torch.cat([z for _, z in parts]), only

    def _branch(self, layer: int, x: Tensor, z: Tensor, only: Tensor | None) -> Tensor:
        """All distinct states after ``layer``."""
        parents: list[int] = []
        children: dict[StateKey, int] = {}
        owner: list[int] = []
        for i, begin in enumerate(self.begins):
            child = self.keys[i][layer + 1]
            if begin <= layer and child not in children:
                children[child] = len(owner)
                parents.append(self.blocks[self.keys[i][layer]])
                owner.append(i)
        x, z = _take(x, parents, self.rows), _take(z, parents, self.rows)
        reads = self._reads(owner) if layer == self.last else None
        x = x if reads is None else at_positions(x, reads)
        keep = torch.from_numpy(self.keeps[owner, layer]).to(x.device)
        keep = keep if only is None else keep[:, only]
        if not self.keeps[owner, layer].all():
            z = self._ablated(layer, z, keep, owner)
        self.blocks, self.owner = children, owner
        return self.forward.write(layer, x, z, only)

    def _add(self, key: StateKey, i: int) -> None:
        self.blocks[key] = len(self.owner)
        self.owner.append(i)

    def _stored(self, layer: int, i: int) -> bool:
        return self.remember or bool(self.keeps[i, :layer].all())

    def _store(self, layer: int, x: Tensor, z: Tensor, only: Tensor | None) -> None:
        which = None if only is None else only.cpu().numpy()
        for block, i in enumerate(self.owner):
            if self._stored(layer, i):
                part = slice(block * self.rows, (block + 1) * self.rows)
                own = (x, z) if len(x) == self.rows else (x[part].clone(), z[part].clone())
                self.cache.put(self.keys[i][layer], State(*own, which))

    def _needed(self, layer: int) -> Tensor | None:
        """The heads that any state going through ``layer`` keeps; None for (nearly) all."""
        cfg = self.forward.config
        here = [i for i, begin in enumerate(self.begins) if begin <= layer]
        if (
            cfg.n_kv_heads != cfg.n_heads
            or cfg.qk_norm == "all"  # every head's norm takes all of them
            or any(self.runs[i].swap is not None for i in here)
            or any(self.keeps[i, :layer].all() for i in self.owner)
        ):
            return None
        kept = np.flatnonzero(self.keeps[here, layer].any(0))
        if len(kept) > _PRUNE_BELOW * cfg.n_heads:
            return None
        return torch.from_numpy(kept).to(self.forward.device)

    def _reads(self, owner: list[int]) -> Tensor | None:
        reads = [self.runs[i].reads for i in owner]
        if reads[0] is None:
            return None
        return torch.cat([r for r in reads if r is not None])

    def _ablated(self, layer: int, z: Tensor, keep: Tensor, owner: list[int]) -> Tensor:
        """``z`` with the masked-out heads replaced; ``keep [blocks, heads]`` bool."""
        keep = keep.repeat_interleave(self.rows, 0)[:, None, :, None]
        runs = [self.runs[i] for i in owner]
        if all(run.swap is None for run in runs):
            return z * keep.to(z.dtype)
        zero = z.new_zeros(self.rows, *z.shape[1:])
        swaps = [
            zero if run.swap is None else run.swap.rows(layer, run.rows).expand_as(zero)
            for run in runs
        ]
        return torch.where(keep, z, torch.cat(swaps))


def _take(x: Tensor, order: list[int], rows: int) -> Tensor:
    """Row blocks of ``x`` in the given order, without copying where the order is the identity."""
    if order == list(range(len(x) // rows)):
        return x
    index = torch.tensor(order, device=x.device)
    blocks: Tensor = x.unflatten(0, (-1, rows))
    return blocks[index].flatten(0, 1)
