"""The slow way, for architectures the engine has no plain weights of: hooks on every head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from circuitbench.oracle.batch import Source
from circuitbench.oracle.engine.fast import Ask, Half
from circuitbench.tasks.base import Prompts

Hook = tuple[str, Callable[..., Any]]


class HookEngine:
    """Full hooked forward passes with full logits; same numbers, no reuse, no FLOP count.

    Args:
        hooked: a transformer_lens model (anything with its ``run_with_hooks``).
        n_layers, n_heads: its attention heads.
        device: where the model is moved to.
    """

    flops = 0.0

    def __init__(self, hooked: Any, n_layers: int, n_heads: int, device: str = "cpu") -> None:
        self.hooked = hooked.to(device)
        self.n_layers, self.n_heads, self.device = n_layers, n_heads, device
        self._activations: WeakKeyDictionary[Source, dict[str, list[Tensor]]] = WeakKeyDictionary()

    @torch.no_grad()
    def measure(
        self, half: Half, asks: Sequence[Ask], kl: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """See :meth:`Engine.measure`."""
        values, divergence = [], []
        for ask in asks:
            logits = self._logits(half, ask, torch.from_numpy(ask.mask).float())
            values.append(self._read(half, ask, logits).cpu())
            if kl:
                divergence.append(self._kl(ask, logits).cpu())
        return torch.stack(values).numpy(), torch.stack(divergence).numpy() if kl else None

    @torch.no_grad()
    def accuracy(self, source: Source, rows: np.ndarray | None) -> float:
        """See :meth:`Engine.accuracy`."""
        ask = Ask(source, rows, np.ones((self.n_layers, self.n_heads), bool))
        logits = self._logits("task", ask, torch.ones(self.n_layers, self.n_heads))
        return float(self._prompts(ask).correct(logits).float().mean())

    def gradient(self, half: Half, ask: Ask) -> np.ndarray:
        """See :meth:`Engine.gradient`."""
        mask = torch.tensor(ask.mask, dtype=torch.float32, requires_grad=True)
        with torch.enable_grad():
            value = self._read(half, ask, self._logits(half, ask, mask)).mean()
        return torch.autograd.grad(value, mask)[0].numpy()

    def _prompts(self, ask: Ask) -> Prompts:
        prompts = ask.source.prompts
        if ask.rows is not None:
            prompts = prompts.take(torch.from_numpy(ask.rows))
        return prompts.to(self.device)

    def _control(self, ask: Ask) -> Tensor:
        control = ask.source.control
        control = control if ask.rows is None else control[torch.from_numpy(ask.rows)]
        return control.to(self.device)

    def _read(self, half: Half, ask: Ask, logits: Tensor) -> Tensor:
        """Metric or control loss ``[rows]`` from full logits."""
        if half == "task":
            return self._prompts(ask).metric(logits)
        tokens = self._control(ask)
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        )
        return loss.view(len(tokens), -1).mean(1)

    def _kl(self, ask: Ask, logits: Tensor) -> Tensor:
        """KL(clean || ablated) ``[rows]`` at the metric's positions."""
        prompts = self._prompts(ask)
        clean = self.hooked(prompts.tokens)
        rows = torch.arange(len(prompts), device=logits.device)[:, None]
        log_p, log_q = (x[rows, prompts.positions].log_softmax(-1) for x in (clean, logits))
        return (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)

    def _logits(self, half: Half, ask: Ask, mask: Tensor) -> Tensor:
        """Full logits under a soft mask ``[n_layers, n_heads]``."""
        kind: str = ask.ablation
        if half == "control":
            tokens = self._control(ask)
        else:
            prompts = self._prompts(ask)
            tokens = prompts.tokens
            if ask.direction == "denoising":
                tokens, kind, mask = prompts.counterfactual, "clean", 1 - mask
        swap = None if kind == "zero" else self._swap(half, kind, ask)
        mask = mask.to(self.device)
        hooks = [self._edit(x, mask[x], None if swap is None else swap[x]) for x in self._layers]
        logits: Tensor = self.hooked.run_with_hooks(tokens, fwd_hooks=hooks)
        return logits

    @property
    def _layers(self) -> range:
        return range(self.n_layers)

    @staticmethod
    def _edit(layer: int, gate: Tensor, swap: Tensor | None) -> Hook:
        def hook(z: Tensor, hook: object) -> Tensor:
            heads = z.view(*z.shape[:2], len(gate), -1)
            kept = heads * gate[:, None]
            if swap is not None:
                kept = kept + (1 - gate)[:, None] * swap.view(*swap.shape[:2], len(gate), -1)
            return kept.view_as(z)

        return f"blocks.{layer}.attn.hook_z", hook

    @torch.no_grad()
    def _swap(self, half: Half, kind: str, ask: Ask) -> list[Tensor]:
        """What ablated heads put out instead, one tensor per layer for the ask's rows."""
        known = self._activations.setdefault(ask.source, {})
        which = half if half == "control" or kind == "clean" else "counterfactual"
        if which not in known:
            prompts = ask.source.prompts
            tokens = {
                "task": prompts.tokens,
                "counterfactual": prompts.counterfactual,
                "control": ask.source.control,
            }[which]
            known[which] = self._heads(tokens.to(self.device))
        z = known[which]
        if kind == "mean":
            return [layer.mean(0, keepdim=True) for layer in z]
        if which == "control":
            z = [layer.roll(-1, 0) for layer in z]
        return z if ask.rows is None else [layer[torch.from_numpy(ask.rows)] for layer in z]

    def _heads(self, tokens: Tensor) -> list[Tensor]:
        """The intact model's head outputs."""
        found: dict[int, Tensor] = {}

        def save(layer: int) -> Hook:
            def hook(z: Tensor, hook: object) -> None:
                found[layer] = z.clone()

            return f"blocks.{layer}.attn.hook_z", hook

        self.hooked.run_with_hooks(tokens, fwd_hooks=[save(x) for x in self._layers])
        return [found[x] for x in self._layers]
