"""``hf:``: every architecture against Hugging Face's own forward pass, and honest refusals."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints_kit import ARCHITECTURES, module_of, save, save_tokenizer
from oracle_kit import RandomTask, transformer_of

from circuitbench.core.errors import InvalidSpec, ModelUnavailable, UnknownName
from circuitbench.models.base import Model
from circuitbench.models.checkpoints.hooked import HookedCheckpoint
from circuitbench.models.forward import forward
from circuitbench.oracle import Oracle
from circuitbench.oracle.engine.hooks import HookEngine
from circuitbench.plugins.registry import load_model

ABLATIONS = ("zero", "mean", "resample")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: Any) -> Path:
    """A folder with one checkpoint per architecture."""
    root: Path = tmp_path_factory.mktemp("checkpoints")
    for kind in ARCHITECTURES:
        save(kind, root / kind)
    return root


def oracle_of(model: Model, engine: Any = None) -> Oracle:
    return Oracle(
        model, RandomTask(vocab=24), task_name="t", seed=0, batch_size=4, engine=engine
    )


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_computes_what_hugging_face_computes(kind: str, folders: Path) -> None:
    """Logits, ablations of heads, and gradients by the mask, to 1e-4."""
    module = module_of(kind)
    model = load_model(f"hf:{folders / kind}")
    tokens = torch.arange(20).view(2, 10)
    with torch.no_grad():
        theirs = module(tokens).logits
    torch.testing.assert_close(
        forward(transformer_of(model), tokens).logits, theirs, atol=1e-4, rtol=1e-4
    )
    slow = oracle_of(model, HookEngine(HookedCheckpoint(module), 2, 4))
    fast = oracle_of(model)
    rng = torch.Generator().manual_seed(1)
    masks = torch.cat([fast.head_masks()[:3], torch.rand(5, 2, 4, generator=rng) < 0.5])
    soft = torch.rand(1, 2, 4, generator=rng)
    for ablation in ABLATIONS:
        ours, hooked = (
            o.query(masks, ablation=ablation, kl=True, per_prompt=True) for o in (fast, slow)
        )
        for name in ("per_prompt_task", "per_prompt_control", "kl"):
            torch.testing.assert_close(
                getattr(ours, name), getattr(hooked, name), atol=1e-4, rtol=1e-4
            )
        ours, hooked = (o.gradient(soft, ablation=ablation, of="reward") for o in (fast, slow))
        torch.testing.assert_close(ours, hooked, atol=1e-4, rtol=1e-4)
    ours, hooked = (o.query(masks, direction="denoising").task for o in (fast, slow))
    torch.testing.assert_close(ours, hooked, atol=1e-4, rtol=1e-4)
    assert fast.batch.accuracy == slow.batch.accuracy
