"""A linear map as fast as the machine allows, with a plain fallback.

On a CPU the weight is reordered once into oneDNN's blocked layout, which is never slower than
PyTorch's default (MKL) and on AMD chips with AVX-512 more than twice as fast; bias and residual
are then part of the product's last pass over memory.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitbench.models.forward import activate

_ROWS_HINT = 2048  # rows the blocked layout is chosen for
_GELU_ROWS = 64  # rows whose activations stay in the cache
_GELU = (2 / math.pi) ** 0.5


class Linear:
    """``x @ weight + bias`` for weight ``[d_in, d_out]``.

    Args:
        weight: on its device; one of fewer bits than float32 is kept so, and widened as it is
            used.
        bias: ``[d_out]`` or None.
        dtype: what the product is computed in; ``bfloat16`` keeps three significant digits.
        rows: whether ``weight`` is given as ``[d_out, d_in]`` already (the memory is then
            shared, not copied).
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype = torch.float32,
        rows: bool = False,
    ) -> None:
        slim = weight.dtype != torch.float32
        self.weight = (weight if rows else weight.T).contiguous()
        self.weight = self.weight if slim else self.weight.to(dtype)
        self.bias = None if bias is None else bias.to(dtype)
        self.dtype = dtype
        self._packed = None if slim else pack(self.weight)  # which would be a second copy
        self._packed_transposed: Tensor | None = None

    def part(
        self, outputs: slice | Tensor = slice(None), inputs: slice | Tensor = slice(None)
    ) -> Linear:
        """The same map from some inputs to some outputs."""
        bias = None if self.bias is None else self.bias[outputs]
        part = Linear.__new__(Linear)
        part.weight = _taken(_taken(self.weight, 0, outputs), 1, inputs)
        part.bias, part.dtype = bias, self.dtype
        # Used once and thrown away: oneDNN takes it as it lies.
        part._packed = None if self._packed is None else part.weight.contiguous()
        part._packed_transposed = None
        return part

    @property
    def flops(self) -> int:
        """Floating-point operations per input row."""
        return 2 * self.weight.numel()

    def __call__(self, x: Tensor, activation: str = "") -> Tensor:
        """``[..., d_in]`` to ``[..., d_out]`` in ``dtype``, through an activation if named."""
        x = x.to(self.dtype)
        if self._packed is None:
            return activate(F.linear(x, self.weight.to(self.dtype), self.bias), activation)
        if torch.is_grad_enabled() and x.requires_grad:
            product = _Differentiable.apply(x, self)  # type: ignore[no-untyped-call]  # by torch
            return activate(product, activation)
        fused = "relu" if activation == "relu" else "none"
        y = _product(x, self._packed, self.bias, fused)
        return y if fused == "relu" else _activate_in_place(y, activation)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """``residual + x @ weight + bias``, float32."""
        fused = self._packed is not None and self.dtype == torch.float32
        derived = x.requires_grad or residual.requires_grad
        if not fused or (torch.is_grad_enabled() and derived):
            return residual + self(x)
        total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, residual, self._packed, self.bias, "add"
        )
        return total

    def backward(self, grad: Tensor) -> Tensor:
        """``grad @ weight.T``: the derivative by the input, from that by the output."""
        if self._packed_transposed is None and self._packed is not None:
            self._packed_transposed = pack(self.weight.T.contiguous())
        if self._packed_transposed is None:
            return grad @ self.weight.to(grad.dtype)
        return _product(grad, self._packed_transposed, None)


class _Differentiable(torch.autograd.Function):
    """A packed product with a packed derivative by its input; weights are constants."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: Linear) -> Tensor:
        ctx.linear = linear
        return _product(x, linear._packed, linear.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.linear.backward(grads[0].contiguous()), None


def _taken(x: Tensor, dim: int, which: slice | Tensor) -> Tensor:
    """Some rows (``dim`` 0) or columns (1) of a matrix; indexing copies columns more slowly."""
    if isinstance(which, Tensor):
        return x.index_select(dim, which)
    return x[which] if dim == 0 else x[:, which]


def _product(x: Tensor, packed: Tensor | None, bias: Tensor | None, fused: str = "none") -> Tensor:
    """oneDNN's product of a packed weight, with a fused activation."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, fused, [], "")
    return product


def pack(weight: Tensor) -> Tensor | None:
    """``[d_out, d_in]`` in oneDNN's blocked layout; None where this machine has no such thing."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return None
    try:
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT)
    except (AttributeError, RuntimeError):  # another PyTorch build, or bfloat16 on an old CPU
        return None
    return packed


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and pack(torch.zeros(64, 64, dtype=torch.bfloat16)) is not None


def _activate_in_place(x: Tensor, kind: str) -> Tensor:
    """:func:`activate`, overwriting ``x``: on CPUs the tanh GELU goes through the sigmoid.

    ``x (1 + tanh y) / 2 = x sigmoid(2 y)``, and vectorised sigmoids are several times as fast
    as oneDNN's fused GELU or PyTorch's own.
    """
    if kind != "gelu_new":
        return activate(x, kind)
    for part in x.flatten(0, -2).split(_GELU_ROWS):
        gate = part * part
        gate.mul_(2 * _GELU * 0.044715).add_(2 * _GELU).mul_(part).sigmoid_()
        part.mul_(gate)
    return x
