"""The comparison with peers, as far as it goes without them."""

from typing import Any

import numpy as np
import pytest
import torch
from scripts import load_script

from circuitbench.core.circuit import Edge
from circuitbench.models import Model
from circuitbench.oracle import Oracle
from circuitbench.runs.prepare import load_method


@pytest.fixture(scope="module")
def peers() -> Any:
    return load_script("peers")


def oracle_of(peers: Any) -> Any:
    model = peers.random_transformer(3)
    return Oracle(
        Model("peers", 2, 3, model), peers.RandomPrompts(), task_name="p", seed=0, batch_size=4
    )


def test_the_worst_difference_and_scores_of_other_edges(peers: Any) -> None:
    one, two = Edge("embed", "logits"), Edge("0.0", "logits")
    assert peers.worst({one: 1.0, two: -2.0}, {one: 1.5, two: -2.25}) == 0.5
    assert peers.worst({one: 1.0}, {one: 1.0, two: 0.0}) == float("inf")
    assert peers.worst({}, {}) == 0.0


def test_edges_are_spelled_as_auto_circuit_does(peers: Any) -> None:
    spelled = {
        "embed->0.1.q": "Resid Start->A0.1.Q",
        "0.1->1.2.v": "A0.1->A1.2.V",
        "m0->m1": "MLP 0->MLP 1",
        "m1->logits": "MLP 1->Resid End",
    }
    assert {text: peers.peer_edge(Edge.parse(text)) for text in spelled} == spelled


def test_the_formula_written_out_equals_the_oracle(peers: Any) -> None:
    oracle = oracle_of(peers)
    edges, prompts = oracle.edges.edges, oracle.batch.source.prompts
    slope = oracle.edges.gradient(torch.ones(1, len(edges)), ablation="resample")[0]
    ours = dict(zip(edges, slope.tolist(), strict=True))
    written = peers.written_out(peers.random_transformer(3), prompts, (1.0,))
    assert peers.worst(ours, written) < 1e-5
    assert peers.worst(ours, peers.written_out(peers.random_transformer(3), prompts, (0.5,))) > 1e-3


def test_the_order_handed_over_is_the_one_acdc_visits(peers: Any) -> None:
    """Where every edge is tried alone and kept, what is asked shows the order."""
    oracle = oracle_of(peers)
    asked: list[int] = []
    answer = oracle.edges.query

    def watch(masks: Any, **options: Any) -> Any:
        asked.extend(int(i) for i in np.argwhere(~masks.numpy())[:, 1])
        return answer(masks, **options)

    oracle.edges.query = watch
    load_method("acdc-edges", threshold=1e-30).discover(oracle, np.random.default_rng(0))
    order = [oracle.edges.edges[i] for i in dict.fromkeys(asked)]
    expected = peers.acdc_order(oracle.edges.edges)
    assert len(order) > len(expected) // 2
    tried = set(order)
    assert order == [edge for edge in expected if edge in tried]


def test_integrated_gradients_sum_to_the_difference_of_the_metric(peers: Any) -> None:
    *_, figure, good = peers.summed_row(peers.random_transformer(3), oracle_of(peers))
    assert good == "yes", figure
