"""What each member of a true circuit contributes: measured once per task, model and ablation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from circuitbench.core.circuit import Circuit
from circuitbench.core.seeding import derive_seed, generator
from circuitbench.evaluation.contributions import (
    Contributions,
    edge_contributions,
    head_contributions,
)
from circuitbench.models.base import Model
from circuitbench.models.digest import weights_digest
from circuitbench.oracle import Oracle
from circuitbench.runs.prepare import Prepared

PROMPTS = 8
MOST = 64  # kept at a time

_known: dict[tuple[str, ...], dict[str, Any]] = {}


def degrees_of(prepared: Prepared, truth: Circuit) -> dict[str, Any]:
    """What a record's truth holds of them: ``{"contributions": {"heads": {...}}}``.

    Where the run measures in full (``functional``) and the truth names edges, ``edges`` as well:
    they are many, and a mask of edges is more work than one of heads. Empty for a truth without
    degrees. They are a property of truth, model and ablation: the same for every method and seed,
    on prompts of their own, and on no meter of the run.
    """
    if not truth.degrees:
        return {}
    found = {"heads": _measured(prepared, truth, "heads", head_contributions)}
    if prepared.spec.functional == "full" and truth.edges:
        found["edges"] = _measured(prepared, truth, "edges", edge_contributions)
    return {"contributions": found}


def _measured(
    prepared: Prepared,
    truth: Circuit,
    members: str,
    measure: Callable[[Oracle, Circuit, np.random.Generator], Contributions],
) -> dict[str, Any]:
    spec, model = prepared.spec, prepared.model
    key = (spec.task, model.name, _digest(model), spec.ablation, members)
    if key not in _known:
        axes = (spec.task, model.name, "contributions")
        oracle = Oracle(
            model,
            prepared.task,
            task_name=spec.task,
            seed=derive_seed(0, *axes),
            ablation=spec.ablation,
            batch_size=PROMPTS,
            device=spec.device,
        )
        orders = "orders" if members == "heads" else f"orders of {members}"
        found = measure(oracle, truth, generator(0, *axes, orders))
        if len(_known) >= MOST:
            _known.pop(next(iter(_known)))
        _known[key] = found.plain()
    return _known[key]


def _digest(model: Model) -> str:
    """What tells models of one name apart; empty where there are no plain weights."""
    return "" if model.transformer is None else weights_digest(model.transformer)
