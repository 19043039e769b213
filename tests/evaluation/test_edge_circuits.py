"""Circuits of edges on a graph of two one-head layers, every value derived by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_kit import RandomTask, random_model

from circuitbench.core.circuit import Circuit, Edge, Head
from circuitbench.core.discovery import Discovery
from circuitbench.core.edges import Graph
from circuitbench.core.errors import InvalidSpec, RunFailed
from circuitbench.evaluation.against_truth.edges import edge_metrics
from circuitbench.evaluation.against_truth.ranking import TiedRanking, auroc, pessimistic_auroc
from circuitbench.evaluation.answer_check import check_discovery
from circuitbench.evaluation.metrics import metric
from circuitbench.evaluation.outcome import Outcome
from circuitbench.evaluation.without_truth.edge_areas import EdgeProbe, EdgeScores, edge_areas
from circuitbench.evaluation.without_truth.edge_cuts import (
    best_first,
    greedy_first,
    mib_places,
    pruned,
)
from circuitbench.evaluation.without_truth.measurements import (
    QUICK,
    QUICK_EDGES,
    EdgeSettings,
    MeasurementSettings,
    measure,
)
from circuitbench.oracle import Meter, Oracle
from circuitbench.results.discovery import plain_discovery, read_discovery
from circuitbench.results.record import truth_of

GRAPH = Graph(2, 1, mlps=False)
# What each edge adds to the metric, and what a method says of it; ten in all.
GAIN = {
    "1.0->logits": 2.0,
    "0.0->1.0.v": 4.0,
    "embed->0.0.v": 1.0,
    "0.0->logits": 1.0,
    "embed->logits": 2.0,
}
RAW = {
    "1.0->logits": 5.0,
    "embed->logits": 4.5,
    "embed->0.0.v": 4.0,
    "0.0->1.0.k": 3.0,
    "0.0->logits": 3.0,
    "0.0->1.0.v": -6.0,
}
COUNTS = [0, 0, 0, 0, 0, 0, 1, 2, 6, 12]  # int(p * 12): all below a twelfth is nothing


def edges(scores: dict[str, float]) -> dict[Edge, float]:
    return {Edge.parse(name): float(score) for name, score in scores.items()}


def of_graph(values: dict[str, float], otherwise: float = 0.0) -> np.ndarray:
    listed = edges(values)
    return np.array([listed.get(edge, otherwise) for edge in GRAPH.edges])


def mask_of(*names: str) -> np.ndarray:
    return of_graph(dict.fromkeys(names, 1.0)) > 0


def names_of(places: Any) -> list[str]:
    return [str(GRAPH.edges[i]) for i in places]


def discovery(raw: dict[str, float] = RAW, **changes: Any) -> Discovery:
    belief = {edge: abs(score) for edge, score in edges(raw).items()}
    found = Discovery(np.ones((2, 1)), frozenset({Head(0, 0)}), belief, signed_edges=edges(raw))
    return replace(found, **changes)


class Additive:
    """An oracle on which heads and edges add up; counts what it is asked."""

    n_layers, n_heads, ablation = 2, 1, "zero"

    def __init__(self) -> None:
        self.meter = Meter()
        self.gain = of_graph(GAIN)
        self.asked: list[np.ndarray] = []
        self.edges = SimpleNamespace(graph=GRAPH, query=self._of_edges)

    def draw(self, seed: int) -> Any:
        return SimpleNamespace(clean=lambda batch, part: np.full(4, 10.0))

    def query(self, masks: Any, **_: Any) -> Any:
        return self._answer(masks.numpy().reshape(len(masks), -1) @ np.array([6.0, 4.0]))

    def _of_edges(self, masks: Any, **_: Any) -> Any:
        self.asked += list(masks.numpy())
        return self._answer(masks.numpy() @ self.gain)

    def _answer(self, values: np.ndarray) -> Any:
        self.meter.queries += len(values)
        return SimpleNamespace(per_prompt_task=torch.from_numpy(10 - values)[:, None].expand(-1, 4))


def areas_of(found: Discovery, greedy: bool = True, ablation: str = "zero") -> dict[str, Any]:
    oracle: Any = Additive()
    probe = EdgeProbe(oracle, [oracle.draw(0)], ablation)
    scores = EdgeScores.of(found, GRAPH)
    return edge_areas(probe, scores, np.random.default_rng(0), greedy)


def test_mibs_areas_by_hand() -> None:
    result = areas_of(discovery())["mib"]
    assert result["edges"] == COUNTS
    # signed: {1.0->logits} dangles; with embed->logits only that stays; six are connected, but
    # among the edges without a score embed->0.0.q comes in before 0.0->1.0.v (-6), worth 4
    assert result["left"]["signed"] == [0] * 6 + [0, 1, 6, 12]
    assert result["signed"] == pytest.approx([0] * 7 + [0.2, 0.6, 1])
    # absolute: 0.0->1.0.v dangles, and with it 1.0->logits; the six listed edges are all there is
    assert result["left"]["absolute"] == [0] * 8 + [6, 12]
    assert result["absolute"] == pytest.approx([0] * 8 + [1, 1])
    assert result["cpr"] == pytest.approx(0.1 * 0.1 + 0.3 * 0.4 + 0.5 * 0.8)
    assert result["cmd"] == pytest.approx(0.199 + 0.3 * 0.5)


def test_our_areas_by_hand() -> None:
    result = areas_of(discovery())["exact"]
    assert result["edges"] == [0, *COUNTS]
    assert result["sizes"] == pytest.approx([k / 12 for k in (0, *COUNTS)])
    # nothing is pruned, and an edge that is listed with -6 stands above those not listed
    assert result["signed"] == pytest.approx([0] * 7 + [0.2, 0.4, 1, 1])
    assert result["absolute"] == pytest.approx([0] * 7 + [0.4, 0.6, 1, 1])
    assert result["cpr"] == pytest.approx((0.1 + 0.3) / 12 + 0.7 / 3 + 0.5)
    assert result["cmd"] == pytest.approx((0.8 + 0.5) / 12 + 0.2 / 3)


def test_the_greedy_option_by_hand() -> None:
    raw = {"0.0->1.0.v": 9.0, "embed->0.0.v": 8.0, "embed->logits": 1.0, "1.0->logits": 0.5}
    result = areas_of(discovery(raw))
    # the best two edges dangle; the best that leads to the logits does not
    assert result["mib"]["signed"] == pytest.approx([0] * 8 + [0.9, 1])
    assert result["mib"]["cpr"] == pytest.approx(0.3 * 0.45 + 0.5 * 0.95)
    assert result["mib_greedy"]["left"]["signed"] == [0] * 6 + [1, 1, 6, 12]
    assert result["mib_greedy"]["signed"] == pytest.approx([0] * 6 + [0.2, 0.2, 0.9, 1])
    assert result["mib_greedy"]["cpr"] == pytest.approx(
        0.05 * 0.1 + 0.1 * 0.2 + 0.3 * 0.55 + 0.5 * 0.95
    )
    assert result["mib_greedy"]["cmd"] == pytest.approx(
        0.049 + 0.05 * 0.9 + 0.1 * 0.8 + 0.3 * 0.45 + 0.5 * 0.05
    )
    assert areas_of(discovery(raw), greedy=False).keys() == {"mib", "exact"}


def test_the_greedy_order_opens_a_node_by_its_first_edge() -> None:
    signed = names_of(greedy_first(GRAPH, of_graph(RAW), absolute=False))
    assert signed[:5] == [
        "1.0->logits",
        "embed->logits",
        "0.0->1.0.k",
        "embed->0.0.v",
        "0.0->logits",
    ]
    assert signed[-1] == "0.0->1.0.v"
    magnitude = names_of(greedy_first(GRAPH, of_graph(RAW), absolute=True))
    assert magnitude[:4] == ["1.0->logits", "0.0->1.0.v", "embed->logits", "embed->0.0.v"]
    assert sorted(magnitude) == sorted(names_of(range(12)))
    # of equal magnitude the lower raw score goes first, as in MIB's heap
    tied = of_graph({"embed->logits": 3.0, "0.0->logits": -3.0})
    assert names_of(greedy_first(GRAPH, tied, absolute=True))[0] == "0.0->logits"


def test_ties_stand_in_the_order_of_mibs_matrix() -> None:
    order = names_of(best_first(np.zeros(12), mib_places(GRAPH)))
    assert order[:3] == ["embed->0.0.q", "embed->0.0.k", "embed->0.0.v"]
    assert order[6:] == [
        "embed->logits",
        "0.0->1.0.q",
        "0.0->1.0.k",
        "0.0->1.0.v",
        "0.0->logits",
        "1.0->logits",
    ]
    wide = Graph(1, 2, mlps=True)
    first = [str(wide.edges[i]) for i in np.argsort(mib_places(wide))][:8]
    heads = [f"embed->0.{head}.{letter}" for letter in "qkv" for head in range(2)]
    assert first == [*heads, "embed->m0", "embed->logits"]


def test_pruning_removes_what_dangles_again_and_again() -> None:
    path = ("embed->0.0.q", "0.0->1.0.k", "1.0->logits")
    assert (pruned(GRAPH, mask_of(*path)) == mask_of(*path)).all()
    for missing in path:
        assert not pruned(GRAPH, mask_of(*(edge for edge in path if edge != missing))).any()
    beside = mask_of("embed->logits", "embed->1.0.v", "embed->0.0.q")
    assert (pruned(GRAPH, beside) == mask_of("embed->logits")).all()
    assert pruned(GRAPH, np.ones(12, dtype=bool)).all()


WIDE = Graph(3, 2, mlps=True)


def node_of(receiver: str) -> str:
    return receiver if receiver[-1] not in "qkv" else receiver[:-2]


def reached(start: str, steps: dict[str, set[str]]) -> set[str]:
    """All nodes that steps lead to from a node."""
    found, new = {start}, {start}
    while new := {b for a in new for b in steps.get(a, ())} - found:
        found |= new
    return found


@given(seed=st.integers(0, 999), share=st.sampled_from([0.02, 0.05, 0.1, 0.3]))
def test_what_stays_lies_on_a_path_from_embedding_to_logits(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random(len(WIDE.edges)) < share
    down: dict[str, set[str]] = {}
    up: dict[str, set[str]] = {}
    for i in np.flatnonzero(mask):
        sender, hears = WIDE.edges[i].sender, node_of(WIDE.edges[i].receiver)
        down.setdefault(sender, set()).add(hears)
        up.setdefault(hears, set()).add(sender)
    fed, used = reached("embed", down), reached("logits", up)
    expected = [
        bool(kept) and edge.sender in fed and node_of(edge.receiver) in used
        for edge, kept in zip(WIDE.edges, mask, strict=True)
    ]
    assert pruned(WIDE, mask).tolist() == expected


@given(seed=st.integers(0, 99), absolute=st.booleans())
def test_the_greedy_order_takes_the_best_edge_into_a_reached_node(
    seed: int, absolute: bool
) -> None:
    scores = np.random.default_rng(seed).integers(-4, 5, len(WIDE.edges)).astype(float)
    place = mib_places(WIDE)
    inside, expected, left = {"logits"}, [], set(range(len(WIDE.edges)))
    while left:
        able = [i for i in left if node_of(WIDE.edges[i].receiver) in inside]
        keys = {i: (-abs(scores[i]) if absolute else -scores[i], scores[i], place[i]) for i in able}
        best = min(keys, key=lambda i: keys[i])
        expected.append(best)
        left.remove(best)
        inside.add(WIDE.edges[best].sender)
    assert greedy_first(WIDE, scores, absolute).tolist() == expected


def test_the_same_circuit_is_asked_about_once_and_the_whole_model_never() -> None:
    oracle: Any = Additive()
    for ablation, expected in (("zero", 4), ("resample", 2)):
        oracle.asked.clear()
        probe = EdgeProbe(oracle, [oracle.draw(0)], ablation)
        cuts = [mask_of("embed->logits"), mask_of("embed->logits", "1.0->logits"), mask_of()]
        circuits = np.array([*cuts, *cuts, np.ones(12, dtype=bool), mask_of("0.0->logits")])
        values = probe.distinct_means(circuits)
        assert len(oracle.asked) == expected
        assert values[6] == 10
        assert values[0] == values[3] == 2
        assert values[1] == (4 if ablation == "zero" else 2)


def test_a_metric_that_no_edge_moves_has_no_areas() -> None:
    oracle: Any = Additive()
    oracle.gain = np.zeros(12)
    oracle.gain[0] = 1e-9
    oracle.edges.query = lambda masks, **_: oracle._answer(np.full(len(masks), 10.0))
    probe = EdgeProbe(oracle, [oracle.draw(0)], "zero")
    result = edge_areas(probe, EdgeScores.of(discovery(), GRAPH), np.random.default_rng(0), False)
    assert result["mib"]["cpr"] is result["exact"]["cmd"] is None
    assert "does not change" in result["mib"]["undefined"]


@pytest.mark.parametrize(
    ("sizes", "hits", "area"),
    [  # the checks in ACDC's own code
        ([8], [4], 0.0),  # two points
        ([4, 4], [2, 2], 0.5**2),
        ([2, 6], [1, 3], 0.25 * 0.75),
        ([2, 2, 4], [1, 1, 2], 5 / 16),
        ([2, 3, 3], [1, 1, 2], 4 / 16),
    ],
)
def test_acdcs_staircase(sizes: list[int], hits: list[int], area: float) -> None:
    ranking = TiedRanking(np.array(sizes), np.array(hits))
    assert pessimistic_auroc(ranking) == pytest.approx(area)
    assert auroc(ranking) >= pessimistic_auroc(ranking)
    strict = TiedRanking(np.ones(6, dtype=int), np.array([1, 0, 1, 0, 0, 1]))
    assert pessimistic_auroc(strict) == auroc(strict)


TRUTH = frozenset(map(Edge.parse, ("1.0->logits", "0.0->1.0.v", "embed->0.0.v")))


def test_a_committed_set_against_the_truth() -> None:
    chosen = frozenset(map(Edge.parse, ("1.0->logits", "embed->logits", "m0->logits")))
    result = edge_metrics(edges(RAW), TRUTH, 2, 1, chosen)["selection"]
    # the truth says nothing of MLPs: two are chosen, one of three is right, among twelve
    assert (result["by"], result["size"], result["overlap"]) == ("committed", 2, 1)
    assert result["precision"] == 1 / 2
    assert result["recall"] == 1 / 3
    assert result["f1"] == 2 / 5
    assert result["mcc"] == pytest.approx((12 - 6) / np.sqrt(2 * 10 * 3 * 9))
    assert result["chance"] == {
        "precision": 3 / 12,
        "recall": 2 / 12,
        "f1": pytest.approx(12 / 60),
        "mcc": 0.0,
    }
    with pytest.raises(RunFailed, match=r"1\.0->0\.0\.q"):
        edge_metrics(edges(RAW), TRUTH, 2, 1, frozenset({Edge("1.0", "0.0.q")}))


def test_who_commits_to_no_edges_is_taken_at_as_many_as_are_true() -> None:
    result = edge_metrics(edges(RAW), TRUTH, 2, 1)["selection"]
    assert (result["by"], result["size"], result["overlap"]) == ("top_r", 3, 2)
    assert result["precision"] == result["recall"] == result["f1"] == pytest.approx(2 / 3)
    # a tie across the cut counts by expectation: one sure, two places among eleven, two true
    tied = edge_metrics(edges({"1.0->logits": 1.0}), TRUTH, 2, 1)["selection"]
    assert tied["overlap"] == pytest.approx(1 + 2 * 2 / 11)
    none = edge_metrics(edges(RAW), TRUTH, 2, 1, frozenset())["selection"]
    assert (none["precision"], none["recall"], none["mcc"]) == (None, 0.0, None)


def test_the_registry_shows_sets_staircase_and_areas() -> None:
    found = discovery(selected_edges=frozenset({Edge("1.0", "logits")}))
    measured = measure_additive(found, EdgeSettings(("resample",)))
    truth = truth_of(Circuit({}, "invented", "constructed", edges=TRUTH))
    run = Outcome(plain_discovery(found), truth, {}, measured)
    assert metric("edge_precision").of(run) == 1
    assert metric("edge_recall").of(run) == pytest.approx(1 / 3)
    assert metric("edge_f1").of(run) == pytest.approx(1 / 2)
    # above 9 false edges: all of 0.0->1.0.v and 1.0->logits, and for embed->0.0.v all but one
    assert metric("edge_auroc").of(run) == pytest.approx((9 + 9 + 8) / 27)
    assert metric("edge_auroc_pessimistic").of(run) == metric("edge_auroc").of(run)
    areas = measured["edges"]["mib"]["resample"]
    assert metric("edge_cpr_resample").of(run) == areas["cpr"]
    assert metric("edge_cmd_resample").of(run) == areas["cmd"]
    exact = measured["edges"]["exact"]["resample"]
    assert metric("edge_cmd_exact_resample").of(run) == exact["cmd"]
    assert metric("edge_cpr_greedy_resample").of(run) is not None
    assert metric("edge_cpr_zero").of(run) is None
    faith = metric("edge_faithfulness_resample").of(run)
    assert faith == pytest.approx(0.2)
    assert metric("edge_cmd_resample").better == "lower"
    assert metric("edge_cpr_resample").better == "neither"


def measure_additive(
    found: Discovery, edge_settings: EdgeSettings, quick: bool = True
) -> dict[str, Any]:
    oracle: Any = Additive()
    asked = QUICK if quick else MeasurementSettings(random_circuits=20, permutations=20)
    result = measure(oracle, found, np.random.default_rng(3), asked, edge_settings)
    assert result["cost"]["queries"] == oracle.meter.queries
    json.dumps(result, allow_nan=False)
    return result


def test_only_who_scores_edges_is_measured_on_them_and_heads_stay_as_they_are() -> None:
    found = discovery(selected_edges=frozenset(TRUTH))
    both = measure_additive(found, EdgeSettings(), quick=False)
    heads = measure_additive(replace(found, edges=None, signed_edges=None), EdgeSettings(), False)
    assert "edges" not in heads
    assert {k: v for k, v in both.items() if k not in ("edges", "cost")} == {
        k: v for k, v in heads.items() if k != "cost"
    }
    assert both["cost"]["queries"] > heads["cost"]["queries"]
    assert both["edges"]["rankings"] == {"cpr": "signed_edges", "cmd": "edges"}
    assert set(both["edges"]["mib_greedy"]) == {"zero", "mean", "resample"}


def test_minimality_and_the_tests_on_edges() -> None:
    chosen = frozenset({*TRUTH, Edge("embed", "0.0.q")})
    result = measure_additive(discovery(selected_edges=chosen), EdgeSettings(), False)["edges"]
    assert result["faithfulness"]["mean"]["value"] == pytest.approx(0.7)
    expected = {"embed->0.0.q": 0, "embed->0.0.v": 1, "0.0->1.0.v": 4, "1.0->logits": 2}
    assert result["minimality"]["edges"] == pytest.approx(expected)
    assert result["minimality"]["relative_mean"] == pytest.approx(7 / 4 / 10)
    tested = result["tests"]["minimality"]
    assert tested["edges"].keys() == expected.keys()
    assert tested["edges"]["0.0->1.0.v"] == {"effect": pytest.approx(4), "p_value": 1.0}
    assert tested["edges"]["embed->0.0.q"]["p_value"] < 0.05
    assert tested["unnecessary"][0] == "embed->0.0.q"
    assert result["tests"]["sufficiency"]["share"] > 0.9
    none = measure_additive(discovery(), EdgeSettings(), False)["edges"]
    assert none["undefined"]["tests"] == "no edge was selected"
    quick = measure_additive(discovery(selected_edges=chosen), QUICK_EDGES)["edges"]
    assert quick["undefined"]["minimality"] == "left out by the settings"
    assert set(quick["mib"]) == {"resample"}
    assert quick["mib_greedy"] == {}


class Hooked(Additive):
    """As a model that is run by hooks."""

    def __init__(self) -> None:
        super().__init__()
        del self.edges

    def __getattr__(self, name: str) -> Any:
        raise InvalidSpec("run by hooks, which know no edges")


def test_where_the_oracle_knows_no_edges_the_reason_stands() -> None:
    hooked: Any = Hooked()
    result = measure(hooked, discovery(), np.random.default_rng(0), QUICK, QUICK_EDGES)["edges"]
    assert result["mib"] == {}
    assert "know no edges" in result["undefined"]["edges"]
    optimal: Any = Additive()
    optimal.ablation = "optimal"  # replaces heads only
    found = discovery(selected_edges=TRUTH)
    result = measure(optimal, found, np.random.default_rng(0), QUICK, EdgeSettings())["edges"]
    assert result["mib"]["zero"]["cpr"] is not None
    assert result["minimality"] is None
    assert "optimal" in result["undefined"]["tests"]


ORACLE = Oracle(
    random_model(1, n_layers=2, n_heads=2, d_mlp=10, normalization="layer"),
    RandomTask(k=2),
    task_name="random",
    seed=0,
    batch_size=4,
)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), share=st.sampled_from([0.1, 0.3, 0.6]))
def test_under_resampling_dangling_edges_say_nothing(seed: int, share: float) -> None:
    graph = ORACLE.edges.graph
    mask = np.random.default_rng(seed).random(len(graph.edges)) < share
    both = torch.from_numpy(np.stack([mask, pruned(graph, mask)]))
    found = ORACLE.edges.query(both, ablation="resample", per_prompt=True)
    assert found.per_prompt_task is not None
    torch.testing.assert_close(*found.per_prompt_task, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.per_prompt_task.mean(1), found.task, atol=1e-5, rtol=0)


def test_sets_and_signs_of_edges_are_kept_and_checked() -> None:
    found = discovery(selected_edges=TRUTH)
    check_discovery(found, (2, 1))
    back = read_discovery(json.loads(json.dumps(plain_discovery(found))))
    assert (back.selected_edges, back.signed_edges) == (TRUTH, found.signed_edges)
    bare = plain_discovery(replace(found, selected_edges=None, signed_edges=None))
    assert not {"selected_edges", "signed_edges"} & bare.keys()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"selected_edges": frozenset({Edge("1.0", "0.0.q")})}, "selected edges cannot exist"),
        ({"signed_edges": edges({"embed->logits": 1.0})}, "the same edges"),
        ({"signed_edges": {**edges(RAW), Edge("1.0", "logits"): np.nan}}, "not a finite"),
    ]
    for change, why in wrong:
        with pytest.raises(RunFailed, match=why):
            check_discovery(replace(found, **change), (2, 1))
