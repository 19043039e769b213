"""What tells two sets of weights apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from torch import Tensor

from circuitbench.models.transformer import Transformer


def tensors_of(transformer: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Every weight with its name."""
    parts = [("", transformer), *((f"layer {i} ", x) for i, x in enumerate(transformer.layers))]
    for where, part in parts:
        yield from ((where + k, v) for k, v in vars(part).items() if isinstance(v, Tensor))


def weights_digest(transformer: Transformer) -> str:
    """64 hex digits of the configuration and every weight."""
    digest = hashlib.sha256(repr(transformer.config).encode())
    for name, tensor in tensors_of(transformer):
        plain = tensor.detach().cpu().float().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + plain.numpy().tobytes())
    return digest.hexdigest()
