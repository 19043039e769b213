"""A linear map as fast as the machine allows, with a plain fallback."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Linear:
    """``x @ weight + bias`` for weight ``[d_in, d_out]``.

    Args:
        packed: kept for the packed oneDNN path on CPU.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, packed: bool = False) -> None:
        self.weight = weight.T.contiguous()
        self.bias = bias
        self.packed = packed

    def columns(self, start: int, stop: int) -> Linear:
        """The same map restricted to outputs ``start:stop``."""
        bias = None if self.bias is None else self.bias[start:stop]
        return Linear(self.weight[start:stop].T, bias, self.packed)

    def __call__(self, x: Tensor) -> Tensor:
        """``[..., d_in]`` to ``[..., d_out]``."""
        return F.linear(x, self.weight, self.bias)

    @property
    def flops(self) -> int:
        """Floating-point operations per input row."""
        return 2 * self.weight.numel()


def activate(x: Tensor, kind: str) -> Tensor:
    """The MLP's nonlinearity by its name in :class:`TransformerConfig`."""
    if kind == "relu":
        return F.relu(x)
    if kind == "silu":
        return F.silu(x)
    return F.gelu(x, approximate="tanh" if kind == "gelu_new" else "none")


def normalize(x: Tensor, kind: str, eps: float) -> Tensor:
    """The norm without its scale and shift (those are folded into what follows)."""
    if kind == "layer":
        return F.layer_norm(x, x.shape[-1:], eps=eps)
    if kind == "rms":
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x
