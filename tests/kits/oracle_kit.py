"""Small random transformers, a task on them, and slow hooked references."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import Circuit
from circuitbench.models.base import Model
from circuitbench.models.transformer import LayerWeights, Transformer, TransformerConfig
from circuitbench.tasks.base import Prompts

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "attention-only": {},
    "no-norm-mlp": dict(d_mlp=20, activation="relu"),
    "gpt2": dict(d_mlp=20, normalization="layer"),
    "attention-only-layernorm": dict(normalization="layer"),
    "llama": dict(
        d_mlp=20,
        normalization="rms",
        positions="rotary",
        gated_mlp=True,
        activation="silu",
        n_kv_heads=2,
    ),
    "partial-rotary": dict(
        d_mlp=8, normalization="layer", positions="rotary", rotary_dim=2, activation="gelu"
    ),
}


def random_transformer(seed: int = 0, **changes: object) -> Transformer:
    """Random weights of any supported architecture, with activations of order one."""
    shape: dict[str, Any] = dict(
        n_layers=3, n_heads=4, d_model=16, d_head=4, d_vocab=23, n_ctx=12, attn_scale=0.5
    )
    cfg = TransformerConfig(**{**shape, **changes})
    rng = torch.Generator().manual_seed(seed)

    def draw(*size: int, scale: float = 1.0) -> Tensor:
        return torch.randn(size, generator=rng) * scale

    d, h = cfg.d_model, cfg.d_head
    norm = cfg.normalization != "none"
    shift = cfg.normalization == "layer"

    def layer() -> LayerWeights:
        mlp: dict[str, Tensor] = {}
        if cfg.d_mlp:
            mlp = dict(W_in=draw(d, cfg.d_mlp, scale=d**-0.5), W_out=draw(cfg.d_mlp, d, scale=0.1))
            if cfg.gated_mlp:
                mlp |= dict(W_gate=draw(d, cfg.d_mlp, scale=d**-0.5))
            else:
                mlp |= dict(b_in=draw(cfg.d_mlp, scale=0.1), b_out=draw(d, scale=0.1))
            mlp |= dict(ln2_w=1 + draw(d, scale=0.1)) if norm else {}
            mlp |= dict(ln2_b=draw(d, scale=0.1)) if shift else {}
        return LayerWeights(
            W_Q=draw(cfg.n_heads, d, h, scale=d**-0.5),
            W_K=draw(cfg.n_kv_heads, d, h, scale=d**-0.5),
            W_V=draw(cfg.n_kv_heads, d, h, scale=d**-0.5),
            W_O=draw(cfg.n_heads, h, d, scale=(cfg.n_heads * h) ** -0.5),
            b_Q=draw(cfg.n_heads, h, scale=0.1),
            b_K=draw(cfg.n_kv_heads, h, scale=0.1),
            b_V=draw(cfg.n_kv_heads, h, scale=0.1),
            b_O=draw(d, scale=0.1),
            ln1_w=1 + draw(d, scale=0.1) if norm else None,
            ln1_b=draw(d, scale=0.1) if shift else None,
            **mlp,
        )

    return Transformer(
        cfg,
        W_E=draw(cfg.d_vocab, d),
        W_U=draw(d, cfg.d_vocab, scale=d**-0.5),
        layers=tuple(layer() for _ in range(cfg.n_layers)),
        W_pos=draw(cfg.n_ctx, d, scale=0.5) if cfg.positions == "learned" else None,
        b_U=draw(cfg.d_vocab, scale=0.1),
        lnf_w=1 + draw(d, scale=0.1) if norm else None,
        lnf_b=draw(d, scale=0.1) if shift else None,
    )


def random_model(seed: int = 0, **changes: object) -> Model:
    """A model around :func:`random_transformer`."""
    t = random_transformer(seed, **changes)
    return Model("random", t.config.n_layers, t.config.n_heads, t)


def transformer_of(model: Model) -> Transformer:
    """The plain weights of a model that has them."""
    assert model.transformer is not None
    return model.transformer


class RandomTask:
    """Random prompts whose metric reads ``k`` random positions and two random logits each."""

    default_model = "random"

    def __init__(self, pos: int = 9, control_pos: int = 7, k: int = 1, vocab: int = 23) -> None:
        self.pos, self.control_pos, self.k, self.vocab = pos, control_pos, k, vocab

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        def ids(*size: int) -> Tensor:
            return torch.from_numpy(rng.integers(self.vocab, size=size))

        positions = ids(n, self.k) % self.pos
        positions[:, -1] = self.pos - 1
        return Prompts(
            tokens=ids(n, self.pos),
            counterfactual=ids(n, self.pos),
            positions=positions,
            token_ids=ids(n, self.k, 2),
            weights=torch.tensor([1.0, -1.0]).expand(n, self.k, 2),
            choices=torch.arange(self.vocab),
        )

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        return torch.from_numpy(rng.integers(self.vocab, size=(n, self.control_pos)))

    def truth(self, model: Model) -> Circuit:
        return Circuit({}, "none", "constructed")


class Hooked:
    """The slow way: transformer_lens hooks on every head, full logits."""

    def __init__(self, transformer: Transformer) -> None:
        from circuitbench.models.pretrained import to_transformer_lens

        self.bridge = to_transformer_lens(transformer)
        self.shape = transformer.config.n_layers, transformer.config.n_heads

    def z(self, tokens: Tensor) -> list[Tensor]:
        """Head outputs of the intact model, one ``[batch, pos, head, d_head]`` per layer."""
        found: dict[int, Tensor] = {}

        def save(layer: int) -> Any:
            def hook(z: Tensor, hook: object) -> None:
                found[layer] = z.clone()

            return f"blocks.{layer}.attn.hook_z", hook

        self.bridge.run_with_hooks(tokens, fwd_hooks=[save(x) for x in range(self.shape[0])])
        return [found[x] for x in range(self.shape[0])]

    def logits(self, tokens: Tensor, gates: Tensor, swap: list[Tensor] | None) -> Tensor:
        """Logits with ``z = g * z + (1 - g) * swap``; gates ``[n_layers, n_heads]`` float."""

        def edit(layer: int) -> Any:
            gate = gates[layer][:, None]
            other = 0.0 if swap is None else swap[layer]

            def hook(z: Tensor, hook: object) -> Tensor:
                return z * gate + (1 - gate) * other

            return f"blocks.{layer}.attn.hook_z", hook

        hooks = [edit(x) for x in range(self.shape[0])]
        logits: Tensor = self.bridge.run_with_hooks(tokens, fwd_hooks=hooks)
        return logits

    def masked(self, prompts: Prompts, mask: Tensor, ablation: str, direction: str) -> Tensor:
        """Logits under a mask."""
        if direction == "denoising":
            return self.logits(prompts.counterfactual, 1 - mask, self.z(prompts.tokens))
        if ablation == "zero":
            return self.logits(prompts.tokens, mask, None)
        swap = self.z(prompts.counterfactual)
        if ablation == "mean":
            swap = [z.mean(0, keepdim=True) for z in swap]
        return self.logits(prompts.tokens, mask, swap)

    def metric(self, prompts: Prompts, mask: Tensor, ablation: str, direction: str) -> Tensor:
        """Metric per prompt."""
        return prompts.metric(self.masked(prompts, mask, ablation, direction))

    def divergence(self, prompts: Prompts, mask: Tensor, ablation: str, direction: str) -> Tensor:
        """KL(intact || masked) per prompt, mean over the metric's positions."""
        rows = torch.arange(len(prompts))[:, None]
        clean = self.logits(prompts.tokens, torch.ones(self.shape), None)
        log_p, log_q = (
            logits[rows, prompts.positions].log_softmax(-1)
            for logits in (clean, self.masked(prompts, mask, ablation, direction))
        )
        return (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)

    def control(self, tokens: Tensor, mask: Tensor, ablation: str) -> Tensor:
        """Control loss per span."""
        swap = None if ablation == "zero" else self.z(tokens)
        if swap is not None:
            swap = [z.mean(0, keepdim=True) if ablation == "mean" else z.roll(-1, 0) for z in swap]
        logits = self.logits(tokens, mask, swap)
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        )
        return loss.view(len(tokens), -1).mean(1)
