"""Train the 2-layer attention-only model until induction heads form.

Part of the data is ordinary text (:class:`~circuitbench.models.trained.skipgrams.SkipGrams`),
part is stretches of random symbols said again, on which only copying helps (Olsson et al. 2022,
arXiv 2209.11895). Once induction has formed, a penalty on each head's size (a group lasso on
``W_V``
and ``W_O`` together) makes the model do the same with few heads, so that its circuit has a clear
edge.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch.nn import functional

from circuitbench.models.forward import forward
from circuitbench.models.trained.algorithms import repeated_symbols
from circuitbench.models.trained.load import INDUCTION, language
from circuitbench.models.trained.training.network import adam, detached, initial
from circuitbench.models.transformer import Transformer, TransformerConfig

CONFIG = TransformerConfig(
    n_layers=2,
    n_heads=8,
    d_model=64,
    d_head=16,
    d_vocab=32,
    n_ctx=24,
    attn_scale=1 / math.sqrt(16),
)


def train(
    seed: int = 0,
    steps: int = 4000,
    batch: int = 48,
    lr: float = 3e-3,
    sparsity: float = 6e-3,
) -> Transformer:
    """Train from scratch; prints a line of progress every 500 steps.

    The penalty grows from nothing to ``sparsity`` over the second quarter of the steps.
    """
    rng = np.random.default_rng(seed)
    model = initial(CONFIG, rng)
    optimizer, weights = adam(model, lr)
    text, start = language(INDUCTION), time.time()
    for step in range(steps):
        done = step / steps
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 100) * (1 - 0.98 * done)
        repeats, filler, period = repeated_symbols(batch, CONFIG.n_ctx, CONFIG.d_vocab - 1, rng)
        words = text.text(batch // 2, CONFIG.n_ctx, 1, rng)
        tokens = torch.cat([repeats, words])
        logits, _, _ = forward(model, tokens)
        losses = functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none"
        )
        squares = [x.square().sum((1, 2)) for layer in model.layers for x in (layer.W_V, layer.W_O)]
        size = (torch.stack(squares[::2]) + torch.stack(squares[1::2])).sqrt()
        penalty = sparsity * min(1.0, max(0.0, 4 * done - 1))
        optimizer.zero_grad()
        (losses.mean() + penalty * size.sum()).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if step % 500 == 0 or step == steps - 1:
            hit = logits[:batch, :-1].argmax(-1) == tokens[:batch, 1:]
            known = torch.arange(CONFIG.n_ctx - 1) > (filler + period)[:, None]
            print(
                f"step {step:5d}  {time.time() - start:4.0f} s  loss {losses.mean():.3f}  "
                f"text {losses[batch:].mean():.3f}  repeats {losses[:batch][known].mean():.3f}  "
                f"copied {hit[known].float().mean():.3f}  sizes "
                + " ".join(f"{x:.1f}" for x in size.flatten().tolist()),
                flush=True,
            )
    return detached(model)
