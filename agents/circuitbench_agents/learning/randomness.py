"""Keeps stable-baselines3's random draws apart from everyone else's.

The library draws from the process-wide generators of torch and numpy. Inside
:meth:`LibraryStreams.active` those generators are ours; outside, the caller's are back
untouched. The streams can be saved, so that a resumed training draws what it would have drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


class LibraryStreams:
    """The states of the two global generators while our training runs."""

    def __init__(self, seed: int) -> None:
        self.torch_state = torch.Generator().manual_seed(seed).get_state()
        self.numpy_state: Any = np.random.MT19937(seed).state

    @contextmanager
    def active(self) -> Iterator[None]:
        """Swap our states in, and on leaving keep where they got to and put the caller's back."""
        # The legacy calls are the only handle on the generators the library draws from.
        callers = torch.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002
        torch.set_rng_state(self.torch_state)
        np.random.set_state(self.numpy_state)  # noqa: NPY002
        try:
            yield
        finally:
            self.torch_state = torch.get_rng_state()
            self.numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
            torch.set_rng_state(callers[0])
            np.random.set_state(callers[1])  # noqa: NPY002

    def tensors(self) -> dict[str, Tensor]:
        """The states as tensors, for a checkpoint."""
        key, position = self.numpy_state["state"]["key"], self.numpy_state["state"]["pos"]
        return {
            "torch": self.torch_state,
            "numpy": torch.as_tensor(np.append(key, position).astype(np.int64)),
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Return to saved :meth:`tensors`."""
        self.torch_state = tensors["torch"]
        numbers = tensors["numpy"].numpy()
        key, position = numbers[:-1].astype(np.uint32), int(numbers[-1])
        self.numpy_state = {**np.random.MT19937(0).state, "state": {"key": key, "pos": position}}
