"""All truth-free metrics of one discovery, from one oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import InvalidSpec
from circuitbench.evaluation.against_truth.evaluate import checked_scores, checked_selection
from circuitbench.evaluation.without_truth import MEASURED_ABLATIONS, hypotheses
from circuitbench.evaluation.without_truth.edge_areas import EdgeProbe, EdgeScores, edge_areas
from circuitbench.evaluation.without_truth.faithfulness import (
    RESOLUTION,
    Probe,
    completeness,
    faithfulness,
    mib_areas,
    minimality,
)
from circuitbench.oracle.ablations import ablation_named

if TYPE_CHECKING:
    from circuitbench.oracle import Batch, Oracle


@dataclass(frozen=True)
class MeasurementSettings:
    """How much to ask. Everything here changes numbers and belongs to a result's identity.

    Args:
        ablations: for faithfulness and the MIB areas; the rest uses the oracle's own.
        batches: batches of fresh prompts, shared by all metrics.
        subsets: random subsets K for completeness and minimality.
        random_circuits: reference circuits of Shi et al.'s tests; 0 leaves those tests out.
        max_heads: heads, or edges, of a large circuit that are tested one by one.
        permutations: of the independence test.
        quantile, epsilon: of Shi et al.'s tests.
    """

    ablations: tuple[str, ...] = MEASURED_ABLATIONS
    batches: int = 2
    subsets: int = 8
    random_circuits: int = 60
    max_heads: int = 24
    permutations: int = 1000
    quantile: float = 0.9
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (
            ("batches", 1),
            ("subsets", 1),
            ("max_heads", 1),
            ("random_circuits", 0),
            ("permutations", 1),
        ):
            if getattr(self, name) < least:
                raise InvalidSpec(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 < self.quantile < 1 or not 0 <= self.epsilon < 0.5:
            raise InvalidSpec("quantile must lie in (0, 1) and epsilon in [0, 0.5)")


@dataclass(frozen=True)
class EdgeSettings:
    """How much to ask about edges, with :class:`MeasurementSettings` for the rest.

    Args:
        ablations: for faithfulness and the areas.
        greedy: whether to measure the areas by MIB's greedy rule too.
        knockouts: whether to measure minimality and test the committed set.
    """

    ablations: tuple[str, ...] = MEASURED_ABLATIONS
    greedy: bool = True
    knockouts: bool = True


# About a quarter of the default's queries. With fewer random circuits than 29 Shi et al.'s relaxed
# tests cannot reject at 5 %: 0.9 ** 29 is the least p-value they can give.
QUICK = MeasurementSettings(batches=1, subsets=4, random_circuits=29, max_heads=8)
QUICK_EDGES = EdgeSettings(("resample",), greedy=False, knockouts=False)


def measure(
    oracle: Oracle,
    discovery: Discovery,
    rng: np.random.Generator,
    settings: MeasurementSettings | None = None,
    edge_settings: EdgeSettings | None = None,
) -> dict[str, Any]:
    """Faithfulness, MIB areas, completeness, minimality and hypothesis tests of a discovery.

    CPR ranks by ``discovery.signed`` where a method gives it, else by ``discovery.scores``; CMD
    always ranks by ``discovery.scores``, the method's belief of who matters.

    Args:
        oracle: one made for evaluation: other prompts than the method saw, its own meter, no
            budget.
        rng: seeds the prompts, the subsets and the permutations.

    Returns:
        JSON-able: ``faithfulness {ablation: {value, circuit, empty, full}}``, ``mib {ablation:
        ...}``, ``completeness``, ``minimality``, ``tests`` (see :func:`circuit_tests`),
        ``rankings``, ``settings`` and ``cost``. What an empty circuit has no value for is None,
        with the reason under ``undefined``. Of a discovery that scores edges also ``edges``:
        the same of them, see :func:`edge_measurements`.

    Raises:
        RunFailed: the discovery is broken, or the model gives values that are not finite.
    """
    settings = settings or MeasurementSettings()
    scores = checked_scores(discovery.scores, oracle.n_layers, oracle.n_heads)
    circuit = checked_selection(discovery, oracle.n_layers, oracle.n_heads)
    signed = scores
    if discovery.signed is not None:
        signed = checked_scores(discovery.signed, oracle.n_layers, oracle.n_heads)
    before = oracle.meter.copy()
    of_tests = rng.spawn(1)[0]  # so that no other number depends on whether there are tests
    batches = [oracle.draw(int(rng.integers(2**63 - 1))) for _ in range(settings.batches)]
    result: dict[str, Any] = {
        "faithfulness": {},
        "mib": {},
        "rankings": {
            "cpr": "scores" if signed is scores else "signed",
            "cmd": "scores",
        },
        "completeness": None,
        "minimality": None,
        "tests": None,
        "undefined": {},
    }
    for ablation in settings.ablations:
        probe = Probe(oracle, batches, ablation)
        result["faithfulness"][ablation] = _faithfulness(probe, circuit)
        result["mib"][ablation] = mib_areas(probe, signed, scores, rng)
    probe = Probe(oracle, batches, oracle.ablation)
    if circuit.any():
        result["completeness"] = completeness(probe, circuit, settings.subsets, rng)
        result["minimality"] = minimality(probe, circuit, settings.subsets, rng, settings.max_heads)
        if settings.random_circuits:
            result["tests"] = circuit_tests(probe, circuit, of_tests, settings)
    else:
        why = "nothing was selected"
        result["undefined"] = dict.fromkeys(("completeness", "minimality", "tests"), why)
    result["settings"] = {**asdict(settings), "ablation": oracle.ablation}
    result["settings"]["ablations"] = list(settings.ablations)
    if discovery.edges is not None:
        result["edges"] = edge_measurements(
            oracle, discovery, batches, rng, settings, edge_settings or EdgeSettings()
        )
    result["cost"] = oracle.meter.since(before).as_dict()
    return result


def edge_measurements(
    oracle: Oracle,
    discovery: Discovery,
    batches: Sequence[Batch],
    rng: np.random.Generator,
    settings: MeasurementSettings,
    edge_settings: EdgeSettings,
) -> dict[str, Any]:
    """What the model says of the edges that a discovery scores and of those it commits to.

    Returns:
        ``mib``, ``mib_greedy`` and ``exact``, each ``{ablation: areas}`` (see
        :func:`edge_areas`); of the committed set ``faithfulness {ablation: {value, circuit,
        empty, full}}``, ``minimality`` and ``tests`` (under the oracle's own ablation);
        ``rankings`` and ``settings``. What does not exist is None, with the reason under
        ``undefined``.
    """
    result: dict[str, Any] = {
        "mib": {},
        "mib_greedy": {},
        "exact": {},
        "faithfulness": None,
        "minimality": None,
        "tests": None,
        "rankings": {
            "cpr": "edges" if discovery.signed_edges is None else "signed_edges",
            "cmd": "edges",
        },
        "undefined": {},
        "settings": {**asdict(edge_settings), "ablations": list(edge_settings.ablations)},
    }
    try:
        graph = oracle.edges.graph
    except InvalidSpec as error:
        result["undefined"] = {"edges": str(error)}
        return result
    scores = EdgeScores.of(discovery, graph)
    chosen = discovery.selected_edges or frozenset()
    circuit = np.array([edge in chosen for edge in graph.edges])
    if circuit.any():
        result["faithfulness"] = {}
    for ablation in edge_settings.ablations:
        probe = EdgeProbe(oracle, batches, ablation)
        for rule, areas in edge_areas(probe, scores, rng, edge_settings.greedy).items():
            result[rule][ablation] = areas
        if circuit.any():
            result["faithfulness"][ablation] = _faithfulness(probe, circuit)
    if not circuit.any():
        why = "no edge was selected"
        result["undefined"] = dict.fromkeys(("faithfulness", "minimality", "tests"), why)
    elif not edge_settings.knockouts:
        why = "left out by the settings"
        result["undefined"] = dict.fromkeys(("minimality", "tests"), why)
    elif not ablation_named(oracle.ablation).edges:
        why = f"{oracle.ablation} ablation knows no edges"
        result["undefined"] = dict.fromkeys(("minimality", "tests"), why)
    else:
        probe = EdgeProbe(oracle, batches, oracle.ablation)
        result["minimality"] = minimality(probe, circuit, settings.subsets, rng, settings.max_heads)
        if settings.random_circuits:
            result["tests"] = circuit_tests(probe, circuit, rng, settings)
    return result


def _faithfulness(probe: Probe, circuit: np.ndarray) -> dict[str, float | None]:
    pair = np.stack([circuit, np.zeros_like(circuit)])
    kept, empty = (float(x) for x in probe.mean(pair))
    full = float(probe.clean.mean())
    value = faithfulness(kept, empty, full)
    return {"value": value, "circuit": kept, "empty": empty, "full": full}


def circuit_tests(
    probe: Probe,
    circuit: np.ndarray,
    rng: np.random.Generator,
    settings: MeasurementSettings | None = None,
) -> dict[str, Any]:
    """The tests of Shi et al. 2024 on one non-empty circuit, of heads or of edges.

    Returns:
        ``equivalence``, ``independence``, ``minimality {heads: {head: {effect, p_value}},
        unnecessary, p_value}`` (``edges`` of a circuit of edges), ``sufficiency``,
        ``partial_necessity``: see :mod:`circuitbench.evaluation.without_truth.hypotheses`.
        ``minimality`` is None for the whole model, which has nothing to add.
    """
    settings = settings or MeasurementSettings()
    alone, without = probe.per_prompt(np.stack([circuit, ~circuit]))
    model = probe.clean
    size, n = int(circuit.sum()), settings.random_circuits
    random = np.zeros((n, circuit.size), dtype=bool)
    np.put_along_axis(random, rng.random(random.shape).argsort(axis=1)[:, :size], True, axis=1)
    random = random.reshape(n, *circuit.shape)
    kept, knocked = np.split(probe.per_prompt(np.concatenate([random, ~random])), 2)

    def distance(scores: np.ndarray) -> np.ndarray:
        """Mean ``|s(M) - s|`` over prompts; differences below the oracle's accuracy are none."""
        gap = np.abs(scores - model).mean(axis=-1)
        return np.asarray(np.where(gap < RESOLUTION, 0.0, gap))

    return {
        "equivalence": hypotheses.equivalence(alone, model, settings.epsilon, RESOLUTION),
        "independence": hypotheses.independence(
            without, model, rng, settings.permutations, RESOLUTION
        ),
        "minimality": _minimality_test(probe, circuit, alone, rng, settings),
        "sufficiency": hypotheses.better_than_random(
            -float(distance(alone)), -distance(kept), settings.quantile
        ),
        "partial_necessity": hypotheses.better_than_random(
            float(distance(without)), distance(knocked), settings.quantile
        ),
    }


def _minimality_test(
    probe: Probe,
    circuit: np.ndarray,
    alone: np.ndarray,
    rng: np.random.Generator,
    settings: MeasurementSettings,
) -> dict[str, Any] | None:
    inside = rng.permutation(np.argwhere(circuit))[: settings.max_heads]
    outside = rng.permutation(np.argwhere(~circuit))[: settings.random_circuits]
    if not len(outside):
        return None
    places = np.concatenate([inside, outside])
    changed = np.repeat(circuit[None], len(places), axis=0)
    changed[(np.arange(len(places)), *places.T)] ^= True
    effects = np.abs(probe.per_prompt(changed) - alone).mean(axis=1)
    effects = np.where(effects < RESOLUTION, 0.0, effects)
    own, added = effects[: len(inside)], effects[len(inside) :]
    p = hypotheses.minimality_p_values(own, added, settings.quantile)
    own_p = [{"effect": float(e), "p_value": float(q)} for e, q in zip(own, p, strict=True)]
    tested = probe.by_name(inside, own_p)
    return {
        probe.unit: tested,
        "unnecessary": [name for name, entry in tested.items() if entry["p_value"] < 0.05],
        "n_random": len(outside),
        "p_value": float(p.min()),
    }
