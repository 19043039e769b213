"""The circuits of edges that ACDC is scored against: by rule, as its authors' code states them.

Conmy et al. 2023 (arXiv 2304.14997, appendix) made them from the circuits of heads of three other
papers. Edges within a head (from its query input to its query, say), which their graph has and
ours has not, are left out. ACDC's choices, not findings: of IOI all MLPs are part, with every edge
between them and the heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from circuitbench import Edge

IOI = {
    "mover": "9.9 10.0 9.6 10.10 10.6 10.2 10.1 11.2 9.7 9.0 11.9",  # with their backups
    "negative": "10.7 11.10",
    "inhibition": "7.3 7.9 8.6 8.10",
    "induction": "5.5 5.8 5.9 6.9",
    "duplicate": "0.1 0.10 3.0",
    "previous": "2.2 4.11",
}
IOI_PAIRS = {  # of different groups, only these speak to each other
    ("inhibition", "mover"),
    ("inhibition", "negative"),
    ("induction", "inhibition"),
    ("previous", "induction"),
}
GREATER_THAN = {
    "begin": "0.3 0.5",
    "duplicate": "0.1",
    "early": "m0 m1 m2 m3",
    "middle": "5.5 6.1 6.9 7.10 8.11 9.1",
    "late": "m8 m9 m10 m11",
}
GREATER_THAN_PAIRS = {
    ("duplicate", "early"),
    ("duplicate", "middle"),
    ("begin", "middle"),
    ("early", "middle"),
    ("middle", "late"),
}
DOCSTRING = """
    embed->0.5.v embed->1.4.v 0.5->1.4.v embed->1.2.q embed->1.2.k 0.5->1.2.q 0.5->1.2.k
    embed->2.0.q embed->2.0.k 0.5->2.0.q 0.5->2.0.k 1.4->2.0.v
    1.4->3.0.q embed->3.0.v 0.5->3.0.v 2.0->3.0.k 1.2->3.0.k 3.0->logits
    1.4->3.6.q embed->3.6.v 0.5->3.6.v 2.0->3.6.k 1.2->3.6.k 3.6->logits
"""


def docstring() -> frozenset[Edge]:
    """Of attn-only-4l, after Heimersheim and Janiak 2023: written out."""
    return frozenset(map(Edge.parse, DOCSTRING.split()))


def ioi() -> frozenset[Edge]:
    """Of GPT-2 small, after Wang et al. 2022 (arXiv 2211.00593)."""
    group = {node: name for name, nodes in IOI.items() for node in nodes.split()}
    nodes = ["embed", *group, *(f"m{layer}" for layer in range(12)), "logits"]

    def joined(sender: str, receiver: str) -> bool:
        one, other = group.get(sender), group.get(receiver)
        if sender == "embed":
            return other != "induction"
        return None in (one, other) or one == other or (one, other) in IOI_PAIRS

    return frozenset(_between(nodes, joined))


def greater_than() -> frozenset[Edge]:
    """Of GPT-2 small, after Hanna et al. 2023 (arXiv 2305.00586)."""
    group = {node: name for name, nodes in GREATER_THAN.items() for node in nodes.split()}
    nodes = ["embed", *group, "logits"]

    def joined(sender: str, receiver: str) -> bool:
        one, other = group.get(sender), group.get(receiver)
        if sender == "embed":
            return other in ("begin", "duplicate", "early")
        if receiver == "logits":
            return one in ("middle", "late")
        return (one == other and one in ("early", "late")) or (one, other) in GREATER_THAN_PAIRS

    # The paper leaves the queries of the middle heads whole: all MLPs before them are part.
    before = [f"m{layer}" for layer in range(9)]
    middle = GREATER_THAN["middle"].split()

    def heard(sender: str, receiver: str) -> bool:
        return sender in before and (receiver in before or receiver in middle)

    queries = {
        edge
        for edge in _between([*before, *middle], heard)
        if edge.receiver.endswith(".q") or edge.receiver in before
    }
    return frozenset(_between(nodes, joined)) | queries


TRUTHS: dict[str, Callable[[], frozenset[Edge]]] = {
    "docstring": docstring,
    "greater-than": greater_than,
    "ioi": ioi,
}


def _between(nodes: list[str], joined: Callable[[str, str], bool]) -> Iterator[Edge]:
    """The edges between nodes of which the first comes before the other."""
    for sender in nodes:
        for receiver in nodes:
            if _place(sender) < _place(receiver) and joined(sender, receiver):
                inputs = "qkv" if receiver[0].isdigit() else ""
                yield from (Edge(sender, f"{receiver}.{x}") for x in inputs)
                if not inputs:
                    yield Edge(sender, receiver)


def _place(node: str) -> float:
    """Where it stands: the embedding, each layer's heads, then its MLP, the logits."""
    if node in ("embed", "logits"):
        return -1.0 if node == "embed" else float("inf")
    return int(node[1:]) + 0.5 if node[0] == "m" else float(node.partition(".")[0])
