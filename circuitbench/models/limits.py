"""What a healthy task keeps to; a model states where it differs from the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from circuitbench.core.errors import UnknownName


@dataclass(frozen=True)
class Limits:
    """Limits of the health gate (:mod:`circuitbench.checks.health`).

    Args:
        accuracy: least share of prompts answered correctly.
        counterfactual: greatest counterfactual metric, relative to the clean one.
        control: greatest control loss, relative to a uniform guess.
        nothing: greatest share of the metric left with every head ablated.
        sufficiency: greatest deviation from 1 of the truth's faithfulness, on its own.
        family: greatest distance, on other prompts, from what a family of minimal sets states:
            of their faithfulness, and of that of sets that are smaller.
        edge_sufficiency: the same of the true edges alone.
        matters: least effect of a truth head in its best context.
        edge_matters: the same of a true edge.
        against: most truth heads whose effect in their best context is against their sign.
        tolerance: greatest effect of any other head or edge, in any context.
        together: greatest effect of a random half of the other heads or edges.
        stability: greatest change of a truth head's effect from one prompt seed to the next.
    """

    accuracy: float = 0.99
    counterfactual: float = 0.5
    control: float = 0.6
    nothing: float = 0.1
    sufficiency: float = 0.1
    family: float = 0.05
    edge_sufficiency: float = 0.05
    matters: float = 0.05
    edge_matters: float = 0.05
    against: float = 0
    tolerance: float = 0.02
    together: float = 0.05
    stability: float = 0.3

    @classmethod
    def parse(cls, own: Mapping[str, float]) -> Limits:
        """The defaults with some replaced; :class:`UnknownName` for one that does not exist."""
        known = [limit.name for limit in fields(cls)]
        for name in own:
            if name not in known:
                raise UnknownName("health limit", name, known)
        return cls(**own)


DEFAULT_LIMITS = Limits()
