"""Checkpoints that no reader knows: Hugging Face's own modules, with hooks on the heads."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuitbench.core.errors import ModelUnavailable
from circuitbench.core.extras import needs_extra

_OUTPUT = re.compile(r"(?:^|\.)(\d+)\.[\w.]*att\w*(?:\.\w+)*?\.(o_proj|out_proj|dense|c_proj|wo)$")


class HookedCheckpoint:
    """What :class:`~circuitbench.oracle.engine.hooks.HookEngine` asks of a model.

    A hook named ``blocks.L.attn.hook_z`` is given what layer L's output projection reads,
    ``[batch, pos, n_heads * d_head]``, and may return what to use instead.

    Args:
        module: a causal language model of transformers.

    Raises:
        ModelUnavailable: where its attention is not found.
    """

    def __init__(self, module: Any) -> None:
        self.module = module.eval().requires_grad_(False)
        config = module.config.get_text_config()
        self.n_layers = int(config.num_hidden_layers)
        self.n_heads = int(config.num_attention_heads)
        self.d_vocab = int(config.vocab_size)
        found: dict[int, Any] = {}
        for name, part in module.named_modules():
            match = _OUTPUT.search(name)
            if match:
                found[int(match[1])] = part
        if sorted(found) != list(range(self.n_layers)):
            raise ModelUnavailable(
                f"cannot find the output projection of attention in {type(module).__name__}"
            )
        self._outputs = [found[layer] for layer in range(self.n_layers)]

    def to(self, device: str) -> HookedCheckpoint:
        """Itself, moved to a device."""
        self.module.to(device)
        return self

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits ``[batch, pos, d_vocab]``."""
        logits: Tensor = self.module(tokens, use_cache=False).logits
        return logits.float()

    def run_with_hooks(
        self, tokens: Tensor, fwd_hooks: Sequence[tuple[str, Callable[..., Any]]] = ()
    ) -> Tensor:
        """Logits, with hooks on heads' outputs."""
        handles = []
        try:
            for name, hook in fwd_hooks:
                part = self._outputs[int(name.split(".")[1])]
                handles.append(part.register_forward_pre_hook(_before(hook)))
            return self(tokens)
        finally:
            for handle in handles:
                handle.remove()


def _before(hook: Callable[..., Any]) -> Callable[..., Any]:
    def before(module: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        changed = hook(args[0], hook=None)
        return None if changed is None else (changed, *args[1:])

    return before


def load_hooked(folder: Path, name: str, dtype: torch.dtype) -> HookedCheckpoint:
    """A checkpoint as Hugging Face's modules: safetensors only, no code of its own.

    Raises :class:`ModelUnavailable` where transformers cannot load it either.
    """
    with needs_extra(f"model {name!r}"):
        from transformers import AutoModelForCausalLM
    try:
        module = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="eager",
        )
    except Exception as error:  # loaders raise whatever their file formats' libraries raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelUnavailable(f"transformers cannot load {name}: {reason[0]}") from None
    return HookedCheckpoint(module)
