"""Softmax attention by PyTorch's fused kernels."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

# Without cuDNN's, which takes a second to plan for every new shape: masks have many.
_UNPLANNED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
    """Head outputs ``[batch, n_heads, query, d_head]``; the scale is in the queries.

    Args:
        q: ``[batch, n_heads, query, d_head]``.
        k, v: ``[batch, n_heads, key, d_head]``.
        allowed: bool, broadcast to ``[batch, n_heads, query, key]``: what may be attended to;
            None where query and key positions are the same and attention is causal.
    """
    rough = q.is_cuda and q.dtype != torch.float32  # cuDNN has no kernel for float32
    with sdpa_kernel(_UNPLANNED) if rough else nullcontext():
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed, is_causal=allowed is None, scale=1.0
        )
