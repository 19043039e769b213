"""How much is run at once and how much is kept, from what the device has."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import torch

from circuitbench.models.transformer import TransformerConfig

_CPU_WORK = 24 << 20  # bytes of the widest tensor: above, glibc maps and unmaps it every time
_CPU_CACHE = 4 << 30  # bytes; also at most a sixth of the machine's memory
_CPU_CACHE_POSITIONS = 48_000  # a dozen batches: older states are seldom asked for again
_CPU_EDGES = 2 << 30  # bytes; also at most a sixth of the machine's memory
_GPU_CACHE_SHARE = 0.3  # of free memory
_GPU_WORK_SHARE = 0.2
_WIDEST_AT_ONCE = 4  # tensors of the widest kind that live together

T = TypeVar("T")


class Memory:
    """Limits for one model on one device.

    Args:
        config: the model's shapes.
        device: where it runs; a GPU's limits follow its free memory.
    """

    def __init__(self, config: TransformerConfig, device: torch.device) -> None:
        widest = max(config.d_mlp, (config.n_heads + 2 * config.n_kv_heads) * config.d_head)
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            self.cache_bytes = self.edge_bytes = int(_GPU_CACHE_SHARE * free)
            work = int(_GPU_WORK_SHARE * free) // _WIDEST_AT_ONCE
        else:
            installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            useful = _CPU_CACHE_POSITIONS * state_bytes(config)
            self.cache_bytes, work = min(_CPU_CACHE, installed // 6, useful), _CPU_WORK
            self.edge_bytes = min(_CPU_EDGES, installed // 6)
        self.chunk_tokens = max(1, work // (4 * widest))


def state_bytes(config: TransformerConfig) -> int:
    """Of one position's states before every layer: residual stream and head outputs."""
    return 4 * (config.d_model + config.n_heads * config.d_head) * config.n_layers


def halving(run: Callable[[int], T], size: int, recover: Callable[[], None]) -> tuple[T, int]:
    """``run(size)``, with half the size again and again while memory does not suffice.

    Args:
        run: may raise :class:`torch.OutOfMemoryError`; must be safe to repeat.
        size: to begin with.
        recover: called after a failure, to give memory back.

    Returns:
        The result and the size that sufficed.

    Raises:
        torch.OutOfMemoryError: if even size 1 does not fit.
    """
    while True:
        try:
            return run(size), size
        except torch.OutOfMemoryError:
            if size <= 1:
                raise
        recover()  # outside the handler: the traceback would keep tensors alive
        size = max(1, size // 2)
