"""The global random state, which no plug-in may move."""

from __future__ import annotations

import numpy as np
import torch

GENERATOR = (
    "Draw from the generator handed in; for torch, seed one of its own: "
    "torch.Generator().manual_seed(int(rng.integers(2**62)))."
)


def global_state() -> str:
    """Of numpy and torch; another string once somebody drew."""
    numpy_state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 - watched, not used
    torch_state = torch.get_rng_state().numpy().tobytes()
    return f"{numpy_state['pos']} {numpy_state['key'].tobytes()!r} {torch_state!r}"
