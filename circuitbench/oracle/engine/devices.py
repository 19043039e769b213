"""Where and in what precision to compute: names, what they mean here, and who is refused.

Importing this module does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from circuitbench.core.errors import InvalidSpec, ModelUnavailable, nearest

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["exact", "fast", "approx"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def resolve_device(device: str) -> torch.device:
    """The device of a name; ``auto`` is a CUDA device where there is one, else the CPU.

    Raises:
        InvalidSpec: for a name that is no device an engine knows.
        ModelUnavailable: for a device that this machine lacks; there is never a fallback.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if count else "cpu"
    try:
        place = torch.device(device)
    except RuntimeError:
        raise InvalidSpec(f"not a device: {device!r}; expected auto, cpu, cuda or cuda:N") from None
    if place.type == "cuda":
        if (place.index or 0) >= count:
            valid = "auto, cpu" + "".join(f", cuda:{i}" for i in range(count))
            raise ModelUnavailable(
                f"no device {device!r} here: {count} CUDA devices were found; valid here: {valid}"
            )
    elif place.type != "cpu":
        raise InvalidSpec(f"not a device the engine knows: {device!r}; expected cpu or cuda")
    return place


def dtypes(device: torch.device, precision: str) -> tuple[torch.dtype, torch.dtype]:
    """What layers and control logits are computed in.

    ``exact`` is float32 throughout. ``fast`` computes the control loss's logits in bfloat16,
    ``approx`` the layers too, with a float32 residual stream. Where the device has no bfloat16
    arithmetic it would only be slower, so both compute in float32 there.

    Raises:
        InvalidSpec: for an unknown precision.
    """
    import torch

    from circuitbench.oracle.engine.linear import bfloat16_is_fast

    if precision not in PRECISIONS:
        raise InvalidSpec(f"no precision {precision!r}; {nearest(precision, PRECISIONS)}")
    if precision == "exact" or not bfloat16_is_fast(device):
        return torch.float32, torch.float32
    if precision == "fast":
        return torch.float32, torch.bfloat16
    return torch.bfloat16, torch.bfloat16
