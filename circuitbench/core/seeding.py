"""Seeds hashed over named axes, so that no two random draws of a run share a stream."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(root: int, *axes: str | int) -> int:
    """A 63-bit seed that is a pure function of the root seed and the axes' names.

    ``derive_seed(0, "ioi", "prompts")`` and ``derive_seed(0, "ioi", "method")`` are
    independent; the order of the axes matters.
    """
    text = "\x1f".join([str(int(root)), *(str(axis) for axis in axes)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(root: int, *axes: str | int) -> np.random.Generator:
    """A numpy generator on :func:`derive_seed`."""
    return np.random.default_rng(derive_seed(root, *axes))
