"""Masks as anybody may hand them over."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from circuitbench.core.errors import InvalidSpec


def as_masks(masks: Any) -> Tensor:
    """``masks`` as a tensor of bool or real numbers; raises :class:`InvalidSpec` on all else."""
    try:
        found = torch.as_tensor(masks)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        kind = type(masks).__name__
        raise InvalidSpec(f"masks must be a tensor of bool or numbers, not a {kind}") from error
    if found.is_complex():
        raise InvalidSpec("masks must be bool or real numbers, not complex ones")
    return found
