"""Which engine answers for a model, and in which precision."""

from __future__ import annotations

import warnings
from typing import Literal, get_args
from weakref import WeakValueDictionary

import torch

from circuitbench.core.errors import InvalidSpec, ModelUnavailable, nearest
from circuitbench.models.base import Model
from circuitbench.oracle.engine.fast import Engine, FastEngine
from circuitbench.oracle.engine.hooks import HookEngine
from circuitbench.oracle.engine.linear import bfloat16_is_fast

Precision = Literal["exact", "fast", "approx"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

_engines: WeakValueDictionary[tuple[int, str, str], FastEngine | HookEngine] = WeakValueDictionary()


def engine_for(model: Model, device: str = "cpu", precision: str = "exact") -> Engine:
    """The engine that all oracles of one model, device and precision share.

    A model without plain weights is answered by hooks; that is said once per engine.

    Raises:
        ModelUnavailable: if the device is not there.
        InvalidSpec: for an unknown precision, or a model with neither weights nor hooks.
    """
    if precision not in PRECISIONS:
        raise InvalidSpec(f"no precision {precision!r}; {nearest(precision, PRECISIONS)}")
    place = usable_device(device)
    source = model.hooked if model.transformer is None else model.transformer
    if source is None:
        raise InvalidSpec(f"model {model.name!r} has neither plain weights nor a hooked model")
    key = id(source), str(place), precision
    engine: FastEngine | HookEngine | None = _engines.get(key)
    if engine is None:
        if model.transformer is None:
            warnings.warn(
                f"the architecture of {model.name} is not one the engine knows: "
                "every question goes through hooks, exact but slow",
                stacklevel=3,
            )
            engine = HookEngine(model.hooked, model.n_layers, model.n_heads, str(place))
        else:
            body, unembed = dtypes(place, precision)
            engine = FastEngine(model.transformer, place, body=body, unembed=unembed)
        _engines[key] = engine
    return engine


def usable_device(device: str) -> torch.device:
    """The device by name; raises :class:`ModelUnavailable` if this machine has no such thing."""
    try:
        place = torch.device(device)
    except RuntimeError:
        raise InvalidSpec(f"not a device: {device!r}; expected cpu, cuda or cuda:N") from None
    if place.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (place.index or 0) >= count:
            raise ModelUnavailable(f"no device {device!r} here: {count} CUDA devices were found")
    elif place.type != "cpu":
        raise InvalidSpec(f"not a device the engine knows: {device!r}; expected cpu or cuda")
    return place


def dtypes(device: torch.device, precision: str) -> tuple[torch.dtype, torch.dtype]:
    """What layers and control logits are computed in.

    ``exact`` is float32 throughout. ``fast`` computes the control loss's logits in bfloat16,
    ``approx`` the layers too, with a float32 residual stream. Where the device has no bfloat16
    arithmetic it would only be slower, so both compute in float32 there.
    """
    if precision == "exact" or not bfloat16_is_fast(device):
        return torch.float32, torch.float32
    if precision == "fast":
        return torch.float32, torch.bfloat16
    return torch.bfloat16, torch.bfloat16
