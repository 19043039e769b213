"""A case of InterpBench as it lies in a folder."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from oracle_kit import random_transformer

from circuitbench.models.weight_names import parameters

EDGES = [
    ("blocks.0.hook_resid_pre[:]", "blocks.0.hook_q_input[:, :, 1]"),
    ("blocks.0.attn.hook_q[:, :, 1]", "blocks.0.attn.hook_result[:, :, 1]"),  # within a head
    ("hook_embed[None]", "blocks.0.hook_mlp_in[None]"),
    ("blocks.0.attn.hook_result[:, :, 1]", "blocks.1.hook_v_input[:, :, 2]"),
    ("blocks.0.hook_mlp_out[None]", "blocks.1.attn.hook_result[:, :, 2]"),
    ("blocks.1.attn.hook_result[:, :, 2]", "blocks.1.hook_resid_post[:]"),
]
TOP = {"W_E": "embed.W_E", "W_pos": "pos_embed.W_pos", "W_U": "unembed.W_U", "b_U": "unembed.b_U"}


def write_case(folder: Path, causal: bool = False) -> Path:
    """Two layers that read 23 tokens, say 7 and look both ways, or back only."""
    folder.mkdir(parents=True)
    transformer = random_transformer(n_layers=2, d_mlp=12, activation="gelu", causal=causal)
    state = {}
    for key, tensor in parameters(transformer).items():
        _, _, rest = key.partition("layers.")
        layer, _, part = rest.partition(".")
        inside = "mlp" if part in ("W_in", "b_in", "W_out", "b_out") else "attn"
        state[f"blocks.{layer}.{inside}.{part}" if rest else TOP[key]] = tensor
    state["unembed.W_U"], state["unembed.b_U"] = (
        state["unembed.W_U"][:, :7].clone(),
        state["unembed.b_U"][:7].clone(),
    )
    state["blocks.0.attn.mask"] = torch.ones(12, 12).tril().bool()
    state["blocks.0.attn.IGNORE"] = torch.tensor(-torch.inf)
    torch.save(state, folder / "ll_model.pth")
    (folder / "ll_model_cfg.pkl").write_bytes(pickle.dumps(settings(causal)))
    (folder / "edges.pkl").write_bytes(pickle.dumps(EDGES))
    (folder / "meta.json").write_text(json.dumps({"lr": 0.01, "paths": ["/home/someone"]}))
    return folder


def settings(causal: bool = False) -> dict[str, Any]:
    return dict(
        n_layers=2,
        n_heads=4,
        d_model=16,
        d_head=4,
        d_mlp=12,
        d_vocab=23,
        d_vocab_out=7,
        n_ctx=12,
        act_fn="gelu",
        normalization_type=None,
        attention_dir="causal" if causal else "bidirectional",
        use_attn_scale=True,
        attn_scale=2.0,
        device=torch.device("cpu"),
        dtype=torch.float32,
        init_mode="gpt2",
        extra=None,
    )


def write_prompts(case: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        dict(
            clean=rng.integers(23, size=5).tolist(),
            corrupted=rng.integers(23, size=5).tolist(),
            answer=int(rng.integers(3)),
            wrong=int(rng.integers(3, 7)),
        )
        for _ in range(20)
    ]
    (case / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
