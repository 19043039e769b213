import pytest

from circuitbench.core.circuit import Edge
from circuitbench.core.edges import Graph, edge_count


@pytest.mark.parametrize("shape", [(1, 1, False), (2, 3, False), (3, 2, True), (12, 12, True)])
def test_edges_are_counted_without_being_made(shape: tuple[int, int, bool]) -> None:
    assert edge_count(*shape) == len(Graph(*shape).edges)


def test_every_edge_is_there_once() -> None:
    edges = Graph(2, 2, mlps=True).edges
    # embed->6 inputs, 3 senders->m0, 4 senders->6 inputs, 6 senders->m1, 7 senders->logits
    assert len(edges) == len(set(edges)) == 6 + 3 + 24 + 6 + 7
    assert len(Graph(12, 12, mlps=True).edges) == 32491  # GPT-2 small, as in Conmy et al. 2023
    assert len(Graph(2, 3, mlps=False).edges) == 9 * 1 + 9 * 4 + 7


def test_a_receiver_hears_what_was_written_before_it() -> None:
    edges = set(Graph(2, 2, mlps=True).edges)
    for heard in ("0.1->1.0.k", "0.1->m0", "m0->1.0.v", "m0->m1", "m1->logits"):
        assert Edge.parse(heard) in edges
    for unheard in ("m0->0.0.k", "1.0->1.1.q", "m0->m0", "1.0->0.0.q"):
        assert Edge.parse(unheard) not in edges
    assert not any("m" in str(e).replace("embed", "") for e in Graph(2, 2, mlps=False).edges)


def test_pairs_are_the_edges_indices() -> None:
    graph = Graph(2, 2, mlps=True)
    for (receiver, sender), edge in zip(graph.pairs, graph.edges, strict=True):
        assert edge == (graph.senders[sender], graph.receivers[receiver])
