"""Which engine answers for a model."""

from __future__ import annotations

import warnings
from weakref import WeakValueDictionary

from circuitbench.core.errors import InvalidSpec
from circuitbench.models.base import Model
from circuitbench.oracle.engine.base import Engine
from circuitbench.oracle.engine.devices import dtypes, resolve_device
from circuitbench.oracle.engine.fast import FastEngine
from circuitbench.oracle.engine.hooks import HookEngine

_engines: WeakValueDictionary[tuple[int, str, str], FastEngine | HookEngine] = WeakValueDictionary()


def engine_for(model: Model, device: str = "cpu", precision: str = "exact") -> Engine:
    """The engine that all oracles of one model, device and precision share.

    A model without plain weights is answered by hooks; that is said once per engine.

    Raises:
        ModelUnavailable: if the device is not there.
        InvalidSpec: for an unknown precision, or a model with neither weights nor hooks.
    """
    place = resolve_device(device)
    body, unembed = dtypes(place, precision)
    source = model.hooked if model.transformer is None else model.transformer
    if source is None:
        raise InvalidSpec(f"model {model.name!r} has neither plain weights nor a hooked model")
    key = id(source), str(place), precision
    engine: FastEngine | HookEngine | None = _engines.get(key)
    if engine is None:
        if model.transformer is None:
            because = f" ({model.hooked_because})" if model.hooked_because else ""
            warnings.warn(
                f"the architecture of {model.name} is not one the engine knows{because}: "
                "every question goes through hooks, exact but slow, and edges are not known",
                stacklevel=3,
            )
            engine = HookEngine(model.hooked, model.n_layers, model.n_heads, str(place))
        else:
            engine = FastEngine(model.transformer, place, body=body, unembed=unembed)
        _engines[key] = engine
    return engine
