"""Hard concrete gates: in [0, 1], exactly 0 or 1 with positive probability, and differentiable.

A sigmoid of noise around a location (log odds) is stretched to (LEFT, RIGHT) and clipped
(Louizos et al. 2018, arXiv 1712.01312). Shared by the methods that train masks.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LEFT, RIGHT, TEMPERATURE = -0.1, 1.1, 2 / 3


def draw(location: Tensor, rng: np.random.Generator) -> Tensor:
    """Gates drawn around ``location``, of its shape, differentiable by it (equations 10, 11)."""
    uniform = torch.as_tensor(rng.uniform(1e-6, 1 - 1e-6, location.shape))
    noise = torch.log(uniform) - torch.log1p(-uniform)
    return _stretched((noise + location) / TEMPERATURE).clamp(0, 1)


def open_chance(location: Tensor) -> Tensor:
    """Probability that a gate is not 0 (equation 12)."""
    return torch.sigmoid(location - TEMPERATURE * float(np.log(-LEFT / RIGHT)))


def quiet(location: Tensor) -> Tensor:
    """Gates without noise (equation 13)."""
    return _stretched(location).clamp(0, 1)


def location_of(gate: float) -> float:
    """The location whose gate without noise is ``gate``, between 0 and 1."""
    opened = (gate - LEFT) / (RIGHT - LEFT)
    return float(np.log(opened / (1 - opened)))


def _stretched(odds: Tensor) -> Tensor:
    return torch.sigmoid(odds) * (RIGHT - LEFT) + LEFT
