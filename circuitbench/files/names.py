"""What other tools call the nodes and edges that we call ``embed``, ``0.1``, ``2.3.q``, ``m3``.

====================  =====================  ====================
ours                  EAP-IG, MIB            auto-circuit
====================  =====================  ====================
``embed``             ``input``              ``Resid Start``
``0.1``               ``a0.h1``              ``A0.1``
``2.3.q``             ``a2.h3<q>``           ``A2.3.Q``
``m3``                ``m3``                 ``MLP 3``
``logits``            ``logits``             ``Resid End``
``0.1->2.3.q``        ``a0.h1->a2.h3<q>``    ``A0.1->A2.3.Q``
====================  =====================  ====================
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import lru_cache

from circuitbench.core.circuit import Edge
from circuitbench.core.errors import InvalidCircuitFile

_NUMBER = "(0|[1-9][0-9]*)"
_OURS_HEAD = re.compile(rf"{_NUMBER}\.{_NUMBER}(?:\.([qkv]))?")
_EAP_HEAD = re.compile(rf"a{_NUMBER}\.h{_NUMBER}(?:<([qkv])>)?")
_AUTO_HEAD = re.compile(rf"A{_NUMBER}\.{_NUMBER}(?:\.([QKV]))?")
_MLP = re.compile(rf"m{_NUMBER}")
_AUTO_MLP = re.compile(rf"MLP {_NUMBER}")


# A model has few nodes and each is named in many edges.
_remembered = lru_cache(maxsize=8192)


@_remembered
def to_eap_ig(node: str) -> str:
    """A node or a head's input as EAP-IG and MIB write it."""
    if node == "embed":
        return "input"
    head = _OURS_HEAD.fullmatch(node)
    if head is None:
        return node
    layer, index, letter = head.groups()
    return f"a{layer}.h{index}" + (f"<{letter}>" if letter else "")


@_remembered
def from_eap_ig(node: str) -> str:
    """The reverse of :func:`to_eap_ig`; raises :class:`InvalidCircuitFile` on no such name."""
    if node in ("input", "logits"):
        return "embed" if node == "input" else node
    head = _EAP_HEAD.fullmatch(node)
    if head is not None:
        layer, index, letter = head.groups()
        return f"{layer}.{index}" + (f".{letter}" if letter else "")
    if _MLP.fullmatch(node):
        return node
    raise InvalidCircuitFile(f"not a node of EAP-IG: {node!r}; e.g. input, a0.h1, m3, logits")


@_remembered
def to_auto_circuit(node: str) -> str:
    """A node or a head's input as auto-circuit writes it."""
    if node in ("embed", "logits"):
        return "Resid Start" if node == "embed" else "Resid End"
    head = _OURS_HEAD.fullmatch(node)
    if head is None:
        return f"MLP {node[1:]}"
    layer, index, letter = head.groups()
    return f"A{layer}.{index}" + (f".{letter.upper()}" if letter else "")


def from_auto_circuit(node: str) -> str:
    """The reverse of :func:`to_auto_circuit`; raises :class:`InvalidCircuitFile`."""
    if node in ("Resid Start", "Resid End"):
        return "embed" if node == "Resid Start" else "logits"
    head = _AUTO_HEAD.fullmatch(node)
    if head is not None:
        layer, index, letter = head.groups()
        return f"{layer}.{index}" + (f".{letter.lower()}" if letter else "")
    mlp = _AUTO_MLP.fullmatch(node)
    if mlp is not None:
        return f"m{mlp[1]}"
    raise InvalidCircuitFile(
        f"not a node of auto-circuit: {node!r}; e.g. Resid Start, A0.1, MLP 3, Resid End"
    )


@_remembered
def from_any(node: str) -> str:
    """A node in our own, EAP-IG's or auto-circuit's words, in ours."""
    if node in ("embed", "logits") or _OURS_HEAD.fullmatch(node) or _MLP.fullmatch(node):
        return node
    for read in (from_eap_ig, from_auto_circuit):
        try:
            return read(node)
        except InvalidCircuitFile:
            continue
    raise InvalidCircuitFile(f"not a node: {node!r}; e.g. embed, 0.1, m3, logits")


def edge_to_eap_ig(edge: Edge) -> str:
    """An edge as EAP-IG and MIB write it, e.g. ``a0.h1->a2.h3<q>``."""
    return f"{to_eap_ig(edge.sender)}->{to_eap_ig(edge.receiver)}"


def edge_to_auto_circuit(edge: Edge) -> str:
    """An edge as auto-circuit writes it, e.g. ``A0.1->A2.3.Q``."""
    return f"{to_auto_circuit(edge.sender)}->{to_auto_circuit(edge.receiver)}"


def edge_from_any(text: str) -> Edge:
    """An edge in anybody's words; raises :class:`InvalidCircuitFile` on no such edge."""
    sender, arrow, receiver = text.partition("->")
    if not arrow:
        raise InvalidCircuitFile(f"not an edge: {text!r}; e.g. 0.1->2.3.q")
    return Edge(from_any(sender), from_any(receiver))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """What to say of a node or edge that the model lacks; names the nearest that it has."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"unknown {kind} {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")
