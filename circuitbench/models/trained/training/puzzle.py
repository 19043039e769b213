"""Train a small attention-only model to solve a puzzle, with no word about how.

A fifth of each batch is ordinary text. Once the puzzle is learned, a penalty on each head's size
(a group lasso on ``W_V`` and ``W_O`` together, as for ``trained-induction``) makes the model do the
same with fewer heads, while dropout of whole heads rewards heads that stand in for others. Between
them stays a circuit with neither a sharp edge nor a single form.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch.nn import functional

from circuitbench.models.forward import Edit, forward
from circuitbench.models.trained.puzzles import Puzzle
from circuitbench.models.trained.skipgrams import SkipGrams
from circuitbench.models.trained.training.network import adam, detached, initial
from circuitbench.models.transformer import Transformer, TransformerConfig

N_LAYERS, N_HEADS, D_HEAD = 3, 6, 8


def config(puzzle: Puzzle, language: SkipGrams) -> TransformerConfig:
    """Three layers of six heads, no MLP, no normalisation."""
    return TransformerConfig(
        n_layers=N_LAYERS,
        n_heads=N_HEADS,
        d_model=N_HEADS * D_HEAD,
        d_head=D_HEAD,
        d_vocab=puzzle.n_symbols + 2 + len(language.near),
        n_ctx=puzzle.length,
        attn_scale=1 / math.sqrt(D_HEAD),
    )


def _weighing(weights: np.ndarray) -> Edit:
    """Weigh each head's output on each prompt, ``weights [batch, n_layers, n_heads]``."""
    given = torch.from_numpy(weights.astype(np.float32))
    return lambda layer, z: z * given[:, layer].view(len(z), 1, -1, 1)


def train(
    puzzle: Puzzle,
    language: SkipGrams,
    seed: int,
    steps: int,
    *,
    batch: int = 64,
    lr: float = 4e-3,
    sparsity: float = 8e-3,
    dropout: float = 0.05,
) -> Transformer:
    """Train from scratch; prints a line of progress every 500 steps.

    ``sparsity`` weighs the penalty, and a share ``dropout`` of the heads is left out on each
    prompt; both grow from nothing over the third quarter of the steps. From the middle on the
    learning rate falls.
    """
    rng = np.random.default_rng(seed)
    model = initial(config(puzzle, language), rng)
    optimizer, weights = adam(model, lr)
    start = time.process_time()
    for step in range(steps):
        done = step / steps
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 100, 2.04 - 2.02 * done)
        tokens, positions = puzzle.practice(batch, rng)
        answers = puzzle.answers(tokens).gather(1, positions)
        words = language.text(batch // 4, puzzle.length, puzzle.n_symbols + 2, rng)
        pressure = min(1.0, max(0.0, 4 * done - 2))
        kept = rng.random((batch + len(words), N_LAYERS, N_HEADS)) >= pressure * dropout
        weighed = _weighing(kept / (1 - pressure * dropout))
        logits, _, _ = forward(model, torch.cat([tokens, words]), weighed)
        read = logits[torch.arange(batch)[:, None], positions]
        puzzled = functional.cross_entropy(read.flatten(0, 1), answers.flatten())
        spoken = functional.cross_entropy(logits[batch:, :-1].flatten(0, 1), words[:, 1:].flatten())
        squares = [x.square().sum((1, 2)) for layer in model.layers for x in (layer.W_V, layer.W_O)]
        size = (torch.stack(squares[::2]) + torch.stack(squares[1::2])).sqrt()
        optimizer.zero_grad()
        (puzzled + 0.3 * spoken + pressure * sparsity * size.sum()).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if step % 500 == 0 or step == steps - 1:
            solved = (read.argmax(-1) == answers).float().mean()
            print(
                f"step {step:5d}  {time.process_time() - start:4.0f} s  puzzle {puzzled:.3f}  "
                f"solved {solved:.3f}  text {spoken:.3f}  sizes "
                + " ".join(f"{x:.1f}" for x in size.flatten().tolist()),
                flush=True,
            )
    return detached(model)
