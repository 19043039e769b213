"""Strict interchange-intervention training: named heads carry an algorithm, no other head does.

Four losses at once (Gupta et al. 2024, InterpBench, arXiv 2407.14494, sec. 3):

- behaviour: the model gives the algorithm's answer;
- interchange (IIT; Geiger et al. 2022, arXiv 2112.00826): giving a node's head the output it has
  on the counterfactual prompt gives the answer the algorithm has after the same interchange;
- strictness: replacing any set of the other heads by their outputs on the counterfactual, or by
  zero, changes nothing;
- language: the model also predicts ordinary text, in which the other heads are free to help.

The first three ask for fixed logits (``MARGIN`` above the mean of the choices), not only for the
right order, so that a head outside the circuit cannot move even the size of the metric.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from circuitbench.models.forward import Edit, forward
from circuitbench.models.trained.algorithms import Algorithm, Pairs
from circuitbench.models.trained.skipgrams import SkipGrams
from circuitbench.models.trained.training.network import adam, detached, initial, keep
from circuitbench.models.transformer import Transformer, TransformerConfig

MARGIN = 8.0


def config(
    algorithm: Algorithm, text: SkipGrams, n_layers: int, n_heads: int = 4, d_model: int = 64
) -> TransformerConfig:
    """The shape of a model for ``algorithm`` that also speaks ``text``."""
    d_head = d_model // n_heads
    return TransformerConfig(
        n_layers=n_layers,
        n_heads=n_heads,
        d_model=d_model,
        d_head=d_head,
        d_vocab=algorithm.n_symbols + 2 + len(text.near),
        n_ctx=max(16, algorithm.length),
        attn_scale=1 / math.sqrt(d_head),
    )


class Interventions:
    """Which heads are replaced on which prompt, and what the algorithm then answers.

    The first half of the rows are interchanges of a random nonempty set of nodes, in half of them
    together with other heads; the second half replaces other heads only. ``chosen`` and
    ``zeroed`` are ``[2 * batch, n_layers, n_heads]`` bool: replaced, and that by zero rather than
    by the output on the counterfactual (never for a node); ``answers [2 * batch, k]`` long.
    """

    def __init__(
        self, algorithm: Algorithm, pairs: Pairs, shape: tuple[int, int], rng: np.random.Generator
    ) -> None:
        n = len(pairs.tokens)
        names = list(algorithm.nodes)
        # Mostly one node at a time; sometimes several.
        swapped = np.eye(len(names), dtype=bool)[rng.integers(len(names), size=n)]
        swapped |= rng.random(swapped.shape) < 0.15
        swapped = np.concatenate([swapped, np.zeros_like(swapped)])
        swaps = {name: torch.from_numpy(swapped[:, i]) for i, name in enumerate(names)}
        twice = [torch.cat([x, x]) for x in (pairs.tokens, pairs.counterfactual, pairs.positions)]
        self.answers = algorithm.values(twice[0], twice[1], swaps)[names[-1]].gather(1, twice[2])
        inside = node_mask(algorithm, shape)
        rate = rng.choice([0.1, 0.5, 1.0], size=(2 * n, 1, 1))
        rate[: n // 2] = 0.0
        self.chosen = torch.from_numpy(rng.random((2 * n, *shape)) < rate) & ~inside
        self.zeroed = torch.from_numpy(rng.random((2 * n, 1, 1)) < 0.5) & self.chosen
        for name, (layer, head) in algorithm.nodes.items():
            self.chosen[:, layer, head] = swaps[name]

    def edit(self, counterfactual: list[Tensor]) -> Edit:
        """The edit that applies them, given each layer's z on the counterfactual."""

        def apply(layer: int, z: Tensor) -> Tensor:
            given = torch.cat([counterfactual[layer]] * 2)
            given = given.masked_fill(self.zeroed[:, layer][:, None, :, None], 0.0)
            return torch.where(self.chosen[:, layer][:, None, :, None], given, z)

        return apply


def node_mask(algorithm: Algorithm, shape: tuple[int, int]) -> Tensor:
    """Bool ``[n_layers, n_heads]``, True at the heads of the nodes."""
    mask = torch.zeros(shape, dtype=torch.bool)
    for layer, head in algorithm.nodes.values():
        mask[layer, head] = True
    return mask


def read(algorithm: Algorithm, logits: Tensor, positions: Tensor) -> Tensor:
    """Centred logits of the symbols and ``none`` where answers are read ``[batch, k, choices]``."""
    rows = torch.arange(len(positions))[:, None]
    choices = logits[rows, positions][..., 1 : algorithm.n_symbols + 2]
    return choices - choices.mean(-1, keepdim=True)


def distance(read_logits: Tensor, answers: Tensor) -> Tensor:
    """Squared error from the wanted logits in units of ``MARGIN``, plus 0.3 cross-entropy."""
    wanted = functional.one_hot(answers - 1, read_logits.shape[-1]) * MARGIN
    wanted = wanted - wanted.mean(-1, keepdim=True)
    error = (read_logits - wanted).square().sum(-1).mean() / MARGIN**2
    return error + 0.3 * functional.cross_entropy(
        read_logits.flatten(0, 1), (answers - 1).flatten()
    )


def train(
    algorithm: Algorithm,
    text: SkipGrams,
    shape: TransformerConfig,
    seed: int = 0,
    steps: int = 2000,
    batch: int = 40,
    lr: float = 3e-3,
    language_weight: float = 0.3,
    silence: bool = False,
    log: int = 250,
) -> Transformer:
    """Train from scratch; prints a line of progress every ``log`` steps.

    With ``silence``, a model without one of its nodes (its head zeroed) must give all answers the
    same logit; without, what it then says is left open, and may differ from prompt to prompt.
    """
    rng = np.random.default_rng(seed)
    model = initial(shape, rng)
    optimizer, weights = adam(model, lr)
    grid = (shape.n_layers, shape.n_heads)
    last = list(algorithm.nodes)[-1]
    start = time.time()
    others = ~node_mask(algorithm, grid)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 100) * max(0.01, 1 - step / steps)
        pairs = algorithm.draw(batch, rng)
        answers = algorithm.values(pairs.tokens)[last].gather(1, pairs.positions)
        logits, zs, _ = forward(model, torch.cat([pairs.tokens, pairs.counterfactual]))
        changes = Interventions(algorithm, pairs, grid, rng)
        changed, _, _ = forward(
            model,
            torch.cat([pairs.tokens, pairs.tokens]),
            changes.edit([z[batch:] for z in zs]),
        )
        # Half of the time without the nodes' heads, so that the language lives in the others.
        words = text.text(batch // 2, shape.n_ctx, algorithm.n_symbols + 2, rng)
        spoken, _, _ = forward(model, words, keep(others) if step % 2 else None)
        wanted = (answers, *changes.answers.split(batch))
        reads = [
            read(algorithm, x, pairs.positions)
            for x in (logits[:batch], changed[:batch], changed[batch:])
        ]
        errors = [distance(x, y) for x, y in zip(reads, wanted, strict=True)]
        speech = functional.cross_entropy(spoken[:, :-1].transpose(1, 2), words[:, 1:])
        loss = torch.stack(errors).sum() + language_weight * speech
        if silence:
            muted, _, _ = forward(model, pairs.tokens, _mute(algorithm, batch, grid, rng))
            heard = read(algorithm, muted, pairs.positions)
            loss = loss + heard.square().sum(-1).mean() / MARGIN**2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if step % log == 0 or step == steps - 1:
            report = "  ".join(
                f"{name} {error:.4f} ({(x.argmax(-1) + 1 == y).float().mean():.3f})"
                for name, error, x, y in zip(
                    ("behaviour", "interchange", "strict"), errors, reads, wanted, strict=True
                )
            )
            print(f"step {step:5d}  {time.time() - start:4.0f} s  {report}  text {speech:.3f}")
    return detached(model)


def _mute(algorithm: Algorithm, n: int, shape: tuple[int, int], rng: np.random.Generator) -> Edit:
    """The edit that zeroes one random node's head on each of ``n`` prompts."""
    heads = np.array(list(algorithm.nodes.values()))[rng.integers(len(algorithm.nodes), size=n)]
    kept = torch.ones((n, *shape), dtype=torch.bool)
    kept[torch.arange(n), heads[:, 0], heads[:, 1]] = False
    return lambda layer, z: z * kept[:, layer][:, None, :, None]
