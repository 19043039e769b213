"""The engine that answers every question: how much does switching these heads off hurt?

Names are imported when they are first used, so that the kinds of ablation, precisions and devices
can be listed without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuitbench.oracle.ablations import ABLATIONS, AblationName
    from circuitbench.oracle.batch import Batch
    from circuitbench.oracle.damages import Damages
    from circuitbench.oracle.edges import EdgeOracle
    from circuitbench.oracle.heads import Oracle, query_together
    from circuitbench.oracle.meter import Meter

__all__ = [
    "ABLATIONS",
    "AblationName",
    "Batch",
    "Damages",
    "EdgeOracle",
    "Meter",
    "Oracle",
    "query_together",
]

_HOMES = {
    "ABLATIONS": "ablations",
    "AblationName": "ablations",
    "Batch": "batch",
    "Damages": "damages",
    "EdgeOracle": "edges",
    "Meter": "meter",
    "Oracle": "heads",
    "query_together": "heads",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
