"""What is predicted by what: truths, and the numbers that need none, of heads and of edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from circuitbench.evaluation.metrics import DEFAULT, Metric, metric
from circuitbench.evaluation.without_truth import MEASURED_ABLATIONS
from circuitbench.results.run_row import RunRow

Read = Callable[[RunRow], float | None]


@dataclass(frozen=True)
class Proxy:
    """A number that needs no truth, as a prediction: ``read`` turned so that higher is better."""

    key: str
    title: str
    about: str
    read: Read


@dataclass(frozen=True)
class Unit:
    """What circuits are made of.

    Args:
        name: ``heads`` or ``edges``.
        ranking: key of the truth by which rankings are judged.
        chosen: key of the truth by which committed sets are judged.
        degrees: keys of both by how much a head or edge contributes.
        proxies: makes the numbers that need no truth, in the order of the tables.
    """

    name: str
    ranking: str
    chosen: str
    degrees: tuple[str, str]
    proxies: Callable[[], tuple[Proxy, ...]]

    @property
    def truths(self) -> tuple[str, ...]:
        """What is to be predicted."""
        return (self.ranking, self.chosen, *self.degrees)

    @property
    def judged(self) -> dict[str, str]:
        """The truths that verdicts rest on, and what one chooses between by them."""
        return {self.ranking: f"rankings of {self.name}", self.chosen: f"sets of {self.name}"}


def _towards_one(key: str) -> Read:
    def read(run: RunRow) -> float | None:
        value = run.values.get(key)
        return None if value is None else -abs(1 - value)

    return read


def _signed(found: Metric) -> Read:
    sign = -1 if found.better == "lower" else 1

    def read(run: RunRow) -> float | None:
        value = run.values.get(found.key)
        return None if value is None else sign * value

    return read


def _faithfulness(prefix: str, things: str) -> list[Proxy]:
    """By its distance from 1, under each ablation, of the committed ``things``."""
    title = f"{prefix.replace('_', ' ')}faithfulness".capitalize()
    return [
        Proxy(
            f"{prefix}faithfulness_{kind}",
            f"{title}, {kind}",
            f"How near the committed {things} alone come to the model under {kind} ablation.",
            _towards_one(f"{prefix}faithfulness_{kind}"),
        )
        for kind in MEASURED_ABLATIONS
    ]


def of_heads() -> tuple[Proxy, ...]:
    """CPR and what is better when higher as it is; CMD and incompleteness turned round."""
    found = _faithfulness("", "heads")
    for area in ("cpr", "cmd"):
        for ablation in MEASURED_ABLATIONS:
            own = metric(f"{area}_{ablation}")
            found.append(Proxy(own.key, f"{area.upper()}, {ablation}", own.about, _signed(own)))
    for key, title in (
        ("completeness", "Completeness"),
        ("minimality", "Minimality"),
        ("test_equivalence", "Test: equivalence"),
        ("test_independence", "Test: independence"),
        ("test_minimality", "Test: minimality"),
        ("test_sufficiency", "Test: sufficiency"),
        ("test_necessity", "Test: partial necessity"),
    ):
        own = metric(key)
        found.append(Proxy(key, title, own.about, _signed(own)))
    return tuple(found)


def of_edges() -> tuple[Proxy, ...]:
    """Turned as those of heads; MIB's areas by each of its rules."""
    found = _faithfulness("edge_", "edges")
    for area in ("cpr", "cmd"):
        for rule in ("", "_greedy", "_exact"):
            for ablation in MEASURED_ABLATIONS:
                own = metric(f"edge_{area}{rule}_{ablation}")
                title = f"Edge {area.upper()}{rule.replace('_', ' ')}, {ablation}"
                found.append(Proxy(own.key, title, own.about, _signed(own)))
    return tuple(found)


HEADS = Unit("heads", DEFAULT, "f1", ("ndcg", "weighted_recall"), of_heads)
EDGES = Unit(
    "edges",
    "edge_average_precision",
    "edge_f1",
    ("edge_ndcg", "edge_weighted_recall"),
    of_edges,
)
UNITS = (HEADS, EDGES)
