"""From final residual streams to numbers: the metric, its KL divergence, the control loss.

None of these ever holds logits of shape ``[batch, pos, d_vocab]``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitbench.models.forward import softcap
from circuitbench.oracle.engine.weights import Unembedding
from circuitbench.tasks.base import Prompts

_CPU_ROWS = 256  # positions at once: their logits of one vocabulary block fit the cache
_GPU_ROWS = 16384


class Directions:
    """The metric as a direction in the final residual stream: only the needed columns of W_U.

    Args:
        unembed: the engine's.
        prompts: on the engine's device.
    """

    def __init__(self, unembed: Unembedding, prompts: Prompts) -> None:
        share = prompts.weights / prompts.positions.shape[1]
        columns = unembed.rows[prompts.token_ids].float()  # [batch, k, c, d_model]
        self.vectors = (columns * share[..., None]).sum(2)  # [batch, k, d_model]
        self.bias = self.vectors.new_zeros(len(prompts))
        self._cap, self._columns, self._share = unembed.cap, columns, share
        self._biases = None if unembed.bias is None else unembed.bias[prompts.token_ids]
        if unembed.bias is not None:
            self.bias = (unembed.bias[prompts.token_ids] * share).sum((1, 2))

    def metric(self, normed: Tensor, rows: Tensor | None = None) -> Tensor:
        """``[n, batch, k, d_model]`` after the final norm to the metric ``[n, batch]``."""
        if self._cap:
            return self._capped(normed, rows)
        vectors, bias = self.vectors, self.bias
        if rows is not None:
            vectors, bias = vectors[rows], bias[rows]
        return torch.einsum("nbkd,bkd->nb", normed, vectors) + bias

    def _capped(self, normed: Tensor, rows: Tensor | None) -> Tensor:
        """The metric of soft-capped logits, which is no direction: every logit by itself."""
        every = slice(None) if rows is None else rows
        logits = torch.einsum("nbkd,bkcd->nbkc", normed, self._columns[every])
        logits = logits if self._biases is None else logits + self._biases[every]
        return (softcap(logits, self._cap) * self._share[every]).sum((2, 3))


def logits_at(unembed: Unembedding, normed: Tensor) -> Tensor:
    """All logits ``[..., d_vocab]`` at already chosen positions ``[..., d_model]``, float32."""
    if unembed.rows.dtype == torch.float32:
        return softcap(F.linear(normed, unembed.rows, unembed.bias), unembed.cap)
    parts = [F.linear(normed, rows.float()) for rows in unembed.rows.split(unembed.block)]
    logits = torch.cat(parts, -1)
    return softcap(logits if unembed.bias is None else logits + unembed.bias, unembed.cap)


class _LogSumExp(torch.autograd.Function):
    """Log of the summed exponentials of all logits; its derivative is made in the same pass."""

    @staticmethod
    def forward(ctx: Any, normed: Tensor, unembed: Unembedding) -> Tensor:
        size = _rows_at_once(normed)
        parts = [_online(part, unembed) for part in normed.split(size)]
        ctx.save_for_backward(torch.cat([mean for _, mean in parts]))
        return torch.cat([value for value, _ in parts])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (mean,) = ctx.saved_tensors
        return grads[0][:, None] * mean, None


def _online(x: Tensor, unembed: Unembedding) -> tuple[Tensor, Tensor]:
    """Log-sum-exp ``[rows]`` and the expected unembedding column ``[rows, d_model]``."""
    top = x.new_full((len(x), 1), -torch.inf)
    total, mean = torch.zeros_like(top), torch.zeros_like(x)
    for block in unembed.blocks:
        logits = softcap(block(x).float(), unembed.cap)
        slope = 1 - (logits / unembed.cap).square() if unembed.cap else None
        new = torch.maximum(top, logits.amax(-1, keepdim=True))
        shrink = (top - new).exp()
        weights = logits.sub_(new).exp_()
        total = total * shrink + weights.sum(-1, keepdim=True)
        weights = weights if slope is None else weights * slope
        mean = mean * shrink + block.backward(weights.to(block.dtype))
        top = new
    return (total.log() + top)[:, 0], mean / total


def log_sum_exp(unembed: Unembedding, normed: Tensor) -> Tensor:
    """Log of the summed exponentials of all logits, ``[rows, d_model]`` to ``[rows]``."""
    if torch.is_grad_enabled() and normed.requires_grad:
        sums: Tensor = _LogSumExp.apply(normed, unembed)  # type: ignore[no-untyped-call]  # by torch
        return sums
    out = normed.new_full(normed.shape[:1], -torch.inf)
    size = _rows_at_once(normed)
    for x, part in zip(normed.split(size), out.split(size), strict=True):
        for block in unembed.blocks:
            part.copy_(torch.logaddexp(part, softcap(block(x).float(), unembed.cap).logsumexp(-1)))
    return out


def _rows_at_once(x: Tensor) -> int:
    return _CPU_ROWS if x.device.type == "cpu" else _GPU_ROWS


def control_loss(unembed: Unembedding, normed: Tensor, tokens: Tensor) -> Tensor:
    """Mean next-token cross-entropy of each row (nats/token).

    Args:
        unembed: the engine's.
        normed: ``[rows, pos, d_model]`` after the final norm.
        tokens: ``[rows, pos]``.

    Returns:
        ``[rows]``.
    """
    inputs, targets = normed[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
    picked: Tensor = torch.linalg.vecdot(inputs, unembed.rows[targets].float())
    if unembed.bias is not None:
        picked = picked + unembed.bias[targets]
    picked = softcap(picked, unembed.cap)
    return (log_sum_exp(unembed, inputs) - picked).view(len(tokens), -1).mean(-1)


def kl_divergence(unembed: Unembedding, clean: Tensor, ablated: Tensor) -> Tensor:
    """KL(clean || ablated) of the next-token distribution, mean over a prompt's k positions.

    Args:
        unembed: the engine's.
        clean: ``[batch, k, d_model]`` after the final norm.
        ablated: ``[n, batch, k, d_model]`` likewise.

    Returns:
        ``[n, batch]`` nats.
    """
    return divergence_from(log_probabilities(unembed, clean), unembed, ablated)


def log_probabilities(unembed: Unembedding, normed: Tensor) -> Tensor:
    """Of all tokens, ``[..., d_vocab]`` (nats), at chosen positions ``[..., d_model]``."""
    return logits_at(unembed, normed).log_softmax(-1)


def divergence_from(log_p: Tensor, unembed: Unembedding, ablated: Tensor) -> Tensor:
    """:func:`kl_divergence` from known log-probabilities ``[batch, k, d_vocab]``."""
    p = log_p.exp()
    out = [(p * (log_p - log_probabilities(unembed, one))).sum(-1).mean(-1) for one in ablated]
    return torch.stack(out)
