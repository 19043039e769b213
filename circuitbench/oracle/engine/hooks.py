"""The slow way, for architectures the engine has no plain weights of: hooks on every head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from circuitbench.oracle.ablations import Objective, Text, ablation_named
from circuitbench.oracle.engine.base import Quantity, Question, Source
from circuitbench.oracle.rules import EXACT, Rule
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
        self._activations: WeakKeyDictionary[Source, _Activations] = WeakKeyDictionary()

    @torch.no_grad()
    def measure(
        self, questions: Sequence[Question], kl: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """See :meth:`Engine.measure`."""
        values, divergence = [], []
        for question in questions:
            logits = self._logits(question, torch.from_numpy(question.mask).float())
            values.append(self._read(question, logits).cpu())
            if kl:
                prompts = self._prompts(question)
                clean = self.hooked(prompts.tokens)
                divergence.append(_divergence(prompts, clean, logits).cpu())
        return torch.stack(values).numpy(), torch.stack(divergence).numpy() if kl else None

    @torch.no_grad()
    def accuracy(self, source: Source, rows: np.ndarray | None) -> float:
        """See :meth:`Engine.accuracy`."""
        intact = np.ones((self.n_layers, self.n_heads), bool)
        question = Question(source, "task", rows, intact, ablation_named("zero"))
        logits = self._logits(question, torch.from_numpy(intact).float())
        return float(self._prompts(question).correct(logits).float().mean())

    def differentiate(
        self, question: Question, of: Sequence[Quantity] = ("value",), rule: Rule = EXACT
    ) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`Engine.differentiate`; the true gradient only."""
        mask = torch.tensor(question.mask, dtype=torch.float32, requires_grad=True)
        with torch.enable_grad():
            logits = self._logits(question, mask)
            values = torch.stack([self._quantity(q, question, logits).mean() for q in of])
            grads = [torch.autograd.grad(v, mask, retain_graph=True)[0] for v in values]
        return values.detach().cpu().numpy(), torch.stack(grads).numpy()

    def _quantity(self, quantity: Quantity, question: Question, logits: Tensor) -> Tensor:
        """Values ``[rows]`` from full logits, differentiable."""
        if quantity == "value":
            return self._read(question, logits)
        prompts = self._prompts(question)
        with torch.no_grad():
            clean = self.hooked(prompts.tokens)
        return _divergence(prompts, clean, logits)

    def _prompts(self, question: Question) -> Prompts:
        prompts = question.source.prompts
        if question.rows is not None:
            prompts = prompts.take(torch.from_numpy(question.rows))
        return prompts.to(self.device)

    def _control(self, question: Question) -> Tensor:
        control = question.source.control
        control = control if question.rows is None else control[torch.from_numpy(question.rows)]
        return control.to(self.device)

    def _read(self, question: Question, logits: Tensor) -> Tensor:
        """Metric or control loss ``[rows]`` from full logits."""
        if question.half == "task":
            return self._prompts(question).metric(logits)
        tokens = self._control(question)
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        )
        return loss.view(len(tokens), -1).mean(1)

    def _logits(self, question: Question, mask: Tensor) -> Tensor:
        """Full logits under a soft mask ``[n_layers, n_heads]``."""
        if question.half == "control":
            tokens = self._control(question)
        else:
            prompts = self._prompts(question)
            tokens = prompts.tokens
            if question.direction == "denoising":
                tokens, mask = prompts.counterfactual, 1 - mask
        swap = self._swap(question)
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
    def _swap(self, question: Question) -> list[Tensor] | None:
        """What ablated heads put out instead, one tensor per layer for the question's rows."""
        activations = self._activations.get(question.source)
        if activations is None:
            activations = _Activations(self, question.source)
            self._activations[question.source] = activations
        if question.direction == "denoising":
            z: list[Tensor] | None = activations.heads("prompts")
        else:
            z = question.ablation.heads(question.half, activations)
        if z is None or question.rows is None:
            return z
        rows = torch.from_numpy(question.rows)
        return [layer if len(layer) == 1 else layer[rows] for layer in z]


class _Activations:
    """See :class:`circuitbench.oracle.ablations.Activations`."""

    def __init__(self, engine: HookEngine, source: Source) -> None:
        self._hooked, self._layers = engine.hooked, engine._layers
        self._prompts = source.prompts.to(engine.device)
        self._tokens: dict[Text, Tensor] = {
            "prompts": self._prompts.tokens,
            "counterfactual": self._prompts.counterfactual,
            "control": source.control.to(engine.device),
        }
        self._known: dict[Text, list[Tensor]] = {}
        self.fitted: dict[str, list[Tensor]] = {}
        self.lengths = self._prompts.lengths

    def heads(self, text: Text, everywhere: bool = True, n: int | None = None) -> list[Tensor]:
        """See :meth:`Activations.heads`; always at all positions."""
        if text not in self._known:
            self._known[text] = self._run(self._tokens[text])
        return [z[:n] for z in self._known[text]]

    def alone(self, layer: int, n: int) -> Objective:
        """See :meth:`Activations.alone`."""
        prompts = self._prompts.take(torch.arange(n)) if n < len(self._prompts) else self._prompts
        name = f"blocks.{layer}.attn.hook_z"
        clean = self._hooked(prompts.tokens)

        def objective(heads: Tensor, constants: Tensor) -> tuple[Tensor, Tensor]:
            losses, gradients = [], []
            for head, given in zip(heads.tolist(), constants, strict=True):
                constant = given.detach().requires_grad_()

                def hook(z: Tensor, hook: object, head: int = head, c: Tensor = constant) -> Tensor:
                    out = z.clone()
                    out.view(*z.shape[:2], -1, len(c))[:, :, head] = c
                    return out

                with torch.enable_grad():
                    logits = self._hooked.run_with_hooks(prompts.tokens, fwd_hooks=[(name, hook)])
                    loss = _divergence(prompts, clean, logits).mean()
                gradients.append(torch.autograd.grad(loss, constant)[0])
                losses.append(loss.detach())
            return torch.stack(losses), torch.stack(gradients)

        return objective

    def _run(self, tokens: Tensor) -> list[Tensor]:
        """The intact model's head outputs."""
        found: dict[int, Tensor] = {}

        def save(layer: int) -> Hook:
            def hook(z: Tensor, hook: object) -> None:
                found[layer] = z.clone()

            return f"blocks.{layer}.attn.hook_z", hook

        self._hooked.run_with_hooks(tokens, fwd_hooks=[save(x) for x in self._layers])
        return [found[x] for x in self._layers]


def _divergence(prompts: Prompts, clean: Tensor, logits: Tensor) -> Tensor:
    """KL(clean || ablated) ``[rows]`` at the metric's positions, from full logits."""
    rows = torch.arange(len(prompts), device=logits.device)[:, None]
    log_p, log_q = (x[rows, prompts.positions].log_softmax(-1) for x in (clean, logits))
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)
