"""What a soft mask is answered with: values, and their derivatives by its entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import Tensor

from circuitbench.core.errors import InvalidSpec, nearest

Of = Literal["task", "kl", "control", "reward"]
"""What can be differentiated; see :class:`Derivatives`."""

BACKWARD_COST = 2  # queries: a backward pass counts as two forward passes
GRADIENT_COST = 1 + BACKWARD_COST  # of one quantity: the forward pass and one backward pass


@dataclass(frozen=True)
class Derivatives:
    """Values at soft masks and their derivatives, float32 on the CPU, by what was asked for.

    ``task`` is the task *metric* (logit units, not its damage), ``kl`` the divergence
    KL(intact || masked) of the next-token distribution at the metric's positions (nats, mean over
    positions, then prompts), ``control`` the control loss (nats/token), ``reward`` the damage of
    the metric minus the weighted damage of the loss.

    Args:
        values: ``[n_masks]`` each; per prompt ``[n_masks, batch]``.
        gradients: ``[n_masks, n_layers, n_heads]`` each, or ``[n_masks, n_edges]``; per prompt
            ``[n_masks, batch, n_edges]``.
        offsets: ``[n_masks, n_senders, d_model]`` each, of edges asked about with offsets.
    """

    values: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    offsets: Mapping[str, Tensor] = field(default_factory=dict)


def checked_of(of: Sequence[str], known: Sequence[str] = get_args(Of)) -> tuple[str, ...]:
    """What to differentiate, each once; raises :class:`InvalidSpec` naming the nearest."""
    names = (of,) if isinstance(of, str) else tuple(dict.fromkeys(of))
    if not names:
        raise InvalidSpec(f"nothing to differentiate; valid: {', '.join(known)}")
    for name in names:
        if name not in known:
            raise InvalidSpec(f"no gradient of {name!r}; {nearest(str(name), known)}")
    return names


def derivatives_cost(of: Sequence[str]) -> int:
    """Queries of one mask: a forward pass, and a backward pass for everything in ``of``."""
    return 1 + BACKWARD_COST * len(of)
