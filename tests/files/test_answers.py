"""From a record to a file and back: the same answer; the stated projection from edges to heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from circuit_files import circuit
from oracle_kit import random_model
from synthetic_records import record

from circuitbench.core.circuit import Circuit, Edge, Head, heads_of
from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import InvalidCircuitFile, InvalidSpec
from circuitbench.evaluation.metrics import values_of
from circuitbench.evaluation.outcome import Outcome
from circuitbench.files import FORMATS, CircuitFile, Config, read, write
from circuitbench.files.records import (
    answer,
    config_of,
    external_record,
    from_record,
    read_for,
)
from circuitbench.models.base import Model
from circuitbench.results import read_record, write_record
from circuitbench.results.content import faults
from circuitbench.results.discovery import plain_discovery
from circuitbench.results.record import truth_of
from circuitbench.results.run_row import RunRow

CONFIG = Config(6, 8, True, 16)  # the shape of the synthetic records
MODEL = Model("planted", 6, 8, None)


def of_edges(**changes: Any) -> Any:
    """A record whose method listed the best half of some edges."""
    rng = np.random.default_rng(0)
    edges = [edge for edge in CONFIG.graph.edges if rng.random() < 0.5]
    found = record()
    listed = {str(edge): score for edge, score in zip(edges, rng.random(len(edges)), strict=True)}
    return record(discovery={**found.discovery, "edges": listed, **changes})


@pytest.mark.parametrize("format_", ["eap-ig-json", "eap-ig-pt"])
@pytest.mark.parametrize("edges", [True, False])
def test_a_run_comes_back_as_it_was(format_: str, edges: bool, tmp_path: Path) -> None:
    run = of_edges() if edges else record()
    path = tmp_path / f"a{FORMATS[format_].suffix}"
    write(from_record(run, CONFIG), path, format_)
    back = plain_discovery(answer(read_for(path, MODEL)).discovery)
    for key in ("scores", "selected", "edges"):
        assert back[key] == run.discovery[key]


def test_all_metrics_of_edges_survive_a_table(tmp_path: Path) -> None:
    run = of_edges()
    write(from_record(run, CONFIG), tmp_path / "a.csv", "csv")
    found = answer(read_for(tmp_path / "a.csv", MODEL))
    truth = {**run.truth, "edges": sorted(run.discovery["edges"])[:20]}
    ours = Outcome(run.discovery, truth, {}, {}).edge_ranking
    theirs = Outcome(plain_discovery(found.discovery), truth, {}, {}).edge_ranking
    assert ours is not None
    assert theirs is not None
    assert vars(ours).keys() == vars(theirs).keys()
    assert repr(ours) == repr(theirs)


def test_edges_that_were_not_listed_rank_last() -> None:
    run = of_edges(edges={"embed->0.0.q": -1.0, "embed->0.0.k": -2.0})
    scores = from_record(run, CONFIG).edge_scores
    assert scores is not None
    assert sorted(set(scores)) == [-3.0, -2.0, -1.0]
    with pytest.raises(InvalidCircuitFile, match=r"the record scores embed->9\.9\.q"):
        from_record(of_edges(edges={"embed->9.9.q": 1.0}), CONFIG)


def test_a_record_of_heads_shows_the_edges_between_them() -> None:
    run = record()
    found = from_record(run, CONFIG)
    assert found.parts == ("node_scores", "nodes_in")
    heads = set(run.discovery["selected"])
    out = {f"{h.layer}.{h.head}" for h in heads_of(np.ones((6, 8), dtype=bool))} - heads
    for edge, shown in zip(CONFIG.graph.edges, found.shown_edges, strict=True):
        assert shown == (edge.sender not in out and edge.receiver[:3] not in out)


def test_without_the_model_edges_must_show_whether_there_are_mlps() -> None:
    assert from_record(of_edges(edges={"embed->0.0.q": 1.0}), None).config == Config(6, 8, False)
    assert from_record(of_edges(edges={"m0->logits": 1.0}), None).config == Config(6, 8, True)
    with pytest.raises(InvalidSpec, match="whether it has MLPs"):
        from_record(record(), None)
    with pytest.raises(InvalidSpec, match="no answer to write"):
        from_record(record(status="failed", reason="x", discovery={}), CONFIG)


def test_signed_scores_are_written_where_a_method_has_them() -> None:
    signed = np.random.default_rng(1).normal(size=(6, 8))
    run = record(discovery={**record().discovery, "scores": np.abs(signed), "signed": signed})
    found = from_record(run, CONFIG)
    assert found.ranking == "absolute"
    back = answer(found).discovery
    assert np.array_equal(back.scores, np.abs(signed))
    assert back.signed is not None
    assert np.array_equal(back.signed, signed)


def test_a_heads_score_is_the_largest_absolute_one_of_its_edges() -> None:
    config = Config(2, 2, mlps=False)
    scores = dict.fromkeys(config.graph.edges, 0.0)
    scores[Edge("0.0", "1.1.k")] = -3.0
    scores[Edge("embed", "0.1.q")] = 2.0
    scores[Edge("embed", "logits")] = 9.0
    found = answer(CircuitFile(config, edge_scores=np.array(list(scores.values()))))
    assert found.discovery.scores.tolist() == [[3.0, 2.0], [0.0, 3.0]]
    assert found.discovery.selected == frozenset()
    assert found.discovery.edges == {
        Edge("0.0", "1.1.k"): 3.0,
        Edge("embed", "0.1.q"): 2.0,
        Edge("embed", "logits"): 9.0,
    }
    best = answer(CircuitFile(config, edge_scores=np.array(list(scores.values()))), top=2)
    assert best.discovery.selected == {Head(0, 0), Head(1, 1)}
    assert best.edges_in is not None
    assert best.edges_in.sum() == 2


def test_a_head_is_in_if_any_of_its_edges_is() -> None:
    config = Config(2, 2, mlps=True)
    inside = np.array([edge == Edge("0.1", "m1") for edge in config.graph.edges])
    found = answer(CircuitFile(config, edges_in=inside, nodes_in=np.ones(config.n_nodes)))
    assert found.discovery.selected == {Head(0, 1)}
    assert found.discovery.scores.tolist() == [[0, 1], [0, 0]]


def test_signed_ranking_takes_scores_as_they_are() -> None:
    config = Config(1, 2, mlps=False)
    scores = np.array([-5.0, 0, 0, 1.0, 0, 0, 0, 0, 0])
    found = answer(CircuitFile(config, edge_scores=scores, ranking="signed"))
    assert found.discovery.scores.tolist() == [[0, 1]]
    assert answer(CircuitFile(config, edge_scores=scores)).discovery.scores.tolist() == [[5, 1]]


def test_scores_of_some_heads_only_are_refused() -> None:
    config = Config(1, 2, mlps=False)
    with pytest.raises(InvalidCircuitFile, match=r"head 0\.1 has no score"):
        answer(CircuitFile(config, node_scores=np.array([np.nan, 1.0, np.nan])))
    for top in (0, 3):
        with pytest.raises(InvalidCircuitFile, match="top must be 1 to 2 heads"):
            answer(CircuitFile(config, node_scores=np.array([np.nan, 1.0, 2.0])), top)


def test_a_grouped_query_model_counts_its_query_heads(tmp_path: Path) -> None:
    model = random_model(n_kv_heads=2, d_mlp=8)
    config = config_of(model)
    assert config == Config(3, 4, True, 16)
    found = circuit(config)
    write(found, tmp_path / "a.pt", "eap-ig-pt")
    assert read_for(tmp_path / "a.pt", model) == found
    with pytest.raises(InvalidCircuitFile, match=r"a\.pt: .*random has 2 x 4"):
        read_for(tmp_path / "a.pt", random_model(n_layers=2))


def test_edges_are_held_against_the_truth_without_mlps_it_does_not_speak_of() -> None:
    config = Config(1, 1, mlps=True)
    true = Edge("embed", "0.0.q")
    inside = np.array([edge == true or "m0" in edge for edge in config.graph.edges])
    truth = truth_of(Circuit({}, "invented", "constructed", edges=frozenset({true})))
    found = answer(CircuitFile(config, edges_in=inside)).discovery
    overlap = Outcome(plain_discovery(found), truth, {}, {}).edge_overlap
    assert overlap is not None
    assert (overlap.selected, overlap.both, overlap.items) == (1, 1, 5)
    assert answer(CircuitFile(config, edge_scores=inside)).discovery.selected_edges is None


def test_an_imported_circuit_is_a_record_that_holds_together(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write(from_record(of_edges(), CONFIG), path, "eap-ig-json")

    def imported(**choices: Any) -> Any:
        return external_record(
            answer(read(path)),
            path,
            task="ioi",
            model=MODEL,
            method="elsewhere",
            truth=record().truth,
            choices=choices,
        )

    stored = read_record(write_record(imported(ranking="signed", top=None), tmp_path / "out"))
    assert stored.external
    assert not record().external
    assert faults(stored) == []
    assert stored.costs == {}
    assert stored.spec["external"].keys() == {"file", "sha256", "ranking"}
    assert str(tmp_path) not in str(stored.content())
    assert stored.run_id != imported(ranking="absolute").run_id  # a choice that changes numbers
    values, errors = values_of(Outcome(stored.discovery, stored.truth, stored.costs, {}))
    assert not errors
    assert values["average_precision"] == RunRow.of(stored).values["average_precision"]
    assert "queries" not in values
    assert RunRow.of(stored).external


def test_discoveries_are_plain(tmp_path: Path) -> None:
    found = answer(circuit(CONFIG)).discovery
    assert isinstance(found, Discovery)
    assert plain_discovery(found)["info"] == {"edges_in": int(circuit(CONFIG).edges_in.sum())}  # type: ignore[union-attr]


@pytest.mark.parametrize("format_", ["eap-ig-json", "eap-ig-pt"])
def test_committed_edges_and_signs_survive_a_file(tmp_path: Path, format_: str) -> None:
    signed = {"embed->0.0.q": -3.0, "0.0->logits": 2.0, "embed->1.2.v": 1.0}
    run = of_edges(
        scores=np.zeros((6, 8)).tolist(),
        edges={edge: abs(score) for edge, score in signed.items()},
        signed_edges=signed,
        selected_edges=["0.0->logits", "embed->0.0.q"],
    )
    path = tmp_path / f"a{FORMATS[format_].suffix}"
    write(from_record(run, CONFIG), path, format_)
    found = answer(read(path)).discovery
    assert found.signed_edges is not None
    assert found.edges is not None
    assert found.selected_edges is not None
    assert {str(edge): score for edge, score in found.signed_edges.items()} == signed
    assert {str(edge): score for edge, score in found.edges.items()} == run.discovery["edges"]
    assert sorted(map(str, found.selected_edges)) == run.discovery["selected_edges"]
