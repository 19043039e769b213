"""Which layers must be run for which mask: shared prefixes, cached states, bounded memory.

The residual stream before layer ``l`` depends only on the mask's bits below ``l``. Masks that
agree there share one state, so a set of masks is a tree: attention runs once per node, the
output projection and the MLP once per branch. A byte-budgeted cache keeps states between
questions, so that sweeps, greedy removal and episodes all start where nothing is known yet.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from circuitbench.oracle.forward import Forward, at_positions

_serial = itertools.count()


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

    @property
    def key(self) -> Hashable:
        """Equal for runs whose states are equal under equal masks."""
        rows = None if self.rows is None else tuple(self.rows.tolist())
        return self.stream.serial, rows, None if self.swap is None else self.swap.serial

    @property
    def tokens(self) -> Tensor:
        """``[rows, pos]``."""
        return self.stream.tokens if self.rows is None else self.stream.tokens[self.rows]

    @property
    def reads(self) -> Tensor | None:
        """``[rows, k]`` or None."""
        reads = self.stream.reads
        return reads if reads is None or self.rows is None else reads[self.rows]


class StateCache:
    """Least recently used states ``(x, z or None)``, never more than ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._states: OrderedDict[Hashable, tuple[Tensor, Tensor | None]] = OrderedDict()

    def get(self, key: Hashable) -> tuple[Tensor, Tensor | None] | None:
        """The state, or None; counts as a use."""
        state = self._states.get(key)
        if state is not None:
            self._states.move_to_end(key)
        return state

    def put(self, key: Hashable, x: Tensor, z: Tensor | None) -> None:
        """Keep a state, dropping the least recently used ones to make room."""
        old = self._states.pop(key, None)
        self.bytes -= 0 if old is None else _bytes(*old)
        size = _bytes(x, z)
        if size > self.limit:
            return
        while self.bytes + size > self.limit:
            _, dropped = self._states.popitem(last=False)
            self.bytes -= _bytes(*dropped)
        self._states[key] = (x, z)
        self.bytes += size

    def clear(self) -> None:
        """Forget everything."""
        self._states.clear()
        self.bytes = 0


def _bytes(*tensors: Tensor | None) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


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

    def finals(self, runs: Sequence[Run], keeps: np.ndarray) -> Iterator[tuple[list[int], Tensor]]:
        """Final residual streams, a chunk at a time.

        Args:
            runs: one per mask; all of the same number of rows, positions and reads.
            keeps: ``[n_masks, n_layers, n_heads]`` bool.

        Yields:
            indices of masks, and ``[len(indices) * rows, pos or k, d_model]`` before the final
            norm.
        """
        rows, pos = runs[0].tokens.shape
        at_once = max(1, self.chunk_tokens // (rows * pos))
        first = np.where(keeps.all(-1), keeps.shape[1], np.arange(keeps.shape[1])).min(-1)
        # Masks that branch off late share the longest prefixes: keep neighbours together.
        order = sorted(range(len(runs)), key=lambda i: (first[i], keeps[i].tobytes()))
        remember = self._remember(runs, keeps)
        for start in range(0, len(order), at_once):
            index = order[start : start + at_once]
            yield index, self._chunk([runs[i] for i in index], keeps[index], remember)

    def _remember(self, runs: Sequence[Run], keeps: np.ndarray) -> bool:
        """Whether this question's own states fit the cache without washing out the rest."""
        cfg = self.forward.config
        per_position = cfg.d_model + cfg.n_heads * cfg.d_head
        size = 4 * runs[0].tokens.numel() * per_position * cfg.n_layers
        return size * len(runs) <= self.cache.limit // 2

    def _chunk(self, runs: list[Run], keeps: np.ndarray, remember: bool) -> Tensor:
        n_layers = keeps.shape[1]
        rows = runs[0].tokens.shape[0]
        run_keys = [run.key for run in runs]
        keys: list[list[Hashable]] = [
            [(key, layer, keep[:layer].tobytes()) for layer in range(n_layers + 1)]
            for key, keep in zip(run_keys, keeps, strict=True)
        ]
        begins = [self._deepest(k) for k in keys]
        state_of: dict[Hashable, int] = {}  # state key at this layer -> row block of x
        owner: list[int] = []  # row block -> an item whose run it belongs to
        x: Tensor | None = None
        for layer in range(min(begins), n_layers):
            x, z = self._enter(layer, runs, keys, begins, state_of, owner, x, keeps, remember)
            x = self._branch(layer, runs, keys, begins, state_of, owner, x, z, keeps)
        assert x is not None
        order = [state_of[k[n_layers]] for k in keys]
        return _blocks(x, order, rows)

    def _deepest(self, keys: list[Hashable]) -> int:
        for layer in range(len(keys) - 2, 0, -1):
            if self.cache.get(keys[layer]) is not None:
                return layer
        return 0

    def _enter(
        self,
        layer: int,
        runs: list[Run],
        keys: list[list[Hashable]],
        begins: list[int],
        state_of: dict[Hashable, int],
        owner: list[int],
        x: Tensor | None,
        keeps: np.ndarray,
        remember: bool,
    ) -> tuple[Tensor, Tensor]:
        """All distinct states before ``layer`` and their head outputs."""
        f = self.forward
        last = layer == keeps.shape[1] - 1
        plain: list[Tensor] = [] if x is None else [x]
        cached: list[tuple[Hashable, int, Tensor, Tensor]] = []
        for i, begin in enumerate(begins):
            key = keys[i][layer]
            if begin != layer or key in state_of or any(key == c[0] for c in cached):
                continue
            found = self.cache.get(key)
            if found is not None and found[1] is not None:
                cached.append((key, i, found[0], found[1]))
                continue
            state_of[key] = len(owner)
            owner.append(i)
            plain.append(f.embed(runs[i].tokens) if found is None else found[0])
        parts_x, parts_z = [], []
        if plain:
            fresh = plain[0] if len(plain) == 1 else torch.cat(plain)
            reads = self._reads([runs[i] for i in owner]) if last else None
            z = f.heads(layer, fresh, reads)
            self._store(layer, keys, keeps, owner, fresh, z, remember)
            parts_x.append(fresh)
            parts_z.append(z)
        for key, i, cached_x, cached_z in cached:
            state_of[key] = len(owner)
            owner.append(i)
            parts_x.append(cached_x)
            parts_z.append(cached_z)
        if len(parts_x) == 1:
            return parts_x[0], parts_z[0]
        return torch.cat(parts_x), torch.cat(parts_z)

    def _store(
        self,
        layer: int,
        keys: list[list[Hashable]],
        keeps: np.ndarray,
        owner: list[int],
        x: Tensor,
        z: Tensor,
        remember: bool,
    ) -> None:
        rows = x.shape[0] // len(owner)
        for block, i in enumerate(owner):
            if not remember and not keeps[i, :layer].all():
                continue
            part = slice(block * rows, (block + 1) * rows)
            own = (x, z) if len(owner) == 1 else (x[part].clone(), z[part].clone())
            self.cache.put(keys[i][layer], *own)

    def _branch(
        self,
        layer: int,
        runs: list[Run],
        keys: list[list[Hashable]],
        begins: list[int],
        state_of: dict[Hashable, int],
        owner: list[int],
        x: Tensor,
        z: Tensor,
        keeps: np.ndarray,
    ) -> Tensor:
        """All distinct states after ``layer``; updates ``state_of`` and ``owner``."""
        f = self.forward
        rows = x.shape[0] // len(owner)
        parents: list[int] = []
        children: dict[Hashable, int] = {}
        owners: list[int] = []
        for i, begin in enumerate(begins):
            child = keys[i][layer + 1]
            if begin > layer or child in children:
                continue
            children[child] = len(owners)
            parents.append(state_of[keys[i][layer]])
            owners.append(i)
        x, z = _blocks(x, parents, rows), _blocks(z, parents, rows)
        masks = torch.from_numpy(keeps[owners, layer]).to(x.device)
        if layer == keeps.shape[1] - 1:
            reads = self._reads([runs[i] for i in owners])
            x = x if reads is None else at_positions(x, reads)
        if not bool(masks.all()):
            z = self._mask(layer, z, masks, [runs[i] for i in owners], rows)
        x = f.add_mlp(layer, f.add_attention(layer, x, z))
        state_of.clear()
        state_of.update(children)
        owner[:] = owners
        return x

    @staticmethod
    def _reads(runs: list[Run]) -> Tensor | None:
        if runs[0].stream.reads is None:
            return None
        return torch.cat([run.reads for run in runs if run.reads is not None])

    @staticmethod
    def _mask(layer: int, z: Tensor, masks: Tensor, runs: list[Run], rows: int) -> Tensor:
        """``z`` with the masked-out heads replaced; masks ``[blocks, n_heads]`` bool."""
        keep = masks.repeat_interleave(rows, 0)[:, None, :, None]
        if all(run.swap is None for run in runs):
            return z * keep
        zero = z.new_zeros(rows, *z.shape[1:])
        swaps = [
            zero if run.swap is None else run.swap.rows(layer, run.rows).expand_as(zero)
            for run in runs
        ]
        return torch.where(keep, z, torch.cat(swaps))


def _blocks(x: Tensor, order: list[int], rows: int) -> Tensor:
    """Row blocks of ``x`` in the given order, without copying where the order is the identity."""
    if order == list(range(x.shape[0] // rows)):
        return x
    index = torch.tensor(order, device=x.device)
    return x.view(-1, rows, *x.shape[1:])[index].flatten(0, 1)
