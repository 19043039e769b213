"""From final residual streams to numbers: the metric, its KL divergence, the control loss.

None of these ever holds logits of shape ``[batch, pos, d_vocab]``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitbench.models.transformer import TransformerConfig
from circuitbench.oracle.weights import Weights
from circuitbench.tasks.base import Prompts

_ROWS = 2048  # positions at once
_VOCAB = 4096  # vocabulary entries at once


class Directions:
    """The metric as a direction in the final residual stream: only the needed columns of W_U.

    Args:
        weights: the engine's, unembedding folded.
        prompts: on the engine's device.
    """

    def __init__(self, weights: Weights, prompts: Prompts) -> None:
        share = prompts.weights / prompts.positions.shape[1]
        columns = weights.unembed[prompts.token_ids]  # [batch, k, c, d_model]
        self.vectors = (columns * share[..., None]).sum(2)  # [batch, k, d_model]
        self.bias: Tensor | None = None
        if weights.unembed_bias is not None:
            self.bias = (weights.unembed_bias[prompts.token_ids] * share).sum((1, 2))

    def metric(self, normed: Tensor, rows: Tensor | None = None) -> Tensor:
        """``[n, batch, k, d_model]`` after the final norm to the metric ``[n, batch]``."""
        vectors = self.vectors if rows is None else self.vectors[rows]
        out = (normed * vectors).sum((-1, -2))
        if self.bias is not None:
            out = out + (self.bias if rows is None else self.bias[rows])
        return out


def logits_at(weights: Weights, normed: Tensor) -> Tensor:
    """All logits ``[..., d_vocab]`` at already chosen positions ``[..., d_model]``."""
    return F.linear(normed, weights.unembed, weights.unembed_bias)


def log_sum_exp(weights: Weights, normed: Tensor) -> Tensor:
    """Log of the summed exponentials of all logits, ``[rows, d_model]`` to ``[rows]``."""
    out = normed.new_full(normed.shape[:1], -torch.inf)
    for start in range(0, weights.unembed.shape[0], _VOCAB):
        stop = start + _VOCAB
        bias = None if weights.unembed_bias is None else weights.unembed_bias[start:stop]
        logits = F.linear(normed, weights.unembed[start:stop], bias)
        out = torch.logaddexp(out, logits.logsumexp(-1))
    return out


def token_loss(weights: Weights, normed: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy (nats) of ``targets [rows]`` given ``[rows, d_model]`` after the norm."""
    out = []
    for part, target in zip(normed.split(_ROWS), targets.split(_ROWS), strict=True):
        picked = (part * weights.unembed[target]).sum(-1)
        if weights.unembed_bias is not None:
            picked = picked + weights.unembed_bias[target]
        out.append(log_sum_exp(weights, part) - picked)
    return torch.cat(out)


def control_loss(weights: Weights, normed: Tensor, tokens: Tensor) -> Tensor:
    """Mean next-token cross-entropy of each row (nats/token).

    Args:
        weights: the engine's.
        normed: ``[rows, pos, d_model]`` after the final norm.
        tokens: ``[rows, pos]``.

    Returns:
        ``[rows]``.
    """
    inputs, targets = normed[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
    return token_loss(weights, inputs, targets).view(len(tokens), -1).mean(-1)


def kl_divergence(weights: Weights, clean: Tensor, ablated: Tensor) -> Tensor:
    """KL(clean || ablated) of the next-token distribution, mean over a prompt's k positions.

    Args:
        weights: the engine's.
        clean: ``[batch, k, d_model]`` after the final norm.
        ablated: ``[n, batch, k, d_model]`` likewise.

    Returns:
        ``[n, batch]`` nats.
    """
    log_p = logits_at(weights, clean).log_softmax(-1)
    out = [
        (log_p.exp() * (log_p - logits_at(weights, one).log_softmax(-1))).sum(-1).mean(-1)
        for one in ablated
    ]
    return torch.stack(out)


def flops_per_position(config: TransformerConfig) -> float:
    """Floating-point operations of unembedding one position fully."""
    return 2.0 * config.d_model * config.d_vocab
