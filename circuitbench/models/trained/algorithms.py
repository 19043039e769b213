"""High-level algorithms that trained models are made to follow, as causal models.

An algorithm is a chain of named nodes. Each node's value is a function of the tokens and of
earlier nodes, and an *interchange* gives a node the value it has on the counterfactual prompt
(Geiger et al. 2021, arXiv 2106.02997). Training aligns each node with one attention head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import Edge, Head

BOS = 0

Swaps = Mapping[str, Tensor]
"""Per node ``[batch]`` bool: the prompts on which it takes the counterfactual's value."""


@dataclass(frozen=True)
class Pairs:
    """Prompts and their counterfactuals ``[batch, pos]`` long; ``[batch, k]`` positions to read."""

    tokens: Tensor
    counterfactual: Tensor
    positions: Tensor


class Algorithm(Protocol):
    """A causal model over prompts of fixed length.

    The vocabulary is BOS (0), ``n_symbols`` symbols from 1 on, one token ``none`` after them
    (the answer where there is no answer), then ``n_words`` words of ordinary text.
    """

    @property
    def n_symbols(self) -> int:
        """How many symbols there are."""
        ...

    @property
    def length(self) -> int:
        """Tokens of a prompt."""
        ...

    @property
    def nodes(self) -> Mapping[str, Head]:
        """The head of each node, in the order in which they are computed."""
        ...

    @property
    def edges(self) -> frozenset[Edge]:
        """Who must hear what of whom: the edges along which values that vary reach a node."""
        ...

    def draw(self, n: int, rng: np.random.Generator) -> Pairs:
        """``n`` prompts and counterfactuals on which every node's value is defined for them."""
        ...

    def values(
        self, tokens: Tensor, counterfactual: Tensor | None = None, swaps: Swaps | None = None
    ) -> dict[str, Tensor]:
        """Every node's value, the last being the answer at each position ``[batch, pos]``."""
        ...


def _wired(*lines: str, **nodes: Head) -> frozenset[Edge]:
    """Edges from lines like ``"embed > first q, v"``, ``nodes`` saying which head a name is."""
    found = set()
    for line in lines:
        sender, _, rest = line.partition(" > ")
        receiver, _, letters = rest.partition(" ")
        start = str(nodes[sender]) if sender in nodes else sender
        if receiver not in nodes:
            found.add(Edge(start, receiver))
        found |= {Edge(start, f"{nodes[receiver]}.{x}") for x in letters.split(", ") if letters}
    return frozenset(found)


def _either(swaps: Swaps | None, node: str, own: Tensor, other: dict[str, Tensor]) -> Tensor:
    """The node's own value, or that in ``other`` on the prompts where it is swapped."""
    if swaps is None or node not in swaps:
        return own
    mask = swaps[node].view(-1, *[1] * (own.dim() - 1))
    return torch.where(mask, other[node], own)


def _latest(matches: Tensor, source: Tensor, default: int) -> Tensor:
    """For each query the source token ``[batch, pos]`` at its latest match, or ``default``.

    ``matches`` is ``[batch, query, key]`` bool; later keys than the query never match.
    """
    length = matches.shape[-1]
    causal = matches & torch.tril(torch.ones(length, length, dtype=torch.bool))
    latest = (causal * torch.arange(1, length + 1)).argmax(-1)
    return torch.where(causal.any(-1), source.gather(1, latest), default)


@dataclass(frozen=True)
class InductionAlgorithm:
    """What came after the last time this symbol was seen, or ``none``.

    ``previous``: the symbol one place back; ``induction``: find the latest place whose previous
    symbol is the current one, and copy what stands there.
    """

    n_symbols: int = 12
    length: int = 14
    previous: Head = field(default=Head(0, 1))
    induction: Head = field(default=Head(2, 2))

    @property
    def nodes(self) -> dict[str, Head]:
        """See :class:`Algorithm`."""
        return {"previous": self.previous, "induction": self.induction}

    @property
    def edges(self) -> frozenset[Edge]:
        """See :class:`Algorithm`; which place is one back is the same on every prompt."""
        return _wired(
            "embed > previous v",
            "embed > induction q, v",
            "previous > induction k",
            "induction > logits",
            **self.nodes,
        )

    @property
    def none(self) -> int:
        """The token that says that there is no answer."""
        return self.n_symbols + 1

    def draw(self, n: int, rng: np.random.Generator) -> Pairs:
        """See :class:`Algorithm`."""

        def half() -> np.ndarray:
            order = rng.permuted(np.tile(np.arange(1, self.n_symbols + 1), (n, 1)), axis=1)
            period = rng.integers(4, 7, size=(n, 1))
            place = np.arange(self.length - 1)
            repeats = np.take_along_axis(order, place % period, axis=1)
            free = rng.integers(1, self.n_symbols + 1, size=repeats.shape)
            body = np.where(rng.random((n, 1)) < 0.5, repeats, free)
            return np.concatenate([np.full((n, 1), BOS), body], axis=1)

        positions = torch.arange(1, self.length).expand(n, -1)
        return Pairs(torch.from_numpy(half()), torch.from_numpy(half()), positions)

    def values(
        self, tokens: Tensor, counterfactual: Tensor | None = None, swaps: Swaps | None = None
    ) -> dict[str, Tensor]:
        """See :class:`Algorithm`."""
        given = {} if counterfactual is None else self.values(counterfactual)
        none = torch.full_like(tokens[:, :1], -1)
        previous = _either(swaps, "previous", torch.cat([none, tokens[:, :-1]], 1), given)
        found = _latest(previous[:, None, :] == tokens[:, :, None], tokens, self.none)
        return {"previous": previous, "induction": _either(swaps, "induction", found, given)}


@dataclass(frozen=True)
class IOIAlgorithm:
    """Two names, one mentioned twice; the answer at the end is the other one.

    A small version of indirect object identification (Wang et al. 2022, arXiv 2211.00593).
    ``duplicate``: which mention repeats an earlier one; ``inhibition``: at the end, the name
    there; ``mover``: the name that is not that one. The mentions stand among blanks, at places
    1 to 3, 4 to 6, and 7 or 8.
    """

    n_symbols: int = 6
    length: int = 10
    duplicate: Head = field(default=Head(0, 2))
    inhibition: Head = field(default=Head(1, 3))
    mover: Head = field(default=Head(3, 1))

    @property
    def nodes(self) -> dict[str, Head]:
        """See :class:`Algorithm`."""
        return {
            "duplicate": self.duplicate,
            "inhibition": self.inhibition,
            "mover": self.mover,
        }

    @property
    def edges(self) -> frozenset[Edge]:
        """See :class:`Algorithm`."""
        return _wired(
            "embed > duplicate q, k, v",
            "duplicate > inhibition k",
            "embed > inhibition v",
            "inhibition > mover q",
            "embed > mover k, v",
            "mover > logits",
            **self.nodes,
        )

    @property
    def none(self) -> int:
        """The token that says that there is no answer."""
        return self.n_symbols + 1

    def draw(self, n: int, rng: np.random.Generator) -> Pairs:
        """See :class:`Algorithm`."""
        names = rng.permuted(np.tile(np.arange(1, self.n_symbols + 1), (n, 1)), axis=1)[:, :2]
        places = rng.integers([1, 4, 7], [4, 7, 9], size=(n, 3))
        odd_one = rng.integers(3, size=(2, n))

        def write(single: np.ndarray, twice: np.ndarray, odd: np.ndarray) -> Tensor:
            tokens = np.full((n, self.length), self.none)
            mentions = np.where(np.arange(3) == odd[:, None], single[:, None], twice[:, None])
            np.put_along_axis(tokens, places, mentions, axis=1)
            tokens[:, 0] = BOS
            return torch.from_numpy(tokens)

        base = write(names[:, 0], names[:, 1], odd_one[0])
        other = write(names[:, 1], names[:, 0], odd_one[1])
        return Pairs(base, other, torch.full((n, 1), self.length - 1))

    def values(
        self, tokens: Tensor, counterfactual: Tensor | None = None, swaps: Swaps | None = None
    ) -> dict[str, Tensor]:
        """See :class:`Algorithm`."""
        given = {} if counterfactual is None else self.values(counterfactual)
        named = (tokens > BOS) & (tokens < self.none)
        same = (tokens[:, :, None] == tokens[:, None, :]) & named[:, None, :]
        earlier = torch.tril(torch.ones(self.length, self.length, dtype=torch.bool), -1)
        duplicate = _either(swaps, "duplicate", (same & earlier).any(-1), given)
        twice = tokens.gather(1, duplicate.long().argmax(1, keepdim=True))
        twice = _either(swaps, "inhibition", twice, given)
        mover = tokens.gather(1, (named & (tokens != twice)).long().argmax(1, keepdim=True))
        answer = _either(swaps, "mover", mover, given).expand(-1, self.length)
        return {"duplicate": duplicate, "inhibition": twice, "mover": answer}


@dataclass(frozen=True)
class TwoHopAlgorithm:
    """Pairs ``x y`` in any order, then a query; the answer is the value of the query's value.

    ``key``: at each ``y``, the ``x`` before it; ``first``: at the query, its value; ``second``:
    the value of that, or ``none``.
    """

    n_symbols: int = 12
    length: int = 10
    key: Head = field(default=Head(0, 3))
    first: Head = field(default=Head(1, 0))
    second: Head = field(default=Head(3, 2))

    @property
    def nodes(self) -> dict[str, Head]:
        """See :class:`Algorithm`."""
        return {"key": self.key, "first": self.first, "second": self.second}

    @property
    def edges(self) -> frozenset[Edge]:
        """See :class:`Algorithm`; which place is one back is the same on every prompt."""
        return _wired(
            "embed > key v",
            "embed > first q, v",
            "key > first k",
            "first > second q",
            "key > second k",
            "embed > second v",
            "second > logits",
            **self.nodes,
        )

    @property
    def none(self) -> int:
        """The token that says that there is no answer."""
        return self.n_symbols + 1

    def draw(self, n: int, rng: np.random.Generator) -> Pairs:
        """See :class:`Algorithm`."""
        symbols = rng.permuted(np.tile(np.arange(1, self.n_symbols + 1), (n, 1)), axis=1)
        a, b, c, a2, b2, c2 = symbols[:, :6].T

        def write(query: np.ndarray, crossed: np.ndarray) -> Tensor:
            keys = np.stack([a, b, a2, b2], axis=1)
            values = np.stack([np.where(crossed, b2, b), c, np.where(crossed, b, b2), c2], axis=1)
            order = rng.permuted(np.tile(np.arange(4), (n, 1)), axis=1)
            pairs = np.stack(
                [np.take_along_axis(keys, order, 1), np.take_along_axis(values, order, 1)], axis=2
            )
            bos = np.full((n, 1), BOS)
            return torch.from_numpy(
                np.concatenate([bos, pairs.reshape(n, 8), query[:, None]], axis=1)
            )

        crossed, requery = rng.random(n) < 0.5, rng.random(n) < 0.5
        base = write(a, crossed)
        other = write(np.where(requery, a2, a), np.where(requery, crossed, ~crossed))
        return Pairs(base, other, torch.full((n, 1), self.length - 1))

    def values(
        self, tokens: Tensor, counterfactual: Tensor | None = None, swaps: Swaps | None = None
    ) -> dict[str, Tensor]:
        """See :class:`Algorithm`."""
        given = {} if counterfactual is None else self.values(counterfactual)
        key = torch.full_like(tokens, -1)
        key[:, 2:9:2] = tokens[:, 1:8:2]
        key = _either(swaps, "key", key, given)

        def look_up(query: Tensor) -> Tensor:
            hit = key == query
            found = tokens.gather(1, hit.long().argmax(1, keepdim=True))
            return torch.where(hit.any(1, keepdim=True), found, self.none)

        first = _either(swaps, "first", look_up(tokens[:, -1:]), given)
        second = _either(swaps, "second", look_up(first), given)
        return {"key": key, "first": first, "second": second.expand(-1, self.length)}


def repeated_symbols(
    n: int, length: int, n_symbols: int, rng: np.random.Generator, shortest: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    """BOS, a filler, then a stretch of symbols said again and again to the end.

    Filler and stretch are all different symbols, from 1 on; the stretch is said at least twice.
    Returns tokens ``[n, length]``, the filler's length ``[n]`` and the stretch's (``shortest`` to
    11, ``[n]``).
    """
    symbols = rng.permuted(np.tile(np.arange(1, n_symbols + 1), (n, 1)), axis=1)
    body = length - 1
    period = rng.integers(shortest, 1 + min(11, body // 2), size=(n, 1))
    filler = rng.integers(0, 1 + np.minimum(body - 2 * period, 7))
    place = np.arange(body)
    source = np.where(place < filler, place, filler + (place - filler) % period)
    tokens = np.concatenate([np.full((n, 1), BOS), np.take_along_axis(symbols, source, 1)], axis=1)
    return torch.from_numpy(tokens), torch.from_numpy(filler[:, 0]), torch.from_numpy(period[:, 0])
