"""What a model needs of memory, said before it is loaded."""

from __future__ import annotations

import warnings

import torch

from circuitbench.core.errors import ModelUnavailable
from circuitbench.models.checkpoints.files import free_memory

WORTH_SAYING = 500_000_000  # parameters
_COPIES = 2  # the weights as read, and as the engine lays them out


class LargeModel(UserWarning):
    """States what a large model will need."""


def check_memory(name: str, n_parameters: int, dtype: torch.dtype) -> None:
    """State what a large model needs; refuse one that cannot fit.

    Raises :class:`ModelUnavailable` where twice the weights' size is not free.
    """
    size = n_parameters * dtype.itemsize
    free = free_memory()
    needs = (
        f"{name}: {n_parameters / 1e9:.2f} billion parameters, {_gib(size)} as "
        f"{str(dtype).removeprefix('torch.')}; about {_gib(_COPIES * size)} are needed, "
        f"{'an unknown amount is' if free is None else _gib(free) + ' are'} free"
    )
    if free is not None and _COPIES * size > free:
        hint = "; dtype=bfloat16 halves it" if dtype == torch.float32 else ""
        raise ModelUnavailable(f"{needs}{hint}")
    if n_parameters >= WORTH_SAYING:
        warnings.warn(needs, LargeModel, stacklevel=2)


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.2f} GiB"
