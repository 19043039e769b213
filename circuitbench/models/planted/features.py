"""The feature space in which planted heads are written, before it is hidden.

Every feature block is one named subspace with one meaning: which name stands here, which name
stood before, whether this name is a repetition. A planted head reads blocks and writes blocks;
random rotations then hide the blocks in the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from circuitbench.core.errors import InvalidSpec
from circuitbench.models.planted.language import BOS, CMP, END, PARAM, SKIP, Language

FLAGS = ("one", "bos", "name", "num", "end", "cmp", "skip", "param")
"""Features every token carries from its embedding (``one``: all of them)."""

SIGNALS = ("after_skip", "chain_after_skip", "duplicate", "subject_found", "movers_awake")
"""Single features that only heads write."""

PATHED = (
    "prev",
    "hop_name",
    "hop_num",
    "inhibited",
    "after_skip",
    "duplicate",
    "subject_found",
    "movers_awake",
)
"""Blocks of which every parallel circuit has its own."""

UNSHARED = ("chain_prev", "argument_prev", "chain_after_skip")
"""Blocks that exist only where tasks do not share their heads."""

MAX_SIDE_LOBE = 0.5


@dataclass(frozen=True)
class FeatureSpace:
    """Named blocks of features, and what embedding and unembedding make of them.

    Args:
        blocks: name -> slice of the feature axis.
        size: number of features.
        frequencies: ``[d_pos / 2]`` angular frequencies of the position code.
        side_lobe: largest similarity of two different positions' codes.
        embed: ``[d_vocab, size]``; positions: ``[n_ctx, size]``; unembed: ``[size, d_vocab]``.
    """

    blocks: Mapping[str, slice]
    size: int
    frequencies: np.ndarray
    side_lobe: float
    embed: np.ndarray
    positions: np.ndarray
    unembed: np.ndarray

    def read(self, name: str) -> np.ndarray:
        """Selector ``[size, width]`` of a block."""
        block = self.blocks[name]
        selector = np.zeros((self.size, block.stop - block.start))
        selector[block] = np.eye(selector.shape[1])
        return selector

    def write(self, name: str) -> np.ndarray:
        """Injector ``[width, size]`` into a block."""
        return self.read(name).T

    def on_path(self, path: int) -> FeatureSpace:
        """The space as one of several parallel circuits sees it: its own blocks by plain names."""
        end = f"_{path}"
        own = {k.removesuffix(end): v for k, v in self.blocks.items() if k.endswith(end)}
        return replace(self, blocks={**self.blocks, **own})

    def shift(self, offset: int) -> np.ndarray:
        """Rotation ``[d_pos, d_pos]`` taking a position's code to that of ``offset`` before it."""
        cos, sin = (np.diag(f(self.frequencies * offset)) for f in (np.cos, np.sin))
        return np.block([[cos, -sin], [sin, cos]])


def feature_space(
    language: Language,
    n_ctx: int,
    d_pos: int,
    d_junk: int,
    out_scale: float,
    shared: bool,
    paths: int = 1,
    mlps: bool = False,
) -> FeatureSpace:
    """Lay out the blocks for a language.

    Inside the residual stream logits are smaller by the factor ``out_scale``, so that large ones
    do not drown the other features. ``shared``: the tasks share their previous-token heads;
    ``paths``: how many parallel circuits there are; ``mlps``: the model has MLPs, and blocks that
    only they write.
    """
    n_names, n_nums, d_word = len(language.names), len(language.nums), language.codes.shape[1]
    widths = {
        "tok_name": n_names,  # which token stands here
        "tok_num": n_nums,
        "tok_word": d_word,
        "pos": d_pos,
        "prev": n_names,  # which name stood one position before
        "chain_prev": n_names,  # the same, for tasks that do not share their heads
        "argument_prev": n_names,
        "hop_name": n_names,  # an intermediate result of a chain
        "hop_num": n_nums,
        "inhibited": n_names,  # the name movers shall not copy
        "out_name": n_names,  # logits
        "out_num": n_nums,
        "out_word": d_word,
        "junk": d_junk,  # nobody reads it
        **dict.fromkeys(FLAGS + SIGNALS, 1),
    }
    if mlps:
        widths["num_code"] = n_nums  # which number stands here, as an MLP says it
    if shared:
        widths = {name: width for name, width in widths.items() if name not in UNSHARED}
    widths |= {f"{name}_{p}": widths[name] for p in range(2, paths + 1) for name in PATHED}
    ends = np.cumsum(list(widths.values()))
    blocks = {
        name: slice(int(end) - width, int(end))
        for (name, width), end in zip(widths.items(), ends, strict=True)
    }
    size = int(ends[-1])
    frequencies, side_lobe = position_frequencies(n_ctx, d_pos)

    embed = np.zeros((language.size, size))
    embed[language.names, blocks["tok_name"]] = np.eye(n_names)
    embed[language.nums, blocks["tok_num"]] = np.eye(n_nums)
    embed[:, blocks["tok_word"]] = language.word_codes()
    flagged: dict[str, np.ndarray | int] = {
        "one": np.arange(language.size),
        "bos": BOS,
        "name": language.names,
        "num": language.nums,
        "end": END,
        "cmp": CMP,
        "skip": SKIP,
        "param": PARAM,
    }
    for flag, ids in flagged.items():
        embed[ids, blocks[flag]] = 1.0

    # BOS gets no position code: heads rest there, and its score must not depend on distance
    positions = np.zeros((n_ctx, size))
    angles = np.arange(1, n_ctx)[:, None] * frequencies
    positions[1:, blocks["pos"]] = np.hstack([np.cos(angles), np.sin(angles)]) / np.sqrt(d_pos / 2)

    unembed = np.zeros((size, language.size))
    unembed[blocks["out_name"], language.names] = np.eye(n_names) / out_scale
    unembed[blocks["out_num"], language.nums] = np.eye(n_nums) / out_scale
    unembed[blocks["out_word"]] = language.word_codes().T / out_scale
    unembed[blocks["one"]] = language.prior()
    return FeatureSpace(blocks, size, frequencies, side_lobe, embed, positions, unembed)


@lru_cache
def position_frequencies(n_ctx: int, d_pos: int, tries: int = 4000) -> tuple[np.ndarray, float]:
    """Frequencies whose position codes differ most, and their worst similarity (side lobe).

    The code of position p is ``(cos w_k p, sin w_k p)`` over ``d_pos / 2`` frequencies, so that
    a fixed offset is a rotation; the set is the best of a fixed random search. Raises
    :class:`InvalidSpec` if even that leaves positions too alike to be told apart.
    """
    rng = np.random.default_rng(0)
    drawn = rng.uniform(0.0, np.pi, (tries, d_pos // 2))
    similarity = np.zeros((tries, n_ctx - 1))
    for k in range(d_pos // 2):
        similarity += np.cos(drawn[:, k : k + 1] * np.arange(1, n_ctx)) / (d_pos // 2)
    worst = np.abs(similarity).max(1)
    best = int(worst.argmin())
    if worst[best] > MAX_SIDE_LOBE:
        raise InvalidSpec(
            f"d_pos={d_pos} is too small to tell {n_ctx} positions apart; raise d_pos or "
            "lower n_ctx"
        )
    return drawn[best], float(worst[best])
