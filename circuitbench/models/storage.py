"""Plain weights in a folder: ``model.safetensors``, and what they mean in ``config.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from circuitbench.core.errors import InvalidSpec
from circuitbench.models.transformer import Transformer
from circuitbench.models.weight_names import parameters

FORMAT = "circuitbench"
WEIGHTS = "model.safetensors"


def write(transformer: Transformer, folder: Path, provenance: Mapping[str, Any]) -> None:
    """Write a model into a new or empty folder; raises :class:`InvalidSpec` if that fails."""
    named = {key: t.detach().cpu().contiguous() for key, t in parameters(transformer).items()}
    if named["W_U"].data_ptr() == named["W_E"].data_ptr():
        named["W_U"] = named["W_U"].clone()  # safetensors refuses shared memory
    content = {
        "format": FORMAT,
        "version": 1,
        "config": asdict(transformer.config),
        "provenance": dict(provenance),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InvalidSpec(f"{folder} is not empty; a model is saved into a folder of its own")
        save_file(named, folder / WEIGHTS)
        (folder / WEIGHTS).chmod(0o644)  # safetensors leaves files that only their owner can read
        (folder / "config.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidSpec(f"cannot save the model to {folder}: {error.strerror}") from error
